"""What was answered about pictures, as PNG files: the classes named most often, and samples beside training pictures."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hashret.data.table import PictureTable
from hashret.evaluation.strangers import STRANGER
from hashret.sheets import SheetPicture, SheetRow, contact_sheet
from hashret.sheets.fonts import packaged_font

MOST_BARS = 25
SAMPLES = 12
EXAMPLES = 4
"""Training pictures beside a sample."""
_BAR, _STRANGERS = "#0072b2", "#d55e00"
"""Blue and vermilion of the Okabe-Ito palette."""


def predicted_classes(lists: Sequence[Sequence[str]], path: Path) -> None:
    """Write a bar chart of the classes that come first most often, the 25 most of them, the stranger class in another colour."""
    counted = Counter(classes[0] for classes in lists if classes)
    most = counted.most_common(MOST_BARS)
    others = len(counted) - len(most)
    with mpl.rc_context(
        {"text.parse_math": False, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(7, 1.1 + 0.24 * max(1, len(most))), dpi=150, layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(most))
        counts = [count for _, count in most]
        axes.barh(places, counts, color=[_STRANGERS if name == STRANGER else _BAR for name, _ in most])
        for place, count in zip(places, counts, strict=True):
            axes.annotate(
                f"{count:,} · {100 * count / len(lists):.1f} %", (count, place), (3, 0), textcoords="offset points",
                va="center", fontsize=8, color="#444444",
            )  # fmt: skip
        names = [f"{name} (of no class)" if name == STRANGER else _short(name) for name, _ in most]
        font = packaged_font()
        axes.set_yticks(places, names, fontproperties=FontProperties(fname=font, size=9) if font else None)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel(f"pictures whose list begins with the class, of {len(lists):,}")
        more = f"; {others:,} more classes are first at least once" if others else ""
        axes.set_title(f"Most predicted classes{more}", loc="left", fontsize=10)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # an emoji, say: a box stands for it
            figure.savefig(path, metadata={"Software": None})


def predicted_against_training(
    pictures: PictureTable,
    lists: Sequence[Sequence[str]],
    examples: Mapping[str, Sequence[SheetPicture]],
    seed: int = 0,
) -> Image.Image:
    """Samples of the pictures, drawn with the seed, each beside training pictures of the class that is answered first.

    examples: training pictures by class. Of a sample that is called a stranger, those of the class that comes next are shown. A
    class is marked right or wrong where the picture has labels.
    """
    shown = np.sort(np.random.default_rng(seed).permutation(len(pictures))[:SAMPLES])
    truths_NC, names = pictures.label_matrix()
    rows = []
    for row in shown.tolist():
        truths = {names[c] for c in np.flatnonzero(truths_NC[row])}
        answered = lists[row]
        named = next((name for name in answered if name != STRANGER), None)
        right = named in truths if truths else None
        beside = [
            SheetPicture(each.picture, each.caption, right, each.box)
            for each in examples.get(named or "", ())[:EXAMPLES]
        ]
        caption = ["called of no class" if answered[:1] == [STRANGER] else "predicted", ", ".join(answered)]
        rows.append(SheetRow(SheetPicture(pictures.paths[row], caption, None, pictures.box(row)), beside))
    return contact_sheet(
        rows, picture_side=120, title="Left: predicted pictures · right: training pictures of the first class"
    )


def examples_of(training: PictureTable, per_class: int = EXAMPLES) -> dict[str, list[SheetPicture]]:
    """The first training pictures of each class."""
    flags_NC, names = training.label_matrix()
    return {
        name: [
            SheetPicture(training.paths[row], [name], None, training.box(row))
            for row in np.flatnonzero(flags_NC[:, c])[:per_class].tolist()
        ]
        for c, name in enumerate(names)
    }


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
