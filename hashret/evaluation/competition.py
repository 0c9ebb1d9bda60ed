"""Competition CSV: `id,classes`, up to five classes a picture, best first, parted by blanks; written, checked, read and scored.

The form of Kaggle's "Humpback Whale Identification" and its kin, where the class "-1" is given to what is of no class.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hashret.data.table import LABELS_PARTED_BY, decode_csv, nfc
from hashret.errors import DataError
from hashret.evaluation.strangers import LONGEST, STRANGER
from hashret.metrics import map_at_k_of_lists

HEADER = ["id", "classes"]


def write(path: Path, answers: Mapping[str, Sequence[str]]) -> None:
    """Write a submission, whole or not at all; DataError for an id or a class that a line has no room for."""
    check_names([name for classes in answers.values() for name in classes])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows([name, " ".join(classes)] for name, classes in answers.items())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(buffer.getvalue(), "utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_names(class_names: Collection[str]) -> None:
    """DataError for a class whose name cannot stand among others that blanks part: an empty one, or one with a blank in it."""
    for name in class_names:
        if len(name.split()) != 1 or name != name.strip():
            raise DataError(
                f"the class {name!r} is empty or has blanks, and classes are parted by blanks; rename it with --label-map"
            )


def is_submission(path: Path) -> bool:
    """Whether the first line of a file is that of a submission; not where it cannot be read."""
    try:
        with path.open("rb") as opened:
            first = opened.readline(100).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return [column.strip().strip('"').lower() for column in first.split(",")] == HEADER


def read(
    path: Path, ids: Collection[str], class_names: Collection[str] | None = None, k: int = LONGEST
) -> dict[str, list[str]]:
    """The classes that a submission gives each id, checked: every id once and no other, 1 to k classes, each once and known.

    class_names: the classes there are, beside the stranger class; None lets all pass. DataError with the line of the first
    thing that is wrong.
    """
    wanted, known = set(ids), None if class_names is None else {*class_names, STRANGER}
    answers: dict[str, list[str]] = {}
    for line, (name, text) in _rows(path):
        classes = text.split()
        if name not in wanted:
            raise DataError(
                f"{path}, line {line}: the id {name!r} is none of the {len(wanted):,} to be answered; remove it"
            )
        if name in answers:
            raise DataError(f"{path}, line {line}: the id {name!r} comes a second time, expected one line each")
        if not 1 <= len(classes) <= k:
            raise DataError(f"{path}, line {line}: found {len(classes)} classes for {name!r}, expected 1 to {k}")
        twice = [each for i, each in enumerate(classes) if each in classes[:i]]
        if twice:
            raise DataError(f"{path}, line {line}: the class {twice[0]!r} is named twice, expected each class once")
        unknown = [each for each in classes if known is not None and each not in known]
        if unknown:
            raise DataError(
                f"{path}, line {line}: there is no class {unknown[0]!r} among the {len(known or ()) - 1:,} of the table; correct "
                "it"
            )
        answers[name] = classes
    missing = [name for name in ids if name not in answers]
    if missing:
        raise DataError(
            f"{path} has no line for {len(missing):,} of the {len(wanted):,} ids, the first is {missing[0]!r}; expected one each"
        )
    return answers


def read_truths(path: Path) -> tuple[dict[str, set[str]], dict[str, str]]:
    """(the true classes of each id, its split) of a CSV with the columns id and label, or id and classes; split is optional.

    Labels are parted by semicolons, classes by blanks; what has neither is of no class, and its truth the stranger class.
    DataError for a file that is no such table.
    """
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    truths: dict[str, set[str]] = {}
    splits: dict[str, str] = {}
    try:
        header = [column.strip().lower() for column in next(rows, [])]
        named = next((column for column in ("label", "classes") if column in header), None)
        if "id" not in header or named is None:
            found = ", ".join(header)[:120] or "nothing"
            raise DataError(
                f"{path} has in its first line: {found}; expected the columns id and label, or id and classes"
            )
        at, of, split = header.index("id"), header.index(named), header.index("split") if "split" in header else None
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{path}, line {rows.line_num}: found {len(row)} fields, expected {len(header)}")
            name, text = nfc([row[at], row[of]])
            if not name or name in truths:
                why = f"the id {name!r} comes a second time" if name else "the id is empty"
                raise DataError(f"{path}, line {rows.line_num}: {why}, expected every id once")
            parts = text.split(LABELS_PARTED_BY) if named == "label" else text.split()
            truths[name] = {part.strip() for part in parts if part.strip()} or {STRANGER}
            splits[name] = "" if split is None else row[split].strip()
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not readable as CSV ({error}); quote or repair it") from error
    return truths, splits


def score(answers: Mapping[str, Sequence[str]], truths: Mapping[str, Collection[str]], k: int = LONGEST) -> float:
    """MAP@k of answers that `read` has checked, over the ids of `truths`."""
    return map_at_k_of_lists([answers[name] for name in truths], list(truths.values()), k)


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """The lines of a submission with their numbers."""
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(rows, [])
        if [column.strip().lower() for column in header] != HEADER:
            raise DataError(
                f"{path}, line 1: found {','.join(header)[:80]!r}, expected the header `{','.join(HEADER)}`"
            )
        for row in rows:
            if row and len(row) != len(HEADER):
                raise DataError(
                    f"{path}, line {rows.line_num}: found {len(row)} fields, expected an id, a comma and classes parted by blanks"
                )
            if row:
                name, classes = nfc(row)
                yield rows.line_num, (name, classes)
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: not readable as CSV ({error}); quote or repair it") from error


def _text(path: Path) -> str:
    try:
        return decode_csv(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
