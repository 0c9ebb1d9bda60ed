"""`hashret index`: pictures through a model into an index on disk."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hashret.cli import sync
from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_folder_can_be_made,
    counted,
    open_data,
    print_json,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.index.store import Store
    from hashret.model.hasher import Hasher

EXAMPLE = """\
Example:  hashret index --model runs/cars64 --data cars/ --out cars.index

Encodes every picture and writes a folder with its code and, beside it, its id, path, label and attributes. Interrupted
encoding goes on where it stopped when the same command is typed again. --append adds pictures to an index of the same
model; a picture whose id is there already is refused, and then nothing is added. --sync makes the index follow the pictures:
new ones are added, changed ones encoded anew, moved ones known again by their bytes, and those that are gone removed; what is
unchanged is not read. Type the same command again whenever pictures changed."""

METRICS = ("hamming", "cosine", "both")
FEATURE_DTYPES = ("float32", "float16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("--model", metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="INDEX", help="the index folder to write")
    parser.add_argument("--append", action="store_true", help="add to an index that exists")
    sync.add_arguments(parser)
    parser.add_argument(
        "--metric",
        choices=METRICS,
        help="hold codes (hamming), float features (cosine) or both (default: hamming; with --append and --sync: as the index)",
    )
    parser.add_argument(
        "--feature-dtype",
        choices=FEATURE_DTYPES,
        help="how float features are kept: float16 takes half of float32, int8 a quarter; search is exact for what is kept "
        "(default: float32; with --append and --sync: as the index)",
    )
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode and write; nothing is visible in the index before all of it is."""
    sync.check(args)
    if args.sync:
        return sync.run(args)
    if args.model is None:
        raise UsageError("--model is missing; name the run or model folder that encodes the pictures")
    if args.feature_dtype is not None and not args.append and args.metric in (None, "hamming"):
        raise UsageError("--feature-dtype is for float features; add --metric cosine or both")
    if args.append:
        from hashret.index.store import Store

        Store.open(args.out)
    elif args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"{args.out} exists; choose another --out, or add to it with --append")
    check_folder_can_be_made("--out", args.out)
    beside = args.out.resolve()
    table = open_data(args)

    from hashret.model.hasher import Hasher

    hasher = Hasher.from_pretrained(args.model, device=args.device)
    store = _store_to_extend(args, hasher, table) if args.append else None
    metrics = ["hamming", "cosine"] if args.metric == "both" else [args.metric or "hamming"]
    if store is not None:
        metrics = store.metrics
    what = [kind for metric, kind in (("hamming", "codes"), ("cosine", "features")) if metric in metrics]
    with kept_until_done(unfinished_beside(args.out)) as unfinished:
        listed = beside.with_name(beside.name + ".skipped.txt")
        encoded, skipped_list = encode(args, hasher, table, what, unfinished, listed, "nothing was indexed")
        if store is None:
            store = _write_new(beside, unfinished, args, hasher, metrics, encoded, table)
        else:
            _append(store, encoded, table)
    summary = {
        "index": args.out,
        "added": len(encoded),
        "skipped": len(encoded.skipped),
        "skipped_list": skipped_list,
        "pictures": len(store),
        "metrics": store.metrics,
        "code_size": store.code_size,
        "dim": store.dim,
    }
    if args.json:
        print_json(summary)
    else:
        kept = "" if store.feature_dtype == "float32" else f"{store.feature_dtype} "
        holds = {"hamming": f"codes of {store.code_size} bits", "cosine": f"features of {store.dim} {kept}numbers"}
        what_it_holds = " and ".join(holds[metric] for metric in store.metrics)
        print(f"{args.out}: {counted(len(encoded), 'picture')} added, {len(store):,} in all, {what_it_holds}")
    return 0


def _store_to_extend(args: argparse.Namespace, hasher: Hasher, table: PictureTable) -> Store:
    """The index to append to, checked before the long work: its model, what it holds, the ids it has."""
    from hashret.index.store import Store

    store = Store.open(args.out)
    store.check_model(hasher.fingerprint())
    wanted = {"hamming", "cosine"} if args.metric == "both" else {args.metric}
    if args.metric is not None and wanted != set(store.metrics):
        raise UsageError(f"{args.out} holds {' and '.join(store.metrics)}; leave --metric out when appending")
    if args.feature_dtype not in (None, store.feature_dtype):
        holds = f"keeps features as {store.feature_dtype}" if store.feature_dtype else "holds no features"
        raise UsageError(f"{args.out} {holds}; leave --feature-dtype out when appending")
    here = [name for name, found in zip(table.ids, store.find(table.ids).tolist(), strict=True) if found >= 0]
    if here:
        raise UsageError(
            f"{counted(len(here), 'id')} of {table.name} {'is' if len(here) == 1 else 'are'} in {args.out} already, the "
            f"first is {here[0]!r}, so nothing was added; index only new pictures, or give them other ids in a table "
            "(hashret data table)"
        )
    return store


def _write_new(
    out: Path,
    workplace: Path,
    args: argparse.Namespace,
    hasher: Hasher,
    metrics: list[str],
    encoded: Encoded,
    table: PictureTable,
) -> Store:
    """A new index, made in `workplace` and moved to `out` when it is whole."""
    from hashret.index import durable
    from hashret.index.store import Store
    from hashret.model.folder import resolve_model

    made = workplace / "index"
    shutil.rmtree(made, ignore_errors=True)
    store = Store.create(
        made,
        code_size=hasher.code_size if "hamming" in metrics else None,
        dim=hasher.feature_size if "cosine" in metrics else None,
        feature_dtype=args.feature_dtype or "float32",
        model={
            "fingerprint": hasher.fingerprint(),
            "name": str(args.model),
            "path": str(resolve_model(args.model).absolute()),
        },
    )
    _append(store, encoded, table)
    if out.exists():
        out.rmdir()
    made.rename(out)
    durable.flush(out.parent)
    return Store.open(out)


def _append(store: Store, encoded: Encoded, table: PictureTable) -> None:
    """Commit what was encoded to an index."""
    store.append(encoded.codes, encoded.features, records=table.select(encoded.rows).records())
