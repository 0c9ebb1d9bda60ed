"""How fast is an index on disk opened, added to, changed and read while it is written, beside the disk itself?

What to expect. Opening reads one small file and maps the others, so it costs what starting Python costs. An addition is written
once and flushed, so the disk's own speed is its limit; a change of one code is two flushes one after the other, what the
disk takes for one, twice. Readers share nothing with a writer but the disk and the processor. An index that does not fit
into memory is read from the disk by every search.

How it is measured: each row beside the plain thing that bounds it (a file written and flushed, a file read, a search of an
array in memory, FAISS where it does the same), in turns in one run; medians. Codes are random, from a fixed seed; answers are
compared with those of the codes in memory. "Larger than memory" runs in a memory cgroup of the kernel, which needs root; without
it that row is not run.

Run: python benchmarks/store.py [--quick] [--only WORDS] [--folder PLACE] [--json] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pages

from hashret import hamming
from hashret.index import HammingIndex, Store

BITS, B = 64, 8
PACKAGES = ("hashret", "numpy", "numba", "faiss-cpu")
CHUNK = 4_000_000
"""Codes that are made and added at a time where an index is built."""
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 when all answers are right, 1 when some are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    parser.add_argument("--only", metavar="WORDS", help="only rows whose name contains this")
    parser.add_argument(
        "--folder", type=Path, metavar="PLACE", help="a folder on the disk to measure (default: the temporary one)"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="writers to kill (default: 1000, with --quick 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the part there")
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[Path, bool], list[Row]]] = {
        "open and query": open_and_query,
        "add many": add_many,
        "add one": add_one,
        "read while written": read_while_written,
        "larger than memory": larger_than_memory,
        "killed writers": functools.partial(killed_writers, kills=options.kills),
    }
    rows: list[Row] = []
    for name, measure in parts.items():
        if (options.only or "") in name:
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                print(f"{name} ...", file=sys.stderr)
                rows += [{"what": name, **row} for row in measure(Path(place), options.quick)]
    document = {
        "question": (__doc__ or "").splitlines()[0],
        "command": f"python benchmarks/store.py{' --quick' if options.quick else ''}",
        "machine": machine.describe(PACKAGES),
        "rows": rows,
    }
    if options.markdown:
        pages.write_part(options.markdown, as_markdown(document))
    print(json.dumps(document, indent=1) if options.json else as_markdown(document))
    return 0 if all(row.get("answers", "equal") == "equal" for row in rows) else 1


# ---- the rows --------------------------------------------------------------------------------------------------------


def open_and_query(place: Path, quick: bool) -> list[Row]:
    """`hashret query --code` on an index of 100 million codes: the whole command, the search in it, and Python doing nothing."""
    n = 2_000_000 if quick else 100_000_000
    build(place / "index", n)
    query = random_codes(1, 9)[0]
    words = ["query", "--index", str(place / "index"), "--code", query.tobytes().hex(), "-k", "10", "--json"]
    program = "import sys; from hashret.cli import main; sys.exit(main(sys.argv[1:]))"
    whole, search, empty, loading = [], [], [], []
    for _ in range(3 if quick else 7):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
        whole.append(time.perf_counter() - started)
        document = json.loads(done.stdout)
        search.append(document["search_ms"] / 1000)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import numpy"], check=True)
        empty.append(time.perf_counter() - started)
        started = time.perf_counter()
        HammingIndex.load(place / "index")
        loading.append(time.perf_counter() - started)
    ids = [int(hit["id"]) for hit in document["queries"][0]["results"]]
    answers = "equal" if ids == nearest_of_all(n, query, 10) else "DIFFERENT"
    outside = [a - b for a, b in zip(whole, search, strict=True)]
    beside = f"Python and numpy alone {_ms(empty)}; HammingIndex.load {_ms(loading)}"
    bytes_each = sum(path.stat().st_size for path in (place / "index" / "segments").rglob("*") if path.is_file()) / n
    return [
        _row(f"{n:,} codes, from the shell, without the search", _ms(outside), beside, "1 s", "0.5 s", answers),
        _row("the search in it", _ms(search), "", "", "", answers),
        _row("bytes on disk for each code of 8 bytes and id of 8", f"{bytes_each:.2f}", "16", "17.6", "", "equal"),
    ]


def add_many(place: Path, quick: bool) -> list[Row]:
    """Ten million codes with ids of their own, in one `append`; beside files of as many bytes, and FAISS's file of the codes."""
    n = 500_000 if quick else 10_000_000
    codes = random_codes(n, 1)
    ids = np.random.default_rng(2).permutation(n).astype(np.int64)
    n_bytes = codes.nbytes + ids.nbytes
    ours, disk, faiss_seconds = [], [], []
    for turn in range(3 if quick else 5):
        store = Store.create(place / f"index{turn}", code_size=BITS)
        started = time.perf_counter()
        store.append(codes, ids=ids)
        ours.append(time.perf_counter() - started)
        some = np.random.default_rng(turn).integers(0, n, 1000)
        right = np.array_equal(Store.open(store.folder).codes(ids[some]), codes[some])
        shutil.rmtree(store.folder)
        started = time.perf_counter()
        for name, array in (("a", codes), ("b", ids)):
            with (place / name).open("wb") as file:
                file.write(array.data)
                os.fsync(file.fileno())
        disk.append(time.perf_counter() - started)
        faiss_seconds.append(float(_in_own_process(_FAISS_WRITES, str(n), str(place / "faiss"))))
    speeds = [n_bytes / seconds / 1e6 for seconds in ours]
    beside = (
        f"the disk {n_bytes / statistics.median(disk) / 1e6:.0f} MB/s; FAISS writes and flushes the codes alone at "
        f"{codes.nbytes / statistics.median(faiss_seconds) / 1e6:.0f} MB/s"
    )
    told = f"{statistics.median(speeds):.0f} MB/s"
    return [_row(f"{n:,} codes with ids, flushed", told, beside, "100 MB/s", "disk speed", _compared(right))]


def add_one(place: Path, quick: bool) -> list[Row]:
    """One code after the other, each in a commit of its own; beside one flush of a small file."""
    rows = []
    for start, described in ((0, False), (0, True), (10_000_000 // (100 if quick else 1), False)):
        folder = place / f"index{start}{described}"
        build(folder, start)
        store, codes = Store.open(folder), random_codes(2000, 3)
        ours, disk = [], []
        for turn in range(60 if quick else 500):
            records = [{"id": f"p{turn}", "path": f"p{turn}.jpg", "view": turn}] if described else None
            started = time.perf_counter()
            store.append(codes[turn : turn + 1], records=records)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            with (place / "small").open("wb") as file:
                file.write(b"x" * 500)
                os.fsync(file.fileno())
            disk.append(time.perf_counter() - started)
        last = Store.open(folder)
        right = len(last) == start + len(ours) and np.array_equal(
            last.codes(last.ids[-5:]), codes[len(ours) - 5 : len(ours)]
        )
        what = f"one code{' and record' if described else ''} to {start:,}, {len(ours)} times"
        beside = f"one flush {_spread(disk)}"
        rows.append(_row(what, _spread(ours), beside, "p99 50 ms", "p99 15 ms", _compared(right)))
    return rows


def read_while_written(place: Path, quick: bool) -> list[Row]:
    """One query on one core again and again, while nobody writes and while another process adds: in turns."""
    n = 1_000_000 if quick else 10_000_000
    build(place / "index", n)
    index, queries = HammingIndex.load(place / "index"), random_codes(200, 4)
    index.search(queries[:1], 10, threads=1)
    rows = []
    for what, many in (("one code a commit", 1), ("100,000 codes a commit", 100_000)):
        alone, beside = [], []
        for _ in range(2 if quick else 4):
            alone += _latencies(index, queries)
            command = [sys.executable, "-c", textwrap.dedent(_WRITES), str(place / "index"), str(many)]
            writer = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert writer.stdout is not None
            writer.stdout.readline()
            beside += _latencies(index, queries)
            writer.kill()
            writer.wait()
            writer.stdout.close()
        ratios = [np.percentile(beside, q) / np.percentile(alone, q) for q in (50, 95)]
        right = index.search(queries[:1], 10)[1][0].tolist() == nearest_of_all(n, queries[0], 10)
        told = f"{ratios[0]:.2f} times at the median, {ratios[1]:.2f} at p95"
        latencies = f"{_spread(beside)} beside {_spread(alone)}"
        rows.append(_row(f"{n:,} codes, a writer adds {what}", told, latencies, "1.3 times", "", _compared(right)))
    return rows


def larger_than_memory(place: Path, quick: bool) -> list[Row]:
    """An index four times the memory that the kernel lets the process have, the cache of its files included."""
    limit = (128 if quick else 512) << 20
    n = 4 * limit // (B + 8)
    group = _cgroup(limit)
    if group is None:
        return [_row(f"{n:,} codes in {limit >> 20} MiB", "not run", "needs a memory cgroup, so root", "", "", "equal")]
    try:
        answer = json.loads(_in_own_process(_LARGE, str(place / "index"), str(n), group=group).splitlines()[-1])
        peak = next(int(Path(group, name).read_text()) for name in _PEAKS if Path(group, name).exists())
    finally:
        _leave(group)
    query = random_codes(16, 9)
    right = _compared(all(answer["ids"][i] == nearest_of_all(n, query[i], 10, 1_000_000) for i in range(2)))
    size, codes = n * (B + 8) / 1e6, n * B / 1e6
    disk = f"the disk reads {answer['disk']:.0f} MB/s in the same process"
    built = f"{size / answer['build']:.0f} MB/s"
    one, batch = (f"{answer[name]:.2f} s, {codes / answer[name]:.0f} MB/s of codes" for name in ("one", "batch"))
    memory = f"peak {peak >> 20} MiB, the cache of files included"
    return [
        _row(f"{n:,} codes with ids ({size:.0f} MB) built in {limit >> 20} MiB", built, memory, "", "", "equal"),
        _row("one query there", one, disk, "", "", right),
        _row("16 queries at once there", batch, disk, "", "", right),
    ]


# ---- programs of their own --------------------------------------------------------------------------------------------

_FAISS_WRITES = """
    import os, sys, time, numpy as np, faiss
    n, path = int(sys.argv[1]), sys.argv[2]
    codes = np.random.default_rng(1).integers(0, 256, (n, 8), dtype=np.uint8)
    started = time.perf_counter()
    index = faiss.IndexBinaryFlat(64)
    index.add(codes)
    faiss.write_index_binary(index, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    print(time.perf_counter() - started)
"""
_WRITES = """
    import sys, numpy as np
    from hashret.index import Store
    codes = np.random.default_rng(5).integers(0, 256, (int(sys.argv[2]), 8), dtype=np.uint8)
    store = Store.open(sys.argv[1])
    for turn in range(1_000_000):
        store.append(codes)
        if turn == 0:
            print("first", flush=True)
"""
_LARGE = """
    import json, os, sys, time, numpy as np
    sys.path.insert(0, BENCHMARKS)
    import store
    folder, n = store.Path(sys.argv[1]), int(sys.argv[2])
    started = time.perf_counter()
    store.build(folder, n, 1_000_000)
    built = time.perf_counter() - started
    index, queries = store.HammingIndex.load(folder), store.random_codes(16, 9)
    index.search(queries, 10)
    def timed(some):
        started = time.perf_counter()
        ids = index.search(some, 10)[1]
        return time.perf_counter() - started, ids.tolist()
    path = max(folder.rglob("codes.npy"), key=lambda path: path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started, read = time.perf_counter(), 0
        while part := file.read(1 << 22):
            read += len(part)
        disk = read / (time.perf_counter() - started) / 1e6
    one, _ = timed(queries[:1])
    batch, ids = timed(queries)
    print(json.dumps({"build": built, "one": one, "batch": batch, "ids": ids, "disk": disk}))
"""


def _in_own_process(program: str, *words: str, group: str | None = None) -> str:
    text = textwrap.dedent(program).replace("BENCHMARKS", repr(str(Path(__file__).parent)))
    command = [sys.executable, "-c", text, *words]
    if group is not None:
        # The shell enters the cgroup and becomes the program.
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a side ended with status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


_PEAKS = ("memory.max_usage_in_bytes", "memory.peak")


def _cgroup(limit: int) -> str | None:
    """A new memory cgroup with this limit, of either version; None where none can be made."""
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root, f"hashret-{os.getpid()}")
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        return str(group)
    return None


def _leave(group: str) -> None:
    for _ in range(50):
        try:
            Path(group).rmdir()
            return
        except OSError:
            time.sleep(0.1)


# ---- data, and what is told of it -------------------------------------------------------------------------------------


def random_codes(n: int, seed: int) -> np.ndarray:
    """Codes (n, 8) that are the same every time."""
    return np.random.default_rng(seed).integers(0, 256, (n, B), dtype=np.uint8)


def chunks(n: int, size: int = CHUNK) -> Iterator[np.ndarray]:
    """The n codes that an index is built of, some at a time."""
    for seed, start in enumerate(range(0, n, size)):
        yield random_codes(min(size, n - start), 1000 + seed)


def build(folder: Path, n: int, size: int = CHUNK) -> None:
    """An index of n codes."""
    store = Store.create(folder, code_size=BITS)
    for codes in chunks(n, size):
        store.append(codes)


def nearest_of_all(n: int, query: np.ndarray, k: int, size: int = CHUNK) -> list[int]:
    """Ids of the k nearest of those codes, from memory, chunk by chunk."""
    found, start = [], 0
    for codes in chunks(n, size):
        distances, rows = hamming.search(codes, query[None], k)
        found += [(int(d), start + int(r)) for d, r in zip(distances[0], rows[0], strict=True) if r >= 0]
        start += len(codes)
    return [row for _, row in sorted(found)[:k]]


def _latencies(index: HammingIndex, queries: np.ndarray) -> list[float]:
    taken = []
    for query in queries:
        started = time.perf_counter()
        index.search(query[None], 10, threads=1)
        taken.append(time.perf_counter() - started)
    return taken


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ms" if statistics.median(seconds) > 0.02 else _fine_ms(seconds)


def _fine_ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f} ms"


def _spread(seconds: list[float]) -> str:
    median, p95, p99 = (1000 * np.percentile(seconds, q) for q in (50, 95, 99))
    return f"median {median:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms"


def _compared(right: bool) -> str:
    return "equal" if right else "DIFFERENT"


def _row(case: str, found: str, beside: str, must: str, aim: str, answers: str) -> Row:
    return {"case": case, "found": found, "beside": beside, "must": must, "aim": aim, "answers": answers}


def killed_writers(place: Path, quick: bool, kills: int | None) -> list[Row]:
    """Writers killed by SIGKILL at random moments; tests/test_killed.py says what is compared after every kill."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from test_killed import kill_writers

    n = kills or (20 if quick else 1000)
    try:
        within, acknowledged = kill_writers(place, n)
    except AssertionError as error:
        return [
            _row(f"{n:,} SIGKILLs", str(error).partition("\n")[0], "", "1,000, 0 lost", "10,000, 0 lost", "DIFFERENT")
        ]
    found = f"{within:,} within a change; {acknowledged:,} acknowledged changes, 0 lost"
    return [_row(f"{n:,} SIGKILLs", found, "", "1,000, 0 lost", "10,000, 0 lost", "equal")]


def as_markdown(document: Row) -> str:
    """The part of the page."""
    at = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    lines = [
        "# Storing, measured",
        "",
        f"{document['question']} Made by `{document['command']}`, {time.strftime('%Y-%m-%d')}; written by the program. "
        f'{at["cpu"]}, {at["cores"]} cores; {at["system"]}; {versions}. "must" and "aim" were set before.',
        "",
        "| what | case | found | beside, in the same run | must | aim | answers |",
        "|" + "---|" * 7,
    ]
    for row in document["rows"]:
        cells = [row[key] for key in ("what", "case", "found", "beside", "must", "aim", "answers")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
