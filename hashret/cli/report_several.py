"""`hashret report RUN RUN …`: one HTML page that sets several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hashret.cli.options import counted, print_json
from hashret.cli.report import LookedAt, again, check_out, looked_at_by, run_of, split_as_trained, write_page
from hashret.cli.unfinished import encode, kept_until_done, unfinished_beside
from hashret.errors import DataError, HashretError, UsageError

if TYPE_CHECKING:
    from hashret.data.table import PictureTable
    from hashret.encoding import Encoded
    from hashret.model.hasher import Hasher
    from hashret.report.comparison import Entry


def run_several(args: argparse.Namespace) -> int:
    """Encode the first run's pictures with every model, score, write the page, print where it is."""
    from hashret.model.folder import resolve_model
    from hashret.model.hasher import Hasher
    from hashret.report.comparison import Compared, Side, as_dict, render_comparison, verdicts

    names = [str(name) for name in args.runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice; name each run once")
    folders = [resolve_model(name) for name in names]
    documents = [run_of(folder).read() for folder in folders]
    out = args.out or Path("compare.html")
    check_out(out)
    looked_at = looked_at_by(args, documents[0], run_of(folders[0]))
    hashers = [Hasher.from_pretrained(folder, device=args.device) for folder in folders]
    with kept_until_done(unfinished_beside(out)) as workplace:
        encoded, skipped_list = _encoded(args, hashers, looked_at, workplace, Path(f"{out}.skipped.txt"))
        table = looked_at.table.select(encoded[0].rows)
        entries = _entries(names, hashers, encoded, table, looked_at)
        sides = [
            Side(name, _settings(document, hasher), each)
            for name, document, hasher, each in zip(names, documents, hashers, entries, strict=True)
        ]
        n_skipped = len(looked_at.table) - len(table)
        warnings = _warnings(names, documents, table, looked_at, n_skipped)
        n_queries = len(sides[0].entries[0].query_ids)
        said = [f"Looked at are {looked_at.words}: {counted(n_queries, 'query', 'queries')}.", *verdicts(sides)]
        compared = Compared(said, warnings, [("Make this page again", again(args))])
        n_bytes = write_page(out, render_comparison(sides, compared))
    if args.json:
        print_json(
            {
                "out": out,
                "bytes": n_bytes,
                "data": table.name,
                "validated": looked_at.validated,
                "pictures": len(table),
                "skipped": n_skipped,
                "skipped_list": skipped_list,
                "sentences": said,
                "warnings": warnings,
                "runs": as_dict(sides),
            }
        )
        return 0
    print("\n".join([*said, *warnings]))
    print(f"{out}: {len(sides)} runs side by side; {n_bytes / 1e6:.1f} MB")
    return 0


def _encoded(
    args: argparse.Namespace, hashers: list[Hasher], looked_at: LookedAt, workplace: Path, listed: Path
) -> tuple[list[Encoded], Path | None]:
    """Codes and features of the pictures by every model, row for row; and where those left out are listed."""
    found: list[Encoded] = []
    skipped_list = None
    for number, hasher in enumerate(hashers):
        # Numbered, for one model may be named by two paths.
        part = workplace / f"run-{number}"
        encoded, skipped_list = encode(
            args, hasher, looked_at.table, ("codes", "features"), part, listed, "no page was written"
        )
        if found and not np.array_equal(found[0].rows, encoded.rows):
            raise DataError(
                f"some of {looked_at.words} could be read at first and then could not, or the other way round; run it again "
                "while nobody changes them"
            )
        found.append(encoded)
    return found, skipped_list


def _entries(
    names: list[str], hashers: list[Hasher], encoded: list[Encoded], table: PictureTable, looked_at: LookedAt
) -> list[list[Entry]]:
    """For each run its codes and its features, scored on the same queries by one rule."""
    from hashret.evaluation.compare import Representation, compare
    from hashret.evaluation.curves import rank_curves
    from hashret.evaluation.gallery import gallery_rule
    from hashret.report.comparison import entry_of

    labelled = np.flatnonzero([label != "" for label in table.labels])
    if not len(labelled):
        raise DataError(
            f"{looked_at.words} have no label where they can be read, so no answer can be right; label some"
        )
    queries = table.select(labelled)
    rule = gallery_rule("self" if looked_at.validated else "auto", table)
    found = []
    for name, hasher, each in zip(names, hashers, encoded, strict=True):
        assert each.codes is not None and each.features is not None
        both = [
            Representation("codes", each.codes[labelled], each.codes, hasher.code_size),
            Representation("features", each.features[labelled], each.features),
        ]
        results = compare(both, queries, table, rule)
        if not results[0].scores.n_queries:
            raise DataError(
                f"none of {looked_at.words} has another picture of its own class, so there is nothing to find; look at "
                "classes with two pictures at least"
            )
        curves = rank_curves(both, queries, table, rule)
        found.append(
            [
                entry_of(result, name, result.name, queries.ids, curve)
                for result, curve in zip(results, curves, strict=True)
            ]
        )
    return found


def _settings(document: Mapping[str, Any], hasher: Hasher) -> dict[str, Any]:
    """What a run was made with, the defaults of today where it does not say."""
    from hashret.training.options import TrainingOptions

    versions = document.get("versions")
    about = {name: document[name] for name in ("data", "task", "margin", "pictures", "seconds") if name in document}
    options = {**TrainingOptions().as_dict(), **document.get("options", {})}
    return {
        **about,
        "epoch": hasher.scores.get("epoch"),
        **{name: value for name, value in options.items() if name not in ("workers", "device")},
        **{f"version of {name}": value for name, value in (versions if isinstance(versions, Mapping) else {}).items()},
    }


def _warnings(
    names: list[str], documents: list[dict[str, Any]], table: PictureTable, looked_at: LookedAt, n_skipped: int
) -> list[str]:
    """What makes the comparison less than fair: pictures that a run has learnt from, or that chose its epoch."""
    from hashret.data.sources import open_source

    said = []
    looked = set(table.paths)
    chosen_by = []
    for name, document in zip(names, documents, strict=True):
        source = document["source"] or {}
        try:
            if "data" not in source:
                raise UsageError("it was started from Python")
            split = split_as_trained(open_source(source["data"], source.get("label_map")), document)
        except HashretError as error:
            said.append(
                f"What {name} was trained on cannot be seen any more ({error}); it may have learnt from these pictures."
            )
            continue
        n_learnt = len(looked & set(split.train.paths))
        if n_learnt:
            said.append(
                f"{name} was trained on {n_learnt:,} of these {counted(len(table), 'picture')}, so its scores are too high."
            )
        if looked & set(split.validation.paths):
            chosen_by.append(name)
    if chosen_by:
        said.append(
            f"These pictures chose the best epoch of {', '.join(chosen_by)}: on new pictures expect a little less, or look at "
            "a split that no run has seen, with --split."
        )
    if n_skipped:
        said.append(
            f"{counted(n_skipped, 'picture')} could not be read and {'is' if n_skipped == 1 else 'are'} left out."
        )
    return said
