"""`hashret index`: pictures through a model, or embeddings as they are, into an index on disk."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli import migrate, new_index, sync
from hashret.cli.new_index import NETWORK_FLAGS, Made, leave_out
from hashret.cli.options import (
    add_compute_arguments,
    add_data_arguments,
    add_json_argument,
    check_folder_can_be_made,
    counted,
    model_place,
    open_data,
    print_json,
    taken,
)
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, UsageError

if TYPE_CHECKING:
    from hashret.data.embeddings import Embeddings
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.index.store import Store
    from hashret.model.hasher import Hasher
    from hashret.model.projection import Projection

EXAMPLE = """\
Example:  hashret index MYPHOTOS --out my.index
          hashret index cars/ --model runs/cars64 --out cars.index

Encodes every picture and writes a folder with its code and, beside it, its id, path, label and attributes. Without --model no
labels and no training are needed: a network that was trained on ImageNet gives features, codes are fitted to them, and a table
says how well the codes keep the neighbours of the features. With --embeddings the features come from a file instead.
Interrupted encoding goes on where it stopped when the same command is typed again.

--append adds pictures to an index, by the model that made it. A picture whose id is there already is refused, and then nothing
is added; --upsert replaces what has its id. --sync makes the index follow the pictures: new ones are added, changed ones encoded
anew, moved ones known again by their bytes, and those that are gone removed; what is unchanged is not read. Type the same
command again whenever pictures changed. --migrate NEWMODEL encodes all pictures of the index anew by another model; until
that is done the index answers by the old one.

`hashret index info INDEX` says what an index holds; verify, repair, compact and remove look after it, import and export exchange
codes with other programs (each with --help). A folder of pictures that has such a name is given as ./info."""

VERBS = ("info", "verify", "repair", "compact", "remove", "import", "export")
"""Words after `hashret index` that are commands of their own, in index_info.py and so on."""


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is to be indexed: pictures, embeddings of pictures, or embeddings alone (then `table` may be None)."""

    name: str
    table: PictureTable | None
    embeddings: Embeddings | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.description = EXAMPLE
    parser.add_argument("pictures", nargs="?", metavar="PICTURES", help="the pictures, as --data takes them")
    parser.add_argument("--model", metavar="RUN", help="a run or model folder; RUN@3 is its third epoch")
    add_data_arguments(parser, required=False)
    parser.add_argument("--out", required=True, type=Path, metavar="INDEX", help="the index folder to write")
    parser.add_argument("--append", action="store_true", help="add to an index that exists")
    parser.add_argument(
        "--upsert", action="store_true", help="like --append, but what has the id of a picture is replaced by it"
    )
    sync.add_arguments(parser)
    migrate.add_arguments(parser)
    fitted = new_index.add_arguments(parser)
    fitted.add_argument(
        "--embeddings",
        type=Path,
        metavar="NPY",
        help="float vectors of the pictures from anything, one a row, in the order of `hashret data table`; no network is run. "
        "Without pictures they are indexed by number",
    )
    fitted.add_argument("--ids", type=Path, metavar="TXT", help="names for --embeddings without pictures, one a line")
    add_compute_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encode and write; nothing is visible in the index before all of it is."""
    migrate.check(args)
    if args.migrate is not None:
        return migrate.run(args)
    _check(args)
    if args.sync:
        return sync.run(args)
    _check_out(args)
    out = args.out.resolve()
    source = _open_source(args)
    store = _store_to_extend(args, source) if args.append else None
    model = _model(args, source, store)
    with kept_until_done(unfinished_beside(out)) as unfinished:
        made, skipped_list = _make(args, source, store, model, unfinished)
        target = store or new_index.create(unfinished / "index", args, made)
        records = None if source.table is None else source.table.select(made.encoded.rows).records()
        target.append(made.encoded.codes, made.encoded.features, records=records, upsert=args.upsert)
        if store is None:
            target = new_index.moved(target.folder, out)
    _say(args, target, made, skipped_list)
    return 0


def _check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together; `args.data` then is what names the pictures, if anything."""
    if args.data is not None and args.pictures is not None:
        raise UsageError(f"the pictures are named twice, {args.pictures} and --data {args.data}; leave one out")
    args.data = args.data or args.pictures
    args.append = args.append or args.upsert
    if args.data is None and args.embeddings is None:
        raise UsageError("no pictures are named; give a folder, a CSV or a zip of them, or --embeddings NPY")
    if args.ids is not None and (args.embeddings is None or args.data is not None):
        raise UsageError("--ids names the rows of --embeddings that come without pictures; leave it out")
    sync.check(args)
    if args.embeddings is not None:
        leave_out(args, (*NETWORK_FLAGS, "--model"), "--embeddings are taken as they are, and no network is run")
    if args.append:
        leave_out(args, (*NETWORK_FLAGS, "--code-size"), "--append takes the model that made the index")
    elif not (args.sync and taken(args.out)):
        new_index.check(args)


def _check_out(args: argparse.Namespace) -> None:
    """An error when --out cannot be written, before the long work."""
    if args.append:
        from hashret.index.store import Store

        Store.open(args.out)
    elif taken(args.out):
        raise UsageError(
            f"{args.out} exists; choose another --out, add to it with --append, or let it follow with --sync"
        )
    check_folder_can_be_made("--out", args.out)


def _open_source(args: argparse.Namespace) -> _Source:
    """The table of pictures, the embeddings, or both; DataError when they are not as many."""
    if args.embeddings is None:
        table = open_data(args)
        return _Source(table.name, table, None)

    from hashret.data.embeddings import open_embeddings, read_ids
    from hashret.data.table import PictureTable

    embeddings = open_embeddings(args.embeddings)
    n = len(embeddings)
    if args.data is not None:
        table = open_data(args)
        if len(table) != n:
            raise DataError(
                f"{args.embeddings} holds {counted(n, 'vector')} for {counted(len(table), 'picture')} of {table.name}; "
                "expected one for each, in the order of `hashret data table`"
            )
        return _Source(table.name, table, embeddings)
    if args.ids is None:
        return _Source(args.embeddings.name, None, embeddings)
    blank = [""] * n
    named = PictureTable(ids=read_ids(args.ids, n), paths=blank, labels=blank, splits=blank, name=args.embeddings.name)
    return _Source(named.name, named, embeddings)


def _store_to_extend(args: argparse.Namespace, source: _Source) -> Store:
    """The index to append to, checked before the long work: what it holds, the ids it has."""
    from hashret.index.store import Store

    store = Store.open(args.out)
    wanted = {"hamming", "cosine"} if args.metric == "both" else {args.metric}
    if args.metric is not None and wanted != set(store.metrics):
        raise UsageError(f"{args.out} holds {' and '.join(store.metrics)}; leave --metric out when appending")
    if args.feature_dtype not in (None, store.feature_dtype):
        holds = f"keeps features as {store.feature_dtype}" if store.feature_dtype else "holds no features"
        raise UsageError(f"{args.out} {holds}; leave --feature-dtype out when appending")
    ids = [] if source.table is None else source.table.ids
    here = (
        [] if args.upsert else [name for name, found in zip(ids, store.find(ids).tolist(), strict=True) if found >= 0]
    )
    if here:
        raise UsageError(
            f"{counted(len(here), 'id')} of {source.name} {'is' if len(here) == 1 else 'are'} in {args.out} already, the "
            f"first is {here[0]!r}, so nothing was added; replace what has the id of a new picture with --upsert, or give other "
            "ids in a table (hashret data table)"
        )
    return store


def _model(args: argparse.Namespace, source: _Source, store: Store | None) -> Hasher | Projection | None:
    """What makes codes or, where they are still to be fitted, features; None where those are given.

    With --append it is the model that made the index, or one with the same fingerprint.
    """
    from hashret.model.hasher import Hasher
    from hashret.model.projection import Projection

    if store is None and args.model is None:
        return None if source.embeddings is not None else new_index.pretrained(args)
    where = args.model if store is None else model_place(args.out, store.model, args.model)
    model = (
        Hasher.from_pretrained(where, device=args.device)
        if source.embeddings is None
        else Projection.from_pretrained(where)
    )
    if store is not None:
        store.check_model(model.fingerprint())
    return model


def _make(
    args: argparse.Namespace,
    source: _Source,
    store: Store | None,
    model: Hasher | Projection | None,
    unfinished: Path,
) -> tuple[Made, Path | None]:
    """Codes and features as the index is to hold them, and where pictures left out are listed, None without any.

    Codes are fitted where no model brings its own.
    """
    from hashret.model.projection import Projection

    fits = store is None and args.model is None
    metrics = new_index.metrics(args) if store is None else store.metrics
    what = ["features"] if fits else new_index.kinds(metrics)
    encoded, skipped_list = _encoded(args, source, model, what, unfinished)
    if fits:
        assert not isinstance(model, Projection)
        return new_index.fit(args, encoded, model, source.name, _noun(args)), skipped_list
    assert model is not None
    return Made(encoded, model, None), skipped_list


def _encoded(
    args: argparse.Namespace, source: _Source, model: Hasher | Projection | None, what: list[str], unfinished: Path
) -> tuple[Encoded, Path | None]:
    """`what` of every picture or vector, and where pictures left out are listed, None without any."""
    import numpy as np

    from hashret.encoding import Encoded
    from hashret.model.hasher import Hasher

    if isinstance(model, Hasher):
        assert source.table is not None
        out = args.out.resolve()
        listed = out.with_name(out.name + ".skipped.txt")
        return encode(args, model, source.table, what, unfinished, listed, "nothing was indexed")
    features: Any = source.embeddings
    codes = None if model is None else model.encode(features)
    return Encoded(np.arange(len(features)), codes, features, None, []), None


def _say(args: argparse.Namespace, store: Store, made: Made, skipped_list: Path | None) -> None:
    """Print what was written, and what was measured of codes that were fitted."""
    added = len(made.encoded)
    new_index.say_outgrown(made.model, store, _noun(args))
    if args.json:
        print_json(
            {
                "index": args.out,
                "added": added,
                "skipped": len(made.encoded.skipped),
                "skipped_list": skipped_list,
                "pictures": len(store),
                "metrics": store.metrics,
                "code_size": store.code_size,
                "dim": store.dim,
                **made.summary(),
            }
        )
        return
    kept = "" if store.feature_dtype == "float32" else f"{store.feature_dtype} "
    holds = {"hamming": f"codes of {store.code_size} bits", "cosine": f"features of {store.dim} {kept}numbers"}
    what_it_holds = " and ".join(holds[metric] for metric in store.metrics)
    said = f"{args.out}: {counted(added, _noun(args))} added, {len(store):,} in all, {what_it_holds}"
    print("\n".join([*made.lines(args), said]))


def _noun(args: argparse.Namespace) -> str:
    return "vector" if args.data is None else "picture"
