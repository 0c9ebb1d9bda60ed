"""A table of pictures: the only way by which pictures enter hashret, and its CSV form.

The CSV: UTF-8 (with or without a byte-order mark), commas, one header line. Columns `id` (unique) and `path` are
required, `label` and `split` optional, every further column is an attribute and kept in order. Paths are absolute, or
relative to the CSV's folder; "cars.zip::a/b.jpg" is a picture inside a zip. The columns x1, y1, x2, y2, where present,
are the box to cut out, in pixels of the upright picture.
"""

from __future__ import annotations

import csv
import io
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hashret.errors import DataError
from hashret.images import Box

CORE_COLUMNS = ("id", "path", "label", "split")
LABELS_PARTED_BY = ";"
"""Between the labels of a picture that has several."""
BOX_COLUMNS = ("x1", "y1", "x2", "y2")
LABEL_MAP_COLUMNS = (("label", "class"), ("from", "to"), ("class_id", "class_name"))


def nfc(texts: Iterable[str]) -> list[str]:
    """The texts in Unicode's composed form (NFC), in which labels and ids are kept and compared."""
    return [text if text.isascii() else unicodedata.normalize("NFC", text) for text in texts]


@dataclass
class PictureTable:
    """N pictures: ids, paths, labels ("" = unknown), splits ("" = none) and attribute columns, each of length N.

    Ids, labels and splits are kept in NFC, labels and splits without surrounding spaces; paths stay as the disk spells
    them. `name` says where the table came from. Raises DataError when the columns differ in length. Ids may repeat
    only in a table that is to be checked: everything else reads tables through `read_csv` or `data.open_source`, which
    refuse that.
    """

    ids: list[str]
    paths: list[str]
    labels: list[str]
    splits: list[str]
    attributes: dict[str, list[str]] = field(default_factory=dict)
    name: str = "pictures"

    def __post_init__(self) -> None:
        self.ids = nfc(self.ids)
        self.paths = list(self.paths)
        self.labels = nfc(label.strip() for label in self.labels)
        self.splits = nfc(split.strip() for split in self.splits)
        self.attributes = {column: list(values) for column, values in self.attributes.items()}
        for column, values in {
            "paths": self.paths,
            "labels": self.labels,
            "splits": self.splits,
            **self.attributes,
        }.items():
            if len(values) != len(self.ids):
                raise DataError(
                    f"{self.name}: {column} has {len(values)} entries for {len(self.ids)} ids; give one for each picture"
                )
        reserved = [column for column in self.attributes if column in CORE_COLUMNS or not column]
        if reserved:
            raise DataError(f"{self.name}: an attribute cannot be named {reserved[0]!r}; choose another name")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> PictureTable:
        """The table of these rows: row numbers in the order wanted, or one truth value for each row."""
        chosen = np.asarray(rows)
        if chosen.dtype == np.bool_:
            if chosen.shape != (len(self),):
                raise DataError(
                    f"{self.name}: the mask has shape {chosen.shape} for {len(self)} pictures; give one value for each"
                )
            chosen = np.flatnonzero(chosen)
        elif chosen.size and (chosen.ndim != 1 or chosen.dtype.kind not in "iu"):
            raise DataError(f"{self.name}: rows must be a list of row numbers, found {chosen.dtype} {chosen.shape}")
        elif chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise DataError(
                f"{self.name}: row {chosen.min() if chosen.min() < 0 else chosen.max()} does not exist; "
                f"the table has rows 0 to {len(self) - 1}"
            )
        order: list[int] = chosen.tolist()

        def pick(values: list[str]) -> list[str]:
            return [values[row] for row in order]

        return PictureTable(
            ids=pick(self.ids),
            paths=pick(self.paths),
            labels=pick(self.labels),
            splits=pick(self.splits),
            attributes={column: pick(values) for column, values in self.attributes.items()},
            name=self.name,
        )

    def where_split(self, *splits: str) -> PictureTable:
        """The pictures of these splits, in table order. Raises DataError when the table has no picture in one."""
        wanted = set(nfc(splits))
        present = Counter(self.splits)
        missing = sorted(wanted - present.keys())
        if missing:
            have = ", ".join(f"{split!r} ({count:,})" for split, count in sorted(present.items()) if split)
            raise DataError(f"{self.name} has no split {missing[0]!r}; it has {have or 'no splits'}")
        return self.select(np.array([split in wanted for split in self.splits], dtype=bool))

    def with_label_map(self, label_map: str | os.PathLike[str] | Mapping[str, str]) -> PictureTable:
        """The same table with labels merged: each label that the map names is replaced, the others stay.

        label_map: a dict, or a CSV with the columns label,class (or from,to or class_id,class_name).
        Raises DataError when none of the map's labels is in the table.
        """
        if isinstance(label_map, Mapping):
            source, mapping = "the label map", dict(zip(nfc(label_map.keys()), nfc(label_map.values()), strict=True))
        else:
            source, mapping = str(label_map), read_label_map(label_map)
        if len(self) and not any(label in mapping for label in self.labels):
            raise DataError(
                f"{source} names no label of {self.name} (it maps {_some(mapping)}; the table has "
                f"{_some(set(self.labels) - {''})}); the first column must hold the table's labels"
            )
        return PictureTable(
            ids=self.ids,
            paths=self.paths,
            labels=[mapping.get(label, label) for label in self.labels],
            splits=self.splits,
            attributes=self.attributes,
            name=self.name,
        )

    def class_ids(self) -> tuple[npt.NDArray[np.int64], list[str]]:
        """(class numbers (N,) int64, class names): numbers count the sorted names from 0, unknown labels are -1."""
        names = sorted(set(self.labels) - {""})
        number = {name: i for i, name in enumerate(names)}
        number[""] = -1
        return np.array([number[label] for label in self.labels], dtype=np.int64), names

    def label_lists(self) -> list[list[str]]:
        """The labels of each picture, sorted, each once: they are parted by semicolons."""
        return [sorted({part.strip() for part in label.split(LABELS_PARTED_BY)} - {""}) for label in self.labels]

    def label_matrix(self) -> tuple[npt.NDArray[np.bool_], list[str]]:
        """(which labels a picture has (N, C), label names sorted): a picture's labels are parted by semicolons."""
        of_row = self.label_lists()
        names = sorted(set().union(*of_row))
        return np.array([[name in labels for name in names] for labels in of_row], dtype=bool).reshape(
            len(of_row), len(names)
        ), names

    def box(self, row: int) -> Box | None:
        """The box (x1, y1, x2, y2) of a row, from the columns of these names; None where they are absent or empty."""
        if not all(column in self.attributes for column in BOX_COLUMNS):
            return None
        texts = [self.attributes[column][row].strip() for column in BOX_COLUMNS]
        if not any(texts):
            return None
        try:
            x1, y1, x2, y2 = (float(text) for text in texts)
        except ValueError:
            x1 = y1 = x2 = y2 = math.nan
        if not all(math.isfinite(edge) for edge in (x1, y1, x2, y2)):
            raise DataError(f"{self.name}: the box of {self.ids[row]!r} is {','.join(texts)}; expected four numbers")
        return x1, y1, x2, y2

    def records(self) -> list[dict[str, str]]:
        """One dict a picture: id, path, label, split and the attributes."""
        columns = self._columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def require_unique_ids(self) -> PictureTable:
        """The table itself; raises DataError when an id occurs twice."""
        if len(set(self.ids)) != len(self.ids):
            twice, count = Counter(self.ids).most_common(1)[0]
            raise DataError(
                f"{self.name}: the id {twice!r} occurs {count} times; ids must be unique "
                "(`hashret data check` lists every duplicate)"
            )
        return self

    @classmethod
    def read_csv(cls, path: str | os.PathLike[str], *, allow_duplicates: bool = False) -> PictureTable:
        """The table in a CSV file; relative paths are taken from the CSV's folder.

        Raises DataError, with the line, when the file is missing, not UTF-8, without id and path columns, ragged, or
        has an id twice (unless allow_duplicates).
        """
        source = Path(path)
        folder = str(source.absolute().parent)

        def locate(written: str) -> str:
            return os.path.join(folder, written)  # noqa: PTH118  a Path for each of a million rows takes seconds

        return cls.parse_csv(read_text(source), str(path), locate, allow_duplicates=allow_duplicates)

    @classmethod
    def parse_csv(
        cls, text: str, name: str, locate: Callable[[str], str], *, allow_duplicates: bool = False
    ) -> PictureTable:
        """The table in a CSV's text; `locate` turns a path as written into one that can be opened."""
        header, columns = parse_columns(text, name)
        for required in ("id", "path"):
            if required not in header:
                raise DataError(
                    f"{name} has no column {required!r} (found {', '.join(header)}); the first line must name the "
                    "columns: id,path and, where known, label,split"
                )
        n = len(columns[0])
        fields = dict(zip(header, columns, strict=True))
        for required in ("id", "path"):
            if "" in fields[required]:
                line = line_of(text, fields[required].index(""))
                raise DataError(f"{name}, line {line}: the {required} is empty; give every picture one")
        table = cls(
            ids=fields["id"],
            paths=[locate(written) for written in fields["path"]],
            labels=fields.get("label", [""] * n),
            splits=fields.get("split", [""] * n),
            attributes={column: values for column, values in fields.items() if column not in CORE_COLUMNS},
            name=name,
        )
        return table if allow_duplicates else table.require_unique_ids()

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the table, replacing the file in one step; paths below the CSV's folder are written relative to it.

        Raises DataError when the file cannot be written or a path cannot be written as UTF-8.
        """
        target = Path(path).absolute()
        folder = str(target.parent).rstrip(os.sep) + os.sep
        columns = self._columns()
        columns["path"] = [_written(path, folder) for path in self.paths]
        text = _csv(columns, csv.QUOTE_MINIMAL)
        if "\r" in text:  # which the csv module, ending lines with "\n", leaves bare
            text = _csv(columns, csv.QUOTE_ALL)
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError as error:
            bad = error.object[max(0, error.start - 40) : error.end].rpartition("\n")[2]
            raise DataError(
                f"{bad!r} is no Unicode name (an old encoding such as cp949?); rename the file to UTF-8, "
                "for instance with convmv"
            ) from error
        _replace(target, content)

    def _columns(self) -> dict[str, list[str]]:
        core = {"id": self.ids, "path": self.paths, "label": self.labels, "split": self.splits}
        return {**core, **self.attributes}


def read_label_map(path: str | os.PathLike[str]) -> dict[str, str]:
    """{label: class} from a CSV whose columns are label,class (or from,to, or class_id,class_name).

    Not transitive: what a label becomes is not looked up again. Further columns are ignored.
    Raises DataError when the columns are others, or one label is given two classes.
    """
    name = str(path)
    text = read_text(Path(path))
    header, columns = parse_columns(text, name)
    for old, new in LABEL_MAP_COLUMNS:
        if old in header and new in header:
            break
    else:
        raise DataError(f"{name} has the columns {', '.join(header)}; a label map has the columns label,class")
    mapping: dict[str, str] = {}
    olds, news = columns[header.index(old)], columns[header.index(new)]
    for row, (label, merged) in enumerate(zip(nfc(olds), nfc(news), strict=True)):
        label, merged = label.strip(), merged.strip()
        if mapping.setdefault(label, merged) != merged:
            raise DataError(
                f"{name}, line {line_of(text, row)}: {label!r} is mapped to {merged!r} and, above, to {mapping[label]!r}"
            )
    return mapping


def _some(labels: Iterable[str], most: int = 3) -> str:
    names = sorted(labels)
    return ", ".join(repr(label) for label in names[:most]) + (", ..." if len(names) > most else "") or "no labels"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises DataError when it is missing, cannot be read or is no UTF-8."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}; check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return decode_csv(content, str(path))


def decode_csv(content: bytes, name: str) -> str:
    """The text of a CSV file's bytes. Raises DataError, with the line, when it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: the file is not UTF-8; save it anew as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error


def parse_columns(text: str, name: str) -> tuple[list[str], list[list[str]]]:
    """(header, columns) of a CSV's text; core column names in lower case, blank lines left out. DataError when it is none."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[list[str]] = []
    ragged: list[str] | None = None
    n_rows = 0
    try:
        header = next(reader, [])
        columns = [[] for _ in header]
        # Turned into columns batch by batch: a million little lists would keep the garbage collector busy for seconds.
        while ragged is None and (batch := list(islice(reader, 4096))):
            rows = [row for row in batch if row]
            if {len(row) for row in rows} - {len(header)}:
                at = next(i for i, row in enumerate(rows) if len(row) != len(header))
                ragged, n_rows = rows[at], n_rows + at
                break
            for column, values in zip(columns, zip(*rows, strict=True), strict=bool(rows)):
                column.extend(values)
            n_rows += len(rows)
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: not readable as CSV ({error}); quote or repair it") from error
    if not header:
        raise DataError(f"{name} is empty; expected a first line that names the columns: id,path,label,split")
    header = [column.strip() for column in header]
    header = [column.lower() if column.lower() in (*CORE_COLUMNS, *BOX_COLUMNS) else column for column in header]
    if len(header) == 1 and any(other in header[0] for other in ";\t"):
        raise DataError(f"{name}: its columns seem to be separated by semicolons or tabs; expected commas")
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{name}: the column {twice[0]!r} occurs twice; rename or remove one")
    if ragged is not None:
        raise DataError(
            f"{name}, line {line_of(text, n_rows)}: found {len(ragged)} fields, expected {len(header)} as in the first line"
        )
    return header, columns


def line_of(text: str, row: int) -> int:
    """The line of a CSV on which a row (counted from 0, without header and blank lines) ends."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    next(reader)
    next(islice((fields for fields in reader if fields), row, None))
    return reader.line_num


def _csv(columns: Mapping[str, list[str]], quoting: Literal[0, 1]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", quoting=quoting)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue()


def _written(path: str, folder: str) -> str:
    absolute = os.path.abspath(path) if not path.startswith(folder) else path  # noqa: PTH100  see read_csv
    relative = absolute[len(folder) :] if absolute.startswith(folder) else absolute
    return relative.replace(os.sep, "/")


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
