"""Curves, bars and maps as SVG text that stands in a page: its colours and fonts are the page's, in light and in dark.

The same numbers give the same bytes. Shape suffixes: K bits, D distances.
"""

from __future__ import annotations

import html
import io
import re
import warnings
import zlib
from collections.abc import Sequence
from colorsys import hls_to_rgb
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from hashret.report.bits import DistanceCounts
from hashret.report.history import Panel
from hashret.report.ranking import Floats, Integers

_INK, _FADED, _LINE = "#010203", "#040506", "#070809"
_SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
_STAND_INS = {
    _INK: "var(--ink)",
    _FADED: "var(--faded)",
    _LINE: "var(--line)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES, 1)},
}
"""Colours that nothing else has; in the SVG the page's own take their place."""

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Curves differ by dashes as well as by colour."""
_MARKS = ("o", "s", "^", "D")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hashret",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _FADED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _FADED,
    "xtick.labelcolor": _INK,
    "ytick.color": _FADED,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
MOST_CELLS = 256
"""Rows and columns of a map at most; larger ones show the extreme of several cells as one."""
MOST_POINTS = 1500
_STEPS = [1, 2, 5, 10]
"""Ticks are at multiples of these times a power of ten."""

_DIVERGING = LinearSegmentedColormap.from_list(
    "blue to orange", ["#0b5394", "#6fa8dc", "#f7f7f7", "#e69138", "#8a3b00"]
)


def curves(panel: Panel, epochs: Sequence[int], best_epoch: int | None) -> str:
    """The curves of a panel over the epochs; a dashed line marks the best epoch."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes(3.4, 2.2)
        for i, curve in enumerate(panel.curves):
            colour, dashes = _SERIES[i % len(_SERIES)], _DASHES[i % len(_DASHES)]
            # A point between gaps has no line; so few epochs are points as well.
            mark = _MARKS[i % len(_MARKS)] if len(epochs) <= 12 or np.isnan(curve.values).any() else None
            axes.plot(epochs, curve.values, color=colour, linestyle=dashes, marker=mark, label=curve.title)
        if best_epoch is not None and best_epoch in epochs:
            axes.axvline(best_epoch, color=_FADED, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(_whole_numbers(6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        axes.margins(y=0.08)
        axes.set_ylim(bottom=_bottom([value for curve in panel.curves for value in curve.values]))
        if len(panel.curves) > 1:
            _legend(axes, columns=3)
        courses = "; ".join(_course(curve.title, curve.values) for curve in panel.curves)
        return _svg(figure, f"{panel.title} over the epochs: {courses}")


def balance(balance_K: Floats) -> str:
    """The share of ones of each bit, as bars from one half."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes(7.0, 2.2)
        axes.stairs(
            balance_K, np.arange(len(balance_K) + 1) - 0.5, baseline=0.5, fill=True, color=_SERIES[0], linewidth=0
        )
        axes.axhline(0.5, color=_INK, linewidth=0.8)
        axes.set(ylim=(0, 1), xlim=(-0.5, len(balance_K) - 0.5), xlabel="bit", ylabel="share of ones")
        axes.xaxis.set_major_locator(_whole_numbers(9))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        low, high = float(balance_K.min()), float(balance_K.max())
        return _svg(figure, f"Share of ones of each of {len(balance_K)} bits, from {low:.2f} to {high:.2f}")


def correlation_map(correlation_KK: Floats) -> str:
    """The correlation of every two bits as a map from blue (-1) over white to orange (1)."""
    shown, cells = _pooled(correlation_KK)
    with mpl.rc_context({**_SETTINGS, "axes.grid": False}):
        figure, axes = _axes(4.2, 3.5)
        last = len(correlation_KK) - 0.5
        colours = _DIVERGING.with_extremes(bad="#9a9a9a")
        drawn = axes.imshow(shown, cmap=colours, vmin=-1, vmax=1, interpolation="none", extent=(-0.5, last, last, -0.5))
        axes.set(xlabel="bit", ylabel="bit")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(_whole_numbers(6))
        bar = figure.colorbar(drawn, ax=axes, ticks=[-1, -0.5, 0, 0.5, 1], shrink=0.9)
        bar.outline.set_edgecolor(_FADED)
        bar.set_label("correlation")
        each = "" if cells == 1 else f"; a cell shows the strongest of {cells} × {cells}"
        return _svg(figure, f"Map of the correlation of every two of {len(correlation_KK)} bits{each}")


def distances(counts: DistanceCounts) -> str:
    """Shares of pairs at each distance, of one class and of two."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes(4.2, 2.6)
        edges = np.arange(len(counts.same_D) + 1) - 0.5
        for i, (name, each) in enumerate((("same class", counts.same_D), ("different classes", counts.other_D))):
            shares = each / max(1, each.sum())
            axes.stairs(shares, edges, fill=True, color=_SERIES[i], alpha=0.25, linewidth=0)
            axes.stairs(shares, edges, color=_SERIES[i], linewidth=1.6, linestyle=_DASHES[i], label=name)
        axes.set(xlabel="Hamming distance in bits", ylabel="share of pairs", xlim=(-0.5, len(counts.same_D) - 0.5))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(_whole_numbers(8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        _legend(axes, columns=2)
        means = [f"{(np.arange(len(each)) * each).sum() / max(1, each.sum()):.1f}" for each in counts]
        return _svg(figure, f"Distances of pairs: {means[0]} bits on average in one class, {means[1]} between classes")


def activations(counts: Integers) -> str:
    """How many activations lie where between -1 and 1."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes(4.2, 2.6)
        shares = counts / max(1, counts.sum())
        axes.stairs(shares, np.linspace(-1, 1, len(counts) + 1), fill=True, color=_SERIES[0], linewidth=0)
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set(xlabel="activation, before it becomes a bit", ylabel="share", xlim=(-1, 1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        middle = slice(len(counts) // 4, len(counts) - len(counts) // 4)
        return _svg(figure, f"Activations from -1 to 1; {shares[middle].sum():.0%} lie between -0.5 and 0.5")


def float_against_binary(float_Q: Floats, binary_Q: Floats) -> str:
    """A point a query: average precision by features across, by codes up. NaN is left out, and all beyond MOST_POINTS."""
    known = np.flatnonzero(~np.isnan(float_Q) & ~np.isnan(binary_Q))
    known = (
        known[np.linspace(0, len(known) - 1, min(len(known), MOST_POINTS)).astype(np.int64)] if len(known) else known
    )
    with mpl.rc_context(_SETTINGS):
        figure, axes = _axes(3.6, 3.4)
        axes.plot([0, 1], [0, 1], color=_FADED, linewidth=1, linestyle=_DASHES[1])
        axes.scatter(float_Q[known], binary_Q[known], s=9, color=_SERIES[0], alpha=0.45, linewidths=0)
        axes.set(xlabel="AP by float features", ylabel="AP by codes", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        below = float((binary_Q[known] < float_Q[known]).mean()) if len(known) else 0.0
        return _svg(
            figure, f"Average precision of each query by features and by codes; for {below:.0%} codes are worse"
        )


class Line(NamedTuple):
    """A named curve; points: squares at its places instead of a line through them."""

    name: str
    x: Floats
    y: Floats
    points: bool = False


def precision_recall(lines: Sequence[Line], ranked_by: str) -> str:
    """Precision up, recall across. NaN is left out. ranked_by: for those who do not see the chart."""
    with mpl.rc_context(_SETTINGS):
        figure, axes, columns = _named_axes([line.name for line in lines], 3.2)
        _draw(axes, lines, columns)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        said = "; ".join(f"{line.name}: {_precision_at(line, 0.5)}" for line in lines)
        return _svg(figure, f"Precision against recall, ranked by {ranked_by}. {said}")


def hits(lines: Sequence[Line], ranked_by: str) -> str:
    """The share of queries with a right picture among the first k, k across, on a logarithmic axis."""
    with mpl.rc_context(_SETTINGS):
        figure, axes, columns = _named_axes([line.name for line in lines], 3.2)
        _draw(axes, lines, columns)
        last = max(2.0, *(float(line.x.max()) for line in lines))
        axes.set(xscale="log", xlabel="k", ylabel="hit@k", xlim=(1, last))
        shown = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= last]
        axes.set_xticks(shown, [str(k) for k in shown])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        axes.set_ylim(bottom=_bottom([float(line.y.min()) for line in lines] + [1.0]), top=1.01)
        said = "; ".join(f"{line.name}: {line.y[0]:.3f} at 1, {line.y[-1]:.3f} at {line.x[-1]:.0f}" for line in lines)
        return _svg(figure, f"Share of queries with a right picture among the first k, ranked by {ranked_by}. {said}")


class Point(NamedTuple):
    """A score of codes of so many bits, with its interval."""

    name: str
    bits: float
    score: float
    interval: tuple[float, float]


def sizes(points: Sequence[Point], score: str) -> str:
    """Scores over code sizes, on a logarithmic axis, with their intervals."""
    with mpl.rc_context(_SETTINGS):
        figure, axes, columns = _named_axes([point.name for point in points], 2.8)
        for i, point in enumerate(points):
            (low, high), colour = point.interval, _SERIES[i % len(_SERIES)]
            axes.plot([point.bits] * 2, [low, high], color=colour, linewidth=1.2)
            axes.plot(
                point.bits,
                point.score,
                color=colour,
                linestyle="",
                marker=_MARKS[i % 4],
                markersize=6,
                label=point.name,
            )
        bits = sorted({point.bits for point in points})
        axes.set(xscale="log", xlabel="bits", ylabel=score, xlim=(bits[0] / 1.3, bits[-1] * 1.3))
        axes.set_xticks(bits, [f"{each:.0f}" for each in bits])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        axes.margins(y=0.1)
        _legend(axes, columns)
        said = "; ".join(f"{point.name}, {point.bits:.0f} bits: {point.score:.4f}" for point in points)
        return _svg(figure, f"{score} by code size. {said}")


CLASS_COLOURS = tuple(to_hex(hls_to_rgb((0.58 + 0.45 * i) % 1, (0.42, 0.58)[i // 10], 0.75)) for i in range(20))
"""Twenty that stand out on white and on black, those next to each other far apart on the wheel."""
CLASS_MARKS = {"o": "●", "^": "▲", "s": "■", "D": "◆"}
_PALE = "#9a9a9a"


def places(places_P2: Floats, groups_P: Integers, n_groups: int, description: str) -> str:
    """Points on a plane, coloured by group: a wheel of colours, or up to 20 colours and marks that differ; -1 is pale and behind.

    The points are one picture within the SVG, whose colours are the same in light and in dark.
    """
    with mpl.rc_context({**_SETTINGS, "axes.grid": False}):
        figure, axes = _axes(4.2, 3.6)
        axes.set_axis_off()
        size = float(np.clip(9000 / max(1, len(places_P2)), 3, 22))
        behind = groups_P < 0
        _scatter(axes, places_P2[behind], s=size / 2, c=_PALE, alpha=0.25)
        if n_groups <= len(CLASS_COLOURS):
            for group in range(n_groups):
                _scatter(
                    axes,
                    places_P2[groups_P == group],
                    s=size,
                    c=CLASS_COLOURS[group],
                    marker=class_mark(group),
                    alpha=0.8,
                )
        else:
            # Two colours that stand side by side on the wheel are classes that stand far apart by name.
            hues = (groups_P[~behind] * 0.618034) % 1
            colours = [hls_to_rgb(hue, 0.5, 0.75) for hue in hues.tolist()]
            _scatter(axes, places_P2[~behind], s=size, c=colours, alpha=0.7)
        return _svg(figure, description)


def _scatter(axes: Axes, places_P2: Floats, **how: Any) -> None:
    """Points as pixels: as shapes they would be most of the page."""
    axes.scatter(places_P2[:, 0], places_P2[:, 1], linewidths=0, rasterized=True, **how)


def class_mark(group: int) -> str:
    """The mark by which a group differs from those of a like colour."""
    return tuple(CLASS_MARKS)[group % len(CLASS_MARKS)]


def _draw(axes: Axes, lines: Sequence[Line], columns: int) -> None:
    """The lines, each with a colour and dashes of its own, and their names."""
    for i, line in enumerate(lines):
        colour, dashes = _SERIES[i % len(_SERIES)], _DASHES[(i + i // len(_SERIES)) % len(_DASHES)]
        how: dict[str, Any] = (
            {"linestyle": "", "marker": "s", "markersize": 3} if line.points else {"linestyle": dashes}
        )
        axes.plot(line.x, line.y, color=colour, label=line.name, **how)
    _legend(axes, columns)


def _named_axes(names: Sequence[str], height_inches: float) -> tuple[Figure, Axes, int]:
    """A figure that is as much higher as the rows of these names need, and how many of them stand side by side."""
    columns = max(1, 48 // (max(map(len, names)) + 5))
    return *_axes(4.2, height_inches + 0.18 * (-(-len(names) // columns) - 1)), columns


def _precision_at(line: Line, recall: float) -> str:
    """The precision at the first point that reaches a recall, in words."""
    reached = np.flatnonzero((line.x >= recall) & ~np.isnan(line.y))
    return (
        f"precision {line.y[reached[0]]:.3f} at recall {line.x[reached[0]]:.2f}" if len(reached) else "no such recall"
    )


def _axes(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure((width_inches, height_inches), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _whole_numbers(most: int) -> MaxNLocator:
    return MaxNLocator(nbins=most, integer=True, min_n_ticks=1, steps=_STEPS)


def _bottom(values: Sequence[float]) -> float | None:
    """Where an axis begins: at 0, unless all values lie in the upper half above it, or some below; None leaves it open."""
    known = [value for value in values if not np.isnan(value)]
    return 0.0 if 0 <= min(known) <= max(known) / 2 else None


def _legend(axes: Axes, columns: int) -> None:
    """The names of the curves, above the axes where no curve runs."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=columns, columnspacing=1.0, borderpad=0)


def _pooled(values_KK: Floats) -> tuple[Floats, int]:
    """The map with at most MOST_CELLS rows, and how many rows became one: of their cells the strongest is kept."""
    cells = -(-len(values_KK) // MOST_CELLS)
    if cells == 1:
        return values_KK, 1
    side = -(-len(values_KK) // cells)
    padded = np.full((side * cells, side * cells), np.nan)
    padded[: len(values_KK), : len(values_KK)] = values_KK
    blocks = padded.reshape(side, cells, side, cells).transpose(0, 2, 1, 3).reshape(side, side, -1)
    strongest = np.nan_to_num(np.abs(blocks), nan=-1).argmax(axis=2)
    return np.take_along_axis(blocks, strongest[:, :, None], axis=2)[:, :, 0], cells


def _course(title: str, values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{title} from {known[0]:.4g} to {known[-1]:.4g}, lowest {min(known):.4g}, highest {max(known):.4g}"


def _svg(figure: Figure, description: str) -> str:
    """The figure as an <svg> element for HTML, `description` its text for those who do not see it."""
    file = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text, so it is the browser that needs the glyphs; here their widths are guessed.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    # A style element in a page holds for all of the page; style.css says the same of charts.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    opening = (
        f'<svg class="chart" role="img" viewBox="0 0 {box[1]} {box[2]}" style="max-width:{float(box[1]) / 12:.2f}em" '
        f'aria-label="{html.escape(description)}">'
    )
    text = opening + text[text.index(">") + 1 :]
    text = text.replace("xlink:href", "href")
    # Groups are numbered anew in each figure, and would meet in the page; what is referred to gets a name of its own.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    own_name = f"c{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own_name}", text)
    # matplotlib before 3.11 writes size and family in one.
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]+", r"font: \1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", text)
    for colour, own in _STAND_INS.items():
        text = text.replace(colour, own)
    return re.sub(r"\s*\n\s*", "\n", text)
