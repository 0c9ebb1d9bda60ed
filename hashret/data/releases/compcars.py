"""CompCars: web pictures of cars, and surveillance pictures that ask for them (Yang et al. 2015).

The folder that the two archives unpack to:

    data/image/MAKE/MODEL/YEAR/ID.jpg    web pictures; MAKE and MODEL are numbers, YEAR may be "unknown"
    data/label/MAKE/MODEL/YEAR/ID.txt    line 1 the viewpoint (-1 unknown, 1 front, 2 rear, 3 side, 4 front-side, 5 rear-side),
                                         line 2 the number of boxes, line 3 the box: x1 y1 x2 y2
    data/misc/make_model_name.mat        make_names and model_names, by number from 1 (not needed)
    sv_data/image/CLASS/ID.jpg           surveillance pictures, all from the front
    sv_data/sv_make_model_name.mat       a row for each CLASS from 1: make, model, number of the model among the web's

What the table holds, for asking with surveillance pictures among web pictures:

- web pictures from the front and from front and side (viewpoints 1 and 4); the others have no part in it and are left out.
  Of each model's, in the order of their ids, every seventh is split "val" and the others "train"; queries search both
  (column `gallery` "yes"), whether or not there are surveillance pictures of the model;
- surveillance pictures: split "query", not searched.

A picture's id is its path in the release, its label the web's number of the model. Columns: `make` and `model` (names as the
part of the release that the picture is from spells them, numbers where it has none), `year` and `viewpoint` (empty for
surveillance pictures), and the box as x1, y1, x2, y2, **so that web pictures are cut to their car**, as surveillance pictures
are already. The release counts pixels from 1 and includes both corners; the table counts from 0 and leaves the lower right
corner out: a box 1 1 640 480 is 0,0,640,480.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from hashret.data.folders import files_below
from hashret.data.releases.files import absolute, require
from hashret.data.releases.matlab import cell_of, read_mat, text_in, texts_of, whole_number_in
from hashret.data.releases.roles import with_gallery
from hashret.data.table import BOX_COLUMNS, PictureTable, read_text
from hashret.errors import DataError
from hashret.images import is_picture_name

VIEWPOINTS = {"-1": "unknown", "1": "front", "2": "rear", "3": "side", "4": "front-side", "5": "rear-side"}
SEARCHED_VIEWPOINTS = ("1", "4")
VALIDATION_EVERY = 7

_IMAGE, _LABEL, _SURVEILLANCE = "data/image", "data/label", "sv_data/image"
_NAMES, _SURVEILLANCE_NAMES = "data/misc/make_model_name.mat", "sv_data/sv_make_model_name.mat"
_COLUMNS = ("make", "model", "year", "viewpoint", *BOX_COLUMNS)

_Row = tuple[str, str, str, tuple[str, ...]]  # id, label, split, attributes


def read(folder: Path) -> PictureTable:
    """The web pictures of viewpoints 1 and 4, then the surveillance pictures, each in the order of their ids."""
    require(folder, "CompCars", f"{_IMAGE}/", f"{_LABEL}/", f"{_SURVEILLANCE}/", _SURVEILLANCE_NAMES)
    web, surveillance = _web(folder), _surveillance(folder)
    if not {label for _, label, _, _ in web} & {label for _, label, _, _ in surveillance}:
        raise DataError(
            f"{folder}: none of the models that {_SURVEILLANCE_NAMES} names has a web picture from the front (viewpoint 1 or 4)"
        )
    ids, labels, splits, attributes = zip(*web, *surveillance, strict=True)
    columns = zip(_COLUMNS, zip(*attributes, strict=True), strict=True)
    table = PictureTable(
        list(ids),
        absolute(folder, ids),
        list(labels),
        list(splits),
        {column: list(values) for column, values in columns},
        "CompCars",
    )
    return with_gallery(table, (split != "query" for split in splits))


def _web(folder: Path) -> list[_Row]:
    names = _labelled(folder)
    makes, models = _web_names(folder / _NAMES)
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for name in tqdm(names, desc="reading labels", unit="file", delay=2, disable=None, leave=False):
        make, model, year, _ = name.split("/")
        viewpoint, box = _label(folder / _LABEL / f"{name.rpartition('.')[0]}.txt")
        if viewpoint in SEARCHED_VIEWPOINTS:
            attributes = (makes.get(make, make), models.get(model, model), year, viewpoint, *box)
            found[model].append((f"{_IMAGE}/{name}", attributes))
    return sorted(
        (name, label, "train" if row % VALIDATION_EVERY else "val", attributes)
        for label, pictures in found.items()
        for row, (name, attributes) in enumerate(pictures, 1)
    )


def _labelled(folder: Path) -> list[str]:
    """The web pictures below data/image, sorted; DataError unless each has a label file, and each label file a picture."""
    names = sorted(files_below(str(folder / _IMAGE), is_picture_name))
    if not names:
        raise DataError(f"{folder / _IMAGE} holds no pictures; expected MAKE/MODEL/YEAR/ID.jpg")
    for name in names:
        parts = name.split("/")
        if len(parts) != 4 or not (_is_number(parts[0]) and _is_number(parts[1])):
            raise DataError(
                f"{folder / _IMAGE} holds {name!r}; expected MAKE/MODEL/YEAR/ID.jpg, make and model being numbers"
            )
    pictures = {name.rpartition(".")[0] for name in names}
    labels = {name.rpartition(".")[0] for name in files_below(str(folder / _LABEL), lambda name: name.endswith(".txt"))}
    for lacking, what, where in (
        (pictures - labels, "web picture", f"label file below {_LABEL}"),
        (labels - pictures, "label file", f"picture below {_IMAGE}"),
    ):
        if lacking:
            n = f"1 {what} has" if len(lacking) == 1 else f"{len(lacking):,} {what}s have"
            first = "it is" if len(lacking) == 1 else "the first is"
            raise DataError(f"{folder}: {n} no {where}, {first} {min(lacking)!r}; unpack the release anew")
    return names


def _label(path: Path) -> tuple[str, tuple[str, ...]]:
    """(viewpoint, box as the table counts it) of a label file."""
    lines = read_text(path).split("\n")
    words = [line.split() for line in lines if line.strip()]
    if len(words) < 3 or len(words[0]) != 1 or len(words[1]) != 1:
        raise DataError(f"{path} has {len(words)} lines; expected the viewpoint, the number of boxes, and a box")
    (viewpoint,), (count,), box = words[:3]
    if viewpoint not in VIEWPOINTS:
        known = ", ".join(f"{number} {what}" for number, what in VIEWPOINTS.items())
        raise DataError(f"{path}, line 1: the viewpoint is {viewpoint!r}, expected one of {known}")
    if not _is_number(count) or int(count) != len(words) - 2:
        raise DataError(
            f"{path}, line 2: found {count!r}, expected the number of the boxes that follow, {len(words) - 2}"
        )
    if len(box) != 4 or not all(_is_number(edge) for edge in box):
        raise DataError(f"{path}, line 3: found {' '.join(box)!r}, expected the box, four whole numbers x1 y1 x2 y2")
    x1, y1, x2, y2 = (int(edge) for edge in box)
    if not (x1 < x2 and y1 < y2):
        raise DataError(f"{path}, line 3: the box {' '.join(box)!r} holds nothing; expected x1 < x2 and y1 < y2")
    return viewpoint, (str(x1 - 1), str(y1 - 1), str(x2), str(y2))


def _web_names(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Names of makes and of models by their numbers, where the release has them: some models are without."""
    if not path.is_file():
        return {}, {}
    content = read_mat(path)
    makes, models = (
        {str(number): name for number, name in enumerate(texts_of(content, field, path), 1) if name}
        for field in ("make_names", "model_names")
    )
    return makes, models


def _surveillance(folder: Path) -> list[_Row]:
    path = folder / _SURVEILLANCE_NAMES
    cell = cell_of(read_mat(path), "sv_make_model_name", path)
    if cell.ndim != 2 or cell.shape[1] != 3:
        raise DataError(
            f"{path} has a cell array of {'x'.join(map(str, cell.shape))}; expected three columns: make, model, web model"
        )
    class_of = {
        str(number): (
            text_in(make, f"{path}: the make of class {number}"),
            text_in(model, f"{path}: the model of class {number}"),
            str(whole_number_in(web_model, f"{path}: the web model of class {number}")),
        )
        for number, (make, model, web_model) in enumerate(cell, 1)
    }
    names = sorted(files_below(str(folder / _SURVEILLANCE), is_picture_name))
    rows: list[_Row] = []
    seen = set()
    for name in names:
        number = name.split("/")[0]
        if name.count("/") != 1 or number not in class_of:
            raise DataError(
                f"{folder / _SURVEILLANCE} holds {name!r}; expected CLASS/ID.jpg, the class being a number from 1 to "
                f"{len(class_of)}, the rows of {path.name}"
            )
        make, model, web_model = class_of[number]
        seen.add(number)
        rows.append((f"{_SURVEILLANCE}/{name}", web_model, "query", (make, model, "", "", "", "", "", "")))
    empty = [number for number in class_of if number not in seen]
    if empty:
        raise DataError(
            f"{path} lists {len(class_of)} classes, but {_SURVEILLANCE}/{empty[0]} ({class_of[empty[0]][1]!r}) has no picture"
        )
    return rows


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
