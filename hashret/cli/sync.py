"""`hashret index --sync`: an index that follows its folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.cli import new_index
from hashret.cli.new_index import NETWORK_FLAGS, Made
from hashret.cli.options import check_folder_can_be_made, counted, model_place, open_data, print_json, taken
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import SearchError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.following import Changes
    from hashret.index.store import Store
    from hashret.model.hasher import Hasher

LISTED = 20
"""Pictures of a kind that a dry run names; --json names all."""
SMALL = 10
"""Of an index with fewer pictures than this more than half may go without being asked for; all of them never."""

_KINDS = ("added", "changed", "encoded_anew", "moved", "updated", "touched", "removed")


@dataclasses.dataclass(frozen=True)
class _Done:
    """The index as it is now, how much was done of each kind, what was encoded, and where the pictures left out are listed."""

    store: Store
    counts: dict[str, int]
    made: Made | None
    skipped_list: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--sync",
        action="store_true",
        help="make an index follow the pictures: add, encode anew, move and remove what changed, in one step, by the model that "
        "made it; an index that is not there yet is made",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --sync: say what would be done, and do nothing")
    parser.add_argument(
        "--allow-removals",
        action="store_true",
        help="with --sync: let more than half of the pictures go, which else is taken for a disk that is not there",
    )


def check(args: argparse.Namespace) -> None:
    """UsageError for flags that do not go together."""
    if args.sync and args.append:
        flag, does = ("--upsert", "replaces changed") if args.upsert else ("--append", "adds new")
        raise UsageError(f"--sync {does} pictures too; leave out {flag}")
    if args.sync and args.embeddings is not None:
        raise UsageError("--sync encodes pictures by the network of the index; add --embeddings with --append")
    for flag, given in (("--dry-run", args.dry_run), ("--allow-removals", args.allow_removals)):
        if given and not args.sync:
            raise UsageError(f"{flag} is for --sync; add it, or leave {flag} out")


def run(args: argparse.Namespace) -> int:
    """Compare, encode what is new, and commit all at once."""
    from hashret.following import compare

    table = open_data(args)
    if args.dry_run:
        return _say_what_would_be(args, table)
    check_folder_can_be_made("--out", args.out)
    with _alone(args.out), kept_until_done(unfinished_beside(args.out)) as unfinished:
        store = _opened(args) if taken(args.out) else None
        hasher = _hasher(args, store) if _names_a_model(args, store) else None
        changes = compare(table, store)
        _require_few_removals(args, changes)
        if store is None or changes.encode_rows:
            hasher = hasher or _hasher(args, store)
        done = _brought_up_to_date(args, store, hasher, changes, unfinished)
    _say(args, done)
    return 0


def _say(args: argparse.Namespace, done: _Done) -> None:
    """Print what was done, and what was measured of codes that were fitted."""
    store, counts = done.store, done.counts
    if counts["encoded_anew"]:
        print(
            f"{counted(counts['encoded_anew'], 'picture was', 'pictures were')} encoded anew, for the index had nothing to "
            "compare their files with; now it has",
            file=sys.stderr,
        )
    if counts["kept"]:
        print(
            f"{counted(counts['kept'], 'picture')} that cannot be read now {'stays' if counts['kept'] == 1 else 'stay'} in the "
            "index as before",
            file=sys.stderr,
        )
    if done.made is not None:
        new_index.say_outgrown(done.made.model, store, "picture")
    if args.json:
        print_json(
            {
                "index": args.out,
                "dry_run": False,
                **counts,
                "skipped_list": done.skipped_list,
                "pictures": len(store),
                "metrics": store.metrics,
                "code_size": store.code_size,
                "dim": store.dim,
                **({} if done.made is None else done.made.summary()),
            }
        )
        return
    measured = [] if done.made is None else done.made.lines(args)
    print("\n".join([*measured, f"{args.out}: {_in_words(counts)}; {counted(len(store), 'picture')} in all"]))


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Only one command brings an index up to date; SearchError at once when another does."""
    from filelock import FileLock, Timeout

    resolved = out.resolve()
    file = resolved.with_name(resolved.name + ".sync.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise SearchError(f"another command is bringing {out} up to date; wait for it and try again") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            file.unlink()
        lock.release()


def _opened(args: argparse.Namespace) -> Store:
    """The index to bring up to date, which must be what the flags say, if they say anything."""
    from hashret.index.store import Store

    store = Store.open(args.out)
    if "inner_product" in store.metrics:
        raise SearchError(
            f"{args.out} holds features for inner product, which no model of hashret makes; append in Python"
        )
    wanted = {"hamming", "cosine"} if args.metric == "both" else {args.metric}
    if args.metric is not None and wanted != set(store.metrics):
        raise UsageError(f"{args.out} holds {' and '.join(store.metrics)}; leave --metric out")
    if args.feature_dtype not in (None, store.feature_dtype):
        raise UsageError(f"{args.out} keeps features as {store.feature_dtype or 'none'}; leave --feature-dtype out")
    return store


def _names_a_model(args: argparse.Namespace, store: Store | None) -> bool:
    """Whether flags say what model the index is to have, which is looked at before anything else, even if nothing changed."""
    return args.model is not None or (
        store is not None and bool(new_index.typed(args, (*NETWORK_FLAGS, "--code-size")))
    )


def _hasher(args: argparse.Namespace, store: Store | None) -> Hasher:
    """The model that made the index, from where the flags or the index say; for a new one the one that is to make it.

    SearchError when the flags name another one, UsageError when they ask for another network.
    """
    if store is None and args.model is None:
        return new_index.pretrained(args)

    from hashret.model.hasher import Hasher

    where = args.model if store is None else model_place(args.out, store.model, args.model)
    hasher = Hasher.from_pretrained(where, device=args.device)
    if store is not None:
        store.check_model(hasher.fingerprint())
        new_index.require_made_with(args, hasher)
    return hasher


def _too_many_gone(changes: Changes) -> bool:
    """Whether so much is gone that it is more likely that something else is wrong."""
    gone, pictures = len(changes.removed), changes.pictures
    return 0 < gone == pictures or (pictures >= SMALL and 2 * gone > pictures)


def _require_few_removals(args: argparse.Namespace, changes: Changes) -> None:
    if _too_many_gone(changes) and not args.allow_removals:
        raise SearchError(
            f"{len(changes.removed):,} of the {counted(changes.pictures, 'picture')} of {args.out} are not in {args.data} any "
            "more, so nothing was done; see that its disk is there and the folder is the right one, or let them go with "
            "--allow-removals"
        )


def _brought_up_to_date(
    args: argparse.Namespace, store: Store | None, hasher: Hasher | None, changes: Changes, unfinished: Path
) -> _Done:
    """Encode what is new, and commit it all; a new index appears whole.

    A store or a hasher is given, and a hasher where anything is to be encoded.
    """
    from hashret.following import bring_up_to_date

    out = args.out.resolve()
    fits = store is None and args.model is None
    metrics = new_index.metrics(args) if store is None else store.metrics
    made, skipped_list = None, None
    if changes.encode_rows and hasher is not None:
        what = ["features"] if fits else new_index.kinds(metrics)
        listed = out.with_name(out.name + ".skipped.txt")
        undone = "nothing was indexed" if store is None else None
        encoded, skipped_list = encode(args, hasher, changes.to_encode(), what, unfinished, listed, undone)
        encoded = changes.in_table_order(encoded)
        made = (
            new_index.fit(args, encoded, hasher, changes.table.name, "picture") if fits else Made(encoded, hasher, None)
        )
    target = store
    if target is None:
        assert made is not None
        target = new_index.create(unfinished / "index", args, made)
    kept = bring_up_to_date(target, changes, None if made is None else made.encoded)
    if store is None:
        target = new_index.moved(target.folder, out)
    counts = _counts(changes, 0 if made is None else len(made.encoded.skipped), set(kept))
    return _Done(target, counts, made, skipped_list)


def _counts(changes: Changes, skipped: int, kept: set[str]) -> dict[str, int]:
    """How many pictures of each kind; what could not be read is in `skipped`, and in `kept` where the index has it still."""
    counts = {kind: len(getattr(changes, kind)) for kind in _KINDS}
    counts["added"] -= skipped - len(kept)
    counts["changed"] -= len(kept.intersection(changes.changed))
    counts["encoded_anew"] -= len(kept.intersection(changes.encoded_anew))
    return {**counts, "unchanged": len(changes.unchanged_rows), "skipped": skipped, "kept": len(kept)}


def _said(kind: str) -> str:
    return kind.replace("_", " ")


def _in_words(counts: dict[str, int]) -> str:
    """What was done, without what was not."""
    kinds = [f"{counts[kind]:,} {_said(kind)}" for kind in (*_KINDS, "unchanged") if counts[kind]]
    return ", ".join(kinds) or "nothing to do"


def _say_what_would_be(args: argparse.Namespace, table: PictureTable) -> int:
    """The dry run: the same comparison, and its result as lines or one JSON document."""
    from hashret.following import compare

    store = _opened(args) if taken(args.out) else None
    if _names_a_model(args, store):
        _hasher(args, store)
    changes = compare(table, store)
    counts = _counts(changes, 0, set())
    refused = _too_many_gone(changes) and not args.allow_removals
    if args.json:
        pictures = changes.pictures + counts["added"] - counts["removed"]
        lists: dict[str, Any] = {kind: getattr(changes, kind) for kind in _KINDS}
        document = {"index": args.out, "dry_run": True, "needs_allow_removals": refused, **counts, "pictures": pictures}
        print_json({**document, "changes": lists})
        return 0
    for kind in _KINDS:
        names = getattr(changes, kind)
        for name in names[:LISTED]:
            print(f"{_said(kind):<12}  {' -> '.join(name) if isinstance(name, tuple) else name}")
        if len(names) > LISTED:
            print(f"{_said(kind):<12}  ... and {len(names) - LISTED:,} more")
    print(f"{args.out} would have: {_in_words(counts)}; nothing was written")
    if refused:
        print("so many removals would be refused without --allow-removals", file=sys.stderr)
    return 0
