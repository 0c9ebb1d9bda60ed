"""`hashret index --migrate`: an index's pictures by another model, in one step."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hashret.cli import new_index
from hashret.cli.options import counted, print_json
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import SearchError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.index.records import Record
    from hashret.index.store import Store


_OF_NEW_INDEXES = (*new_index.NETWORK_FLAGS, "--code-size", "--metric", "--feature-dtype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flag."""
    parser.add_argument(
        "--migrate",
        metavar="NEWMODEL",
        help="encode the pictures of an index anew by another model, beside it, and switch to that in one step; ids stay",
    )


def check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together."""
    if args.migrate is None:
        return
    given = [
        flag
        for flag, there in (
            ("PICTURES", args.data is not None or args.pictures is not None),
            ("--model", args.model),
            ("--append", args.append or args.upsert),
            ("--sync", args.sync),
            ("--embeddings", args.embeddings),
            ("--split", args.split),
            ("--ids", args.ids),
            ("--label-map", args.label_map),
            ("--dry-run", args.dry_run),
            ("--allow-removals", args.allow_removals),
            *((flag, True) for flag in new_index.typed(args, _OF_NEW_INDEXES)),
        )
        if there
    ]
    if given:
        raise UsageError(
            f"--migrate takes the pictures of the index and the new model as it is; leave out {', '.join(given)}"
        )


def run(args: argparse.Namespace) -> int:
    """Encode, switch and print."""
    from hashret.following import without_stale_stamps
    from hashret.index.store import Store
    from hashret.model.folder import resolve_model
    from hashret.model.hasher import Hasher

    store = Store.open(args.out)
    hasher = Hasher.from_pretrained(args.migrate, device=args.device)
    before = store.model or {}
    if before.get("fingerprint") == hasher.fingerprint():
        raise UsageError(
            f"{args.out} was made by {args.migrate} already, or by a copy of it; there is nothing to migrate"
        )
    ids = store.ids
    records = [record for record in store.records(ids, with_stamps=True) if record is not None and record["path"]]
    if without := len(ids) - len(records):
        raise SearchError(
            f"{counted(without, 'row')} of {args.out} {'has' if without == 1 else 'have'} no path of a picture, so nothing was "
            "changed; make a new index of what they stand for"
        )
    what = new_index.kinds(store.metrics)
    out = args.out.resolve()
    with kept_until_done(unfinished_beside(out)) as unfinished:
        listed = out.with_name(out.name + ".skipped.txt")
        table = _table(records, str(args.out))
        encoded, skipped_list = encode(args, hasher, table, what, unfinished, listed, "nothing was changed")
        rows = encoded.rows.tolist()
        store.migrate(
            encoded.codes,
            encoded.features,
            ids[rows],
            without_stale_stamps([records[row] for row in rows]),
            code_size=None if encoded.codes is None else hasher.code_size,
            dim=None if encoded.features is None else hasher.feature_size,
            model=new_index.described_model(hasher, str(args.migrate), str(resolve_model(args.migrate).absolute())),
            generation=store.generation,
        )
    _say(args, store, before.get("name"), len(encoded.skipped), skipped_list)
    return 0


def _table(records: list[Record], name: str) -> PictureTable:
    """The pictures that an index was made of, with the parts of them that were encoded."""
    from hashret.data.table import BOX_COLUMNS, PictureTable

    boxes = {column: [str(record.get(column, "")) for record in records] for column in BOX_COLUMNS}
    blank = [""] * len(records)
    return PictureTable(
        ids=[record["id"] for record in records],
        paths=[record["path"] for record in records],
        labels=blank,
        splits=blank,
        attributes=boxes if any(map(any, boxes.values())) else {},
        name=name,
    )


def _say(args: argparse.Namespace, store: Store, before: str | None, skipped: int, skipped_list: Path | None) -> None:
    if args.json:
        print_json(
            {
                "index": args.out,
                "pictures": len(store),
                "skipped": skipped,
                "skipped_list": skipped_list,
                "model_before": before,
                "model": store.model,
                "code_size": store.code_size,
                "dim": store.dim,
            }
        )
        return
    gone = f", {skipped:,} that cannot be read left out" if skipped else ""
    print(
        f"{args.out}: {counted(len(store), 'picture')} by {args.migrate} now, before by {before or 'no model it names'}{gone}"
    )
