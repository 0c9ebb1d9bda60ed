"""A picture and its nearest ones, drawn: of an index, or of other pictures that its model encodes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashret.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from hashret.data.table import PictureTable
    from hashret.images import Box
    from hashret.index.cosine import FeatureIndex
    from hashret.index.hamming import HammingIndex
    from hashret.model.hasher import Hasher
    from hashret.sheets import SheetPicture

NEARNESS = {"hamming": "distance", "asymmetric": "similarity", "cosine": "similarity", "inner_product": "similarity"}
"""How results call their nearness: bits, smaller is nearer, or a similarity, larger is nearer."""
METRICS = ("hamming", "cosine", "inner_product")
"""What indexes are searched by."""

COLUMNS = 10
"""Pictures beside each other on a sheet; more go on in further lines."""


def show(
    index: HammingIndex | FeatureIndex | str | Path,
    row: int | str,
    k: int = 20,
    *,
    data: PictureTable | str | Path | None = None,
    model: Hasher | str | Path | None = None,
    metric: str | None = None,
) -> Image.Image:
    """One RGB picture: a picture of the index and its k nearest others, which a notebook shows as it is.

    index: an open index or its folder; of a folder that holds both, codes are searched unless `metric` is "cosine". row: a row
    number, counted from 0, or an id; a text that is no id may write a number. data: the picture is a row of this table (or of
    what `open_source` takes) instead, and `model`, which must be the one that made the index, encodes it. Results are framed
    as on other contact sheets: right or wrong where both labels are known and codes were not fitted without labels.
    UsageError for a row that is not there.

    >>> from hashret import show
    >>> show("cars.index", 12).save("found.png")  # doctest: +SKIP
    """
    return nearest_of(index, row, k, data=data, model=model, metric=metric).picture()


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture, by its record and what was shown of it, and the results for it: rank, nearness, record."""

    query: Mapping[str, Any]
    box: Box | None
    results: Sequence[Mapping[str, Any]]
    metric: str
    judged: bool
    """Whether labels say what is right."""

    def picture(self) -> Image.Image:
        """The contact sheet."""
        from hashret.sheets import SheetPicture, SheetRow, contact_sheet

        label = str(self.query["label"])
        name = f"row {self.query['row']}"
        query = SheetPicture(str(self.query["path"]), [name, *([label] if label else [])], None, self.box)
        row = SheetRow(query, sheet_pictures(self.results, self.metric, label if self.judged else ""))
        return contact_sheet([row], columns=COLUMNS)


def nearest_of(
    index: HammingIndex | FeatureIndex | str | Path,
    row: int | str,
    k: int = 20,
    *,
    data: PictureTable | str | Path | None = None,
    model: Hasher | str | Path | None = None,
    metric: str | None = None,
) -> Shown:
    """What `show` draws."""
    from hashret.hamming.arguments import checked_k
    from hashret.index.base import was_fitted

    k = checked_k(k)
    if (data is None) != (model is None):
        raise UsageError(
            "a row of other data is encoded by the model that made the index; give both, data and model, or neither"
        )
    opened, metric = _opened(index, metric)
    if data is None or model is None:
        query, vector, own = _of_index(opened, row)
    else:
        query, vector, own = *_of_data(opened, metric, row, data, model), None
    found: Any = opened.search(vector, min(k + 1, max(1, len(opened))))
    near, ids = (
        [value for value, number in zip(values[0], found[1][0], strict=True) if number >= 0] for values in found
    )
    results = records_of([float(each) for each in near], [int(each) for each in ids], opened, metric)
    box = box_of(query)
    itself = (place_of(str(query["path"])), box)
    others = [
        hit
        for hit, number in zip(results, ids, strict=True)
        if (number != own if own is not None else (place_of(hit["path"]), box_of(hit["attributes"])) != itself)
    ][:k]
    ranked = [{**hit, "rank": rank} for rank, hit in enumerate(others, 1)]
    return Shown(query, box, ranked, metric, judged=not was_fitted(opened.model))


def records_of(distances: Sequence[float], ids: Sequence[int], index: Any, metric: str) -> list[dict[str, Any]]:
    """Rank (from 1), distance in bits or similarity, id, path, label, split and attributes of each result."""
    results = []
    for rank, (distance, number, record) in enumerate(zip(distances, ids, index.records(ids), strict=True), 1):
        attributes = dict(record or {"id": str(number)})
        known = {name: attributes.pop(name, "") for name in ("id", "path", "label", "split")}
        results.append({"rank": rank, NEARNESS[metric]: distance, **known, "attributes": attributes})
    return results


def sheet_pictures(hits: Sequence[Mapping[str, Any]], metric: str, label: str) -> list[SheetPicture]:
    """Results as a contact sheet shows them, right or wrong by `label`, the query's; "" where that is not to be said."""
    from hashret.sheets import SheetPicture, result_caption

    return [
        SheetPicture(
            hit["path"],
            result_caption(hit["rank"], hit[NEARNESS[metric]], hit["label"], metric),
            (hit["label"] == label) if label and hit["label"] else None,
            box_of(hit["attributes"]),
        )
        for hit in hits
    ]


def box_of(attributes: Mapping[str, Any]) -> Box | None:
    """The part of a picture that was indexed or encoded, None for all of it."""
    try:
        x1, y1, x2, y2 = (float(attributes[column]) for column in ("x1", "y1", "x2", "y2"))
    except (KeyError, ValueError, TypeError):
        return None
    return x1, y1, x2, y2


def place_of(path: str) -> tuple[str, str]:
    """What two spellings of a path share: the file, links followed, and the member where the file is a zip."""
    from hashret.images import split_zip_path

    archive, member = split_zip_path(path) or (path, "")
    return os.path.realpath(archive), str(member)


def _opened(
    index: HammingIndex | FeatureIndex | str | Path, metric: str | None
) -> tuple[HammingIndex | FeatureIndex, str]:
    """The index, and the metric that it is searched by."""
    from hashret.index import CosineIndex, HammingIndex, InnerProductIndex, Store

    kinds: dict[str, Any] = dict(zip(METRICS, (HammingIndex, CosineIndex, InnerProductIndex), strict=True))
    if metric is not None and metric not in kinds:
        raise UsageError(f"metric is {metric!r}; choose one of {', '.join(kinds)}")
    if isinstance(index, str | Path):
        chosen = metric or Store.open(index).metrics[0]
        return kinds[chosen].load(index), chosen
    own = next((name for name, kind in kinds.items() if isinstance(index, kind)), None)
    if own is None:
        raise UsageError(f"the index is a {type(index).__name__}, expected an index or the folder of one")
    if metric not in (None, own):
        raise UsageError(f"the index is searched by {own}, not {metric}; give its folder, or leave metric out")
    return index, own


def _of_index(index: Any, row: int | str) -> tuple[dict[str, Any], np.ndarray[Any, Any], int]:
    """The record of a row of the index with its row number, its code or feature (1, any), and its id number."""
    from hashret.index import HammingIndex

    ids = index.ids
    number = _row_number(
        row, len(ids), "the index holds", lambda name: _place(ids.tolist(), int(index.find([name])[0]))
    )
    own = int(ids[number])
    (record,) = index.records([own])
    if record is None or not record.get("path"):
        raise UsageError(
            "the index knows no path of this picture, so there is nothing to draw; index pictures, or give data"
        )
    vector = index.codes([own]) if isinstance(index, HammingIndex) else index.vectors([own])
    return {"row": number, **record, "label": record.get("label") or ""}, vector, own


def _of_data(
    index: Any, metric: str, row: int | str, data: PictureTable | str | Path, model: Hasher | str | Path
) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The record of a row of other data with its row number, and its code or feature (1, any) by the model of the index."""
    from hashret.data.sources import open_source

    table = open_source(str(data)) if isinstance(data, str | Path) else data
    number = _row_number(row, len(table), f"{table.name} holds", lambda name: _place(table.ids, name))

    from hashret.encoding import encode_table
    from hashret.model.hasher import Hasher

    hasher = Hasher.from_pretrained(model) if isinstance(model, str | Path) else model
    index.check_model(hasher.fingerprint())
    what = "codes" if metric == "hamming" else "features"
    picture = table.select([number])
    encoded = encode_table(hasher, picture, what=(what,), workers=0, progress=False, precision="float32")
    (record,) = picture.records()
    return {"row": number, **record}, getattr(encoded, what)


def _place(values: Sequence[Any], value: Any) -> int:
    """Where a value is the first time, -1 where it is not."""
    return values.index(value) if value in values else -1


def _row_number(row: int | str, n: int, holder: str, place_of_id: Callable[[str], int]) -> int:
    """The row number that is meant: a number, an id, or a text that is no id but writes a number. UsageError where none is."""
    if isinstance(row, str):
        number = place_of_id(row)
        if number >= 0:
            return number
        if not row.isdecimal():
            raise UsageError(f"{holder} no picture with the id {row!r}; give one of its ids, or a row number")
        row = int(row)
    if isinstance(row, bool) or not hasattr(row, "__index__"):
        raise UsageError(f"the row is {row!r}, expected a row number or an id")
    number = row.__index__()
    if not 0 <= number < n:
        there = f"rows 0 to {n - 1}" if n else "none"
        raise UsageError(f"the row is {number}, but {holder} {n:,} pictures: {there}")
    return number
