"""How long does a user wait: from a picture to an answer, and from a code to an answer?

What to expect. Resident in one process, a picture costs its decoding and the network, milliseconds, and the search less than
that until there are tens of millions of codes. From the shell, starting Python, torch and the model outweighs all of it; a
bare code needs neither. Kernels are compiled once on a machine; later processes load them.

How it is measured: pictures of one split against an index of that split. hit@1 is of every one of them among all others, the
exact expectation over tie orders; times are of some of them, one after the other, each step apart and the ways in turns, once
compiled kernels are loaded. Larger galleries hold random codes and directions, as only their time matters, and are mapped from
an index folder, as they are in use. Commands from the shell alternate; their steps are timed in the running command itself
(cold.py). The files lie in the system's cache. Searches take all cores that the process may use.

Run: python benchmarks/latency.py --model RUN --data TABLE [--split test] [--quick] [--json] [--markdown docs/latency.md]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cold
import machine
import numpy as np
import ways
from ways import WARM_UP, K, Queries

from hashret.errors import HashretError

PACKAGES = ("hashret", "numpy", "numba", "llvmlite", "torch", "pillow")
RERANK = 100
CODE_SIZE, DIM = 64, 512
"""Of the codes and features in galleries that are made up."""
MOST_FEATURE_BYTES = 1 << 32
"""Features that are made up take so much memory at most, here and on a user's machine."""
CHUNK_ROWS = 1 << 20
"""Features made up at a time."""
Times = dict[str, float]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="a trained run, its folder")
    parser.add_argument("--data", required=True, help="a table of pictures")
    parser.add_argument("--split", default="test", help="the split that is index and queries (default test)")
    parser.add_argument(
        "--quick", action="store_true", help="few pictures, small galleries, few commands: under a minute"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", help="codes in galleries that are made up (default: 1 to 100 million)"
    )
    parser.add_argument("--queries", type=int, help="searches a row and way (default 200)")
    parser.add_argument("--cold", type=int, help="times that each command is typed (default 10)")
    parser.add_argument("--starts", type=int, help="times that kernels are compiled anew (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there")
    options = parser.parse_args(arguments)
    sizes = [1, 1_000, 100_000] if options.quick else [1, 1_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    for name, quick, full in (("queries", 50, 200), ("cold", 1, 10), ("starts", 1, 3)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    try:
        document = measured(options, sizes if options.sizes is None else options.sizes)
    except HashretError as error:
        parser.exit(1, f"{error}\n")
    text = as_markdown(document)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    print(json.dumps(document, indent=1) if options.json else text)
    return 0


def measured(options: argparse.Namespace, sizes: list[int]) -> dict[str, Any]:
    """Everything that is measured."""
    from hashret.data.sources import open_source
    from hashret.model.hasher import Hasher

    table = open_source(options.data).where_split(options.split)
    if options.quick:
        table = table.select(np.sort(np.random.default_rng(0).permutation(len(table))[:400]))
    hasher = Hasher.from_pretrained(options.model, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _say(f"encoding {len(table):,} pictures")
        queries = ways.encoded(hasher, table, np.arange(len(table)))
        indexes = {dtype: folder / dtype for dtype in ("float32", "int8")}
        for dtype, index in indexes.items():
            make_index(index, dtype, hasher, queries, options.model)
        photo = str(table.paths[0])
        document = {
            "question": (__doc__ or "").splitlines()[0],
            "command": f"python benchmarks/latency.py --model {options.model.name} --data {Path(options.data).name}"
            + " --quick" * options.quick,
            "machine": machine.describe(PACKAGES),
            "model": model_in_words(hasher, options.model.name),
            "data": {"name": Path(options.data).name, "split": options.split, "pictures": len(table)},
            "resident": resident(options.queries, hasher, queries, indexes),
            "larger": [],
        }
        for n in sizes:
            _say(f"a gallery of {n:,}")
            with tempfile.TemporaryDirectory() as gallery:
                document["larger"].append(larger(Path(gallery), n, options))
        _say("commands from the shell")
        typed = commands(indexes["float32"], photo, queries.vectors.codes[0].tobytes().hex())
        document["cold"] = timed_commands(options.cold, dict(list(typed.items())[: 2 if options.quick else None]))
    _say("kernels")
    document["starts"] = starts(options.starts, cold.KERNELS[:1] if options.quick else cold.KERNELS)
    return document


def model_in_words(hasher: Any, name: str) -> str:
    """What the model is."""
    size, network = hasher.preprocess.image_size, hasher.network
    return (
        f"{name}: {network.backbone_name} at {size}×{size} px, {hasher.code_size} bits, {hasher.feature_size} features"
    )


def make_index(folder: Path, dtype: str, hasher: Any, queries: Queries, model: Path) -> None:
    """An index of the pictures with codes and features, as `hashret index --metric both` makes it."""
    from hashret.index import Store

    described = {"fingerprint": hasher.fingerprint(), "name": model.name, "path": str(model.absolute())}
    store = Store.create(
        folder, code_size=hasher.code_size, dim=hasher.feature_size, feature_dtype=dtype, model=described
    )
    store.append(queries.vectors.codes, queries.vectors.features, queries.ids, queries.table.records())


def resident(n_queries: int, hasher: Any, queries: Queries, indexes: Mapping[str, Path]) -> dict[str, Any]:
    """Each step of a query in one process, by way of searching, and how good the way is."""
    from hashret import HammingIndex
    from hashret.images import read_picture

    table, index = queries.table, HammingIndex.load(indexes["float32"])
    all_ways = ways.code_ways(indexes["float32"], queries, RERANK, None)
    for folder in indexes.values():
        all_ways += ways.feature_ways(folder, queries, RERANK, None)
    _say("scores")
    scores = ways.with_scores(all_ways, queries)
    _say("pictures in one process")
    rows = np.random.default_rng(0).permutation(len(table))[:n_queries]
    shared: dict[str, list[float]] = {"decode": [], "network": []}
    by_way: dict[str, dict[str, list[float]]] = {way.name: {"search": [], "metadata": []} for way in all_ways}
    for turn, row in enumerate([*rows[:WARM_UP], *rows]):
        began = time.perf_counter()
        pixels = hasher.preprocess.pixels(read_picture(table.paths[row], box=table.box(row)))
        decoded = time.perf_counter()
        vectors = ways.as_vectors(hasher, *(tensor.numpy() for tensor in hasher.run_batch(pixels[None])))
        done = time.perf_counter()
        shared["decode"].append(decoded - began)
        shared["network"].append(done - decoded)
        for way in _rotated(all_ways, turn):
            began = time.perf_counter()
            ids = way.search(vectors)
            searched = time.perf_counter()
            index.records(ids[0])
            done = time.perf_counter()
            by_way[way.name]["search"].append(searched - began)
            by_way[way.name]["metadata"].append(done - searched)
    described = []
    for way, score in zip(all_ways, scores, strict=True):
        steps = {**shared, **by_way[way.name]}
        described.append(
            {
                "way": way.name,
                **{step: _percentiles(seconds[-len(rows) :]) for step, seconds in by_way[way.name].items()},
                "total": _percentiles([sum(parts) for parts in zip(*steps.values(), strict=True)][-len(rows) :]),
                "hit@1": score["hit@1"],
                "bytes_per_picture": way.bytes_per_picture,
            }
        )
    return {
        "queries": len(rows),
        "k": K,
        "steps": {step: _percentiles(seconds[-len(rows) :]) for step, seconds in shared.items()},
        "ways": described,
    }


def larger(folder: Path, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """From a code, logits or a feature to the nearest among n, mapped from an index: ways in turns, one query at a time."""
    from hashret import CosineIndex, HammingIndex

    rng = np.random.default_rng(0)
    made = HammingIndex(CODE_SIZE)
    made.add(rng.integers(0, 256, (n, CODE_SIZE // 8), dtype=np.uint8))
    made.save(folder / "codes")
    del made  # what is searched is mapped
    index = HammingIndex.load(folder / "codes")
    logits = rng.standard_normal((WARM_UP + options.queries, CODE_SIZE), np.float32)
    codes = np.packbits(logits > 0, axis=1)
    features = rng.standard_normal((len(codes), DIM), np.float32)
    rerank = max(K, min(RERANK, n))
    searches: dict[str, Callable[[slice], object]] = {
        "hash": lambda i: index.search(codes[i], K),
        "asymmetric": lambda i: index.search(logits[i], K, metric="asymmetric"),
        "two-stage by logits": lambda i: index.search_two_stage(codes[i], K, rerank, logits=logits[i]),
    }
    row: dict[str, Any] = {"codes": n}
    for dtype, n_bytes in (("float32", 4 * DIM), ("int8", DIM + 4)):
        name = f"cosine {dtype}"
        if n * n_bytes > MOST_FEATURE_BYTES:
            row[name] = {"not_run": f"{n * n_bytes / 1e9:,.0f} GB of features"}
            continue
        vectors = CosineIndex(DIM, dtype)
        for start in range(0, n, CHUNK_ROWS):
            vectors.add(rng.standard_normal((min(CHUNK_ROWS, n - start), DIM), np.float32))
        vectors.save(folder / dtype)
        del vectors
        searches[name] = _cosine(CosineIndex.load(folder / dtype), features)
    times: dict[str, list[float]] = {name: [] for name in searches}
    for turn in range(len(codes)):
        for name in _rotated(list(searches), turn):
            began = time.perf_counter()
            searches[name](slice(turn, turn + 1))
            times[name].append(time.perf_counter() - began)
    row |= {name: _percentiles(seconds[WARM_UP:]) for name, seconds in times.items()}
    row["queries"] = options.queries
    row["cold"] = timed_commands(options.cold, {"": ["--index", folder / "codes", "--code", codes[0].tobytes().hex()]})
    return row


def _cosine(vectors: Any, features: np.ndarray) -> Callable[[slice], object]:
    return lambda i: vectors.search(features[i], K)


def commands(index: Path, photo: str, code: str) -> dict[str, list[object]]:
    """What follows `hashret query`: a code alone, and a picture by each way."""
    of_picture: list[object] = ["--index", index, photo]
    return {
        "code": ["--index", index, "--code", code],
        "picture": of_picture,
        "picture, `--metric asymmetric`": [*of_picture, "--metric", "asymmetric"],
        f"picture, `--rerank {RERANK}`": [*of_picture, "--rerank", RERANK],
        "picture, `--metric cosine`": [*of_picture, "--metric", "cosine"],
    }


def timed_commands(times: int, queries: Mapping[str, list[object]]) -> list[dict[str, Any]]:
    """`hashret query` with these words, once uncounted and then plain and with a stopwatch in turns."""
    plain: dict[str, list[float]] = {what: [] for what in queries}
    clocked: dict[str, list[Times]] = {what: [] for what in queries}
    for turn in range(times + 1 if times else 0):
        for what, words in queries.items():
            seconds = cold.plain(["query", *words])
            if turn:
                plain[what].append(seconds)
                clocked[what].append(cold.command(["query", *words]))
    return [
        {
            "what": what,
            "times": times,
            "plain": _percentiles(plain[what]),
            "clocked": _percentiles([steps["whole"] for steps in clocked[what]]),
            "steps_ms": {step: 1e3 * float(np.median([steps[step] for steps in clocked[what]])) for step in cold.STEPS},
        }
        for what in queries
        if times
    ]


def starts(times: int, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """The first search of a process on a machine that has no compiled kernels yet, and of the next process."""
    found: dict[str, list[Times]] = {kind: [] for kind in kinds}
    for _ in range(times):
        for kind in kinds:
            with tempfile.TemporaryDirectory() as cache:
                first, second = (cold.kernel(kind, Path(cache)) for _ in range(2))
            found[kind].append({"first": first["first"], "second": second["first"], "again": second["again"]})
    return [
        {
            "kernel": kind,
            "times": times,
            **{f"{name}_ms": 1e3 * float(np.median([each[name] for each in found[kind]])) for name in found[kind][0]},
        }
        for kind in kinds
        if times
    ]


def _rotated(ways_to_search: list[Any], turn: int) -> list[Any]:
    """The ways with another one first each turn: none always follows the one that fills the caches."""
    first = turn % len(ways_to_search)
    return ways_to_search[first:] + ways_to_search[:first]


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def _percentiles(seconds: list[float]) -> Times:
    """p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def _cells(times: dict[str, Any]) -> str:
    if "not_run" in times:
        return "not run: " + times["not_run"]
    return " / ".join(f"{times[name]:.3g}" if times[name] < 100 else f"{times[name]:,.0f}" for name in times)


def as_markdown(document: dict[str, Any]) -> str:
    """The document as a page."""
    about, data = document["machine"], document["data"]
    lines = [
        "# Latency, measured", "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program. "
        "Times are milliseconds, p50 / p95 / p99.", "",
        f"- {about['cpu']}, {about['cores']} cores; {about['system']}; searches and network on all cores",
        "- " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"- {document['model']}; {data['pictures']:,} pictures of {data['name']}, split {data['split']}",
        *_resident_page(document["resident"]),
        *_larger_page(document["larger"]),
        *_cold_page(document["cold"], document["larger"]),
        *_starts_page(document["starts"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _resident_page(found: dict[str, Any]) -> list[str]:
    lines = [
        "", "## Picture to answer, in one process", "",
        "A program that has loaded the model and the index answers a picture in four steps. Decoding takes "
        f"{_cells(found['steps']['decode'])} ms and the network {_cells(found['steps']['network'])} ms, whatever the way; look "
        "at what each way to search adds, how often its first answer is right, and what it stores. hit@1 is of every picture "
        "among all others, expected over the orders of equal distances, ± half of the 95 % interval. Two-stage ranks the "
        f"{RERANK} nearest codes by logits or features. Metadata are paths and labels of the {K} found. "
        f"{found['queries']} pictures, ways in turns.", "",
        "| way | search | metadata | picture to answer | hit@1 | bytes a picture |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for way in found["ways"]:
        low, high = way["hit@1"]["interval_95"]
        cells = [way["way"], *(_cells(way[step]) for step in ("search", "metadata", "total"))]
        cells += [f"{way['hit@1']['expected']:.3f} ±{(high - low) / 2:.3f}", f"{way['bytes_per_picture']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _larger_page(rows: list[dict[str, Any]]) -> list[str]:
    names = ("hash", "asymmetric", "two-stage by logits", "cosine float32", "cosine int8")
    lines = [
        "", "## Code to answer, in one process", "",
        f"How the wait grows with the gallery: one query for its {K} nearest among random codes of {CODE_SIZE} bits, or random "
        f"features of {DIM} numbers, mapped from an index folder. Features are not run beyond {MOST_FEATURE_BYTES >> 30} GiB, "
        "whatever memory this machine has. Ways in turns.", "",
        f"| codes | {' | '.join(names)} | queries |", "|---" * (len(names) + 2) + "|",
    ]  # fmt: skip
    for row in rows:
        lines.append(f"| {row['codes']:,} | {' | '.join(_cells(row[name]) for name in names)} | {row['queries']} |")
    return lines if rows else [*lines, "| not run |" + " |" * (len(names) + 1)]


def _cold_page(commands: list[dict[str, Any]], galleries: list[dict[str, Any]]) -> list[str]:
    lines = [
        "", "## From the shell", "",
        "`hashret query` typed once, all of it started anew: look at how little of the wait is search. The steps are medians of "
        "the command run with a stopwatch, and add up to `whole`, as far as medians do; `command` is the same without one, "
        "p50 / p95 / p99. `rest` is reading the words, printing, and Python's end. In a large gallery, search includes loading "
        "the compiled kernels. Commands in turns, the first of each not counted; the system has the files in memory.", "",
        f"| query | {' | '.join(cold.STEPS)} | whole | command | times |", "|---" * (len(cold.STEPS) + 4) + "|",
    ]  # fmt: skip
    rows = [*commands]
    for gallery in galleries:
        rows += [{**row, "what": f"code, among {gallery['codes']:,}"} for row in gallery["cold"]]
    for row in rows:
        steps = [f"{row['steps_ms'][step]:,.0f}" if row["steps_ms"][step] >= 0.5 else "" for step in cold.STEPS]
        cells = [row["what"], *steps, f"{row['clocked']['p50_ms']:,.0f}", _cells(row["plain"]), str(row["times"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if rows else [*lines, "| not run |" + " |" * (len(cold.STEPS) + 3)]


def _starts_page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "", "## First and second start of the kernels", "",
        "Kernels are compiled when they are first needed and kept in the user's cache folder. `first start` is the first search "
        "of a process that finds that folder empty, once for each machine and version; `second start` is that of the next "
        "process, and of all later ones; both include importing numba. `again` is the same search once more. A process that asks "
        "few small questions waits for none of this: numpy answers them. Medians.", "",
        "| search | first start | second start | again | times |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        cells = [
            row["kernel"],
            *(f"{row[f'{name}_ms']:,.1f}" for name in ("first", "second", "again")),
            str(row["times"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if rows else [*lines, "| not run | | | | |"]


if __name__ == "__main__":
    sys.exit(main())
