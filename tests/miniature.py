"""Miniature copies of published data sets, file by file as they are released, made of turntable pictures.

`MAKERS["cub"](folder, table)` makes one below `folder`, out of the pictures of any labelled table, and returns the folder that
is read as "cub:FOLDER". The numbers of classes and pictures are arguments that have defaults. What is written is chosen so that
a reader which mixes up two columns, an order or an offset is found out: ids do not count rows, files are not sorted alike.
"""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from hashret.data import PictureTable

Maker = Callable[[Path, PictureTable], Path]


def by_class(table: PictureTable, classes: int, per_class: int, split: str | None = None) -> dict[str, list[int]]:
    """{label: rows} of the first classes by name, the first pictures of each in table order; of one split where one is named."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (label, of) in enumerate(zip(table.labels, table.splits, strict=True)):
        if label and split in (None, of):
            rows[label].append(row)
    chosen = {label: rows[label][:per_class] for label in sorted(rows)[:classes]}
    found = min((len(each) for each in chosen.values()), default=0)
    assert len(chosen) == classes and found == per_class, f"{table.name} has {len(chosen)} classes of {found} pictures"
    return chosen


def put(table: PictureTable, row: int, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(table.paths[row], place)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_mat(path: Path, **variables: object) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def cells(values: Iterable[object]) -> np.ndarray:
    """A MATLAB cell array of one column."""
    listed = list(values)
    array = np.empty((len(listed), 1), dtype=object)
    array[:, 0] = listed
    return array


def make_cub(folder: Path, table: PictureTable, classes: int = 4, per_class: int = 6) -> Path:
    """CUB-200-2011: of each class, the first half of the pictures (rounded up) is for training."""
    root = folder / "CUB_200_2011"
    images, labels, split, boxes = [], [], [], []
    names = []
    number = 0
    for class_id, (label, rows) in enumerate(by_class(table, classes, per_class).items(), 1):
        names.append(f"{class_id} {class_id:03d}.{label}")
        for k, row in enumerate(rows):
            number += 1
            name = f"{class_id:03d}.{label}/{label}_{k:04d}_{9000 - number}.jpg"
            put(table, row, root / "images" / name)
            images.append(f"{number} {name}")
            labels.append(f"{number} {class_id}")
            split.append(f"{number} {int(k < (per_class + 1) // 2)}")
            boxes.append(f"{number} {number}.0 {k}.0 {30 + class_id}.0 {20 + k}.0")
    write_lines(root / "images.txt", images)
    write_lines(root / "image_class_labels.txt", reversed(labels))
    write_lines(root / "classes.txt", names)
    write_lines(root / "train_test_split.txt", split)
    write_lines(root / "bounding_boxes.txt", boxes)
    return root


def make_dogs(folder: Path, table: PictureTable, classes: int = 4, per_class: int = 6) -> Path:
    """Stanford Dogs: of each class, the first half of the pictures (rounded up) is for training."""
    root = folder / "StanfordDogs"
    lists: dict[str, list[tuple[str, int]]] = {"train_list.mat": [], "test_list.mat": [], "file_list.mat": []}
    for number, (label, rows) in enumerate(by_class(table, classes, per_class).items(), 1):
        synset = f"n{2085620 + 162 * number:08d}"
        for k, row in enumerate(rows):
            name = f"{synset}-{label}/{synset}_{7 * k + 1}.jpg"
            put(table, row, root / "Images" / name)
            lists["train_list.mat" if k < (per_class + 1) // 2 else "test_list.mat"].append((name, number))
            lists["file_list.mat"].append((name, number))
    for file, entries in lists.items():
        write_dogs_list(root / file, entries)
    return root


def write_dogs_list(path: Path, entries: Sequence[tuple[str, int]]) -> None:
    """A list of Stanford Dogs out of (file, class number)."""
    write_mat(
        path,
        file_list=cells(name for name, _ in entries),
        annotation_list=cells(name.removesuffix(".jpg") for name, _ in entries),
        labels=np.array([[number] for _, number in entries], dtype=np.uint8),
    )


def make_compcars(
    folder: Path, table: PictureTable, classes: int = 4, per_class: int = 10, surveillance_per_class: int = 3
) -> Path:
    """CompCars: every fifth web picture is from the rear; the last model has no surveillance pictures.

    Models are numbered 3, 6, 9 ..., surveillance classes count them backwards. Boxes leave a pixel on each side.
    """
    root = folder / "CompCars"
    viewpoints = (1, 4, 4, 1, 2)
    chosen = by_class(table, classes, per_class + surveillance_per_class)
    for number, (label, rows) in enumerate(chosen.items(), 1):
        for k, row in enumerate(rows[:per_class]):
            place = f"{number % 2 + 1}/{3 * number}/{2010 + k % 3 if k else 'unknown'}/{label}{97 - k}"
            put(table, row, root / f"data/image/{place}.jpg")
            box = f"{2 + number % 9} {2 + k % 3} {60 + number % 3} {47 - number % 2}"
            write_lines(root / f"data/label/{place}.txt", [f"{viewpoints[k % 5]}", "1", box])
    write_mat(
        root / "data/misc/make_model_name.mat",
        make_names=cells(["Ravo ", "Tulis"]),
        model_names=cells(f"model {i}" if i % 2 else "" for i in range(1, 3 * classes + 1)),
    )
    for split in ("train", "test"):
        write_lines(root / f"data/train_test_split/classification/{split}.txt", [])
    watched = list(chosen.items())[-2::-1]  # backwards, without the last model
    names = np.empty((len(watched), 3), dtype=object)
    for number, (label, rows) in enumerate(watched, 1):
        web = classes - number
        names[number - 1] = ("Ravo" if web % 2 == 0 else "Tulis", f"{label} S", np.array([[3 * web]], dtype=np.uint16))
        for k, row in enumerate(rows[per_class:]):
            put(table, row, root / f"sv_data/image/{number}/{label}-sv{k}.jpg")
    write_mat(root / "sv_data/sv_make_model_name.mat", sv_make_model_name=names)
    return root


def make_lists(
    folder: Path,
    table: PictureTable,
    classes: int = 4,
    per_class: int = 9,
    several: bool = True,
    database: bool = True,
) -> Path:
    """List files: of three pictures of a class one asks, two are searched; every second searched one is learnt from.

    several: every fourth picture is of the next class, too. database: whether there is a database.txt.
    """
    root = folder / "lists"
    lists: dict[str, list[str]] = {"train.txt": [], "test.txt": [], "database.txt": []}
    for number, (label, rows) in enumerate(by_class(table, classes, per_class).items()):
        for k, row in enumerate(rows):
            name = f"images/{label} {k}.jpg"  # a space, as some sets have them
            put(table, row, root / name)
            hot = {number, (number + 1) % classes} if several and k % 4 == 3 else {number}
            line = " ".join([name, *("1" if i in hot else "0" for i in range(classes))])
            if k % 3 == 0:
                lists["test.txt"].append(line)
            else:
                lists["database.txt"].append(line)
                if k % 2:
                    lists["train.txt"].append(line)
    for file, lines in lists.items():
        if file != "database.txt" or database:
            write_lines(root / file, lines)
    write_lines(root / "classes.txt", by_class(table, classes, per_class))
    return root


def make_car_retrieval(
    folder: Path,
    table: PictureTable,
    classes: int = 4,
    test_classes: int = 3,
    per_class: int = 8,
    submit_per_class: int = 2,
) -> Path:
    """car-retrieval: training classes from the split train of the table, test classes from test; labels to submit are unknown."""
    root = folder / "car-retrieval"
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "test": [], "submit": []}
    for label, rows in by_class(table, classes, per_class, "train").items():
        parts["train"] += [(label, row) for row in rows]
    for label, rows in by_class(table, test_classes, per_class + submit_per_class, "test").items():
        parts["test"] += [(label, row) for row in rows[:per_class]]
        parts["submit"] += [("", row) for row in rows[per_class:]]
    number = 700
    for split, pictures in parts.items():
        lines = []
        for label, row in pictures:
            number += 1
            put(table, row, root / split / f"{number:06d}.jpg")
            lines.append((f"{number:06d}", label, *(table.attributes[name][row] for name in ("view", "time"))))
        write_csv(root / f"{split}.csv", ("id", "label", "view", "time"), reversed(lines))
    return root


def make_distractors(
    folder: Path, table: PictureTable, classes: int = 4, per_class: int = 6, outside: int = 6, known: bool = True
) -> Path:
    """distractors: two thirds of a class are for training, and every fourth of them is of the next class, too.

    The pictures outside are of the table's last class, and so are three that are in test/ as of no class (-1).
    known: whether test.csv says the classes.
    """
    root = folder / "distractors"
    stranger = sorted(set(table.labels) - {""})[-1]
    strangers = [row for row, label in enumerate(table.labels) if label == stranger]
    assert len(strangers) >= outside + 3, f"{table.name} has {len(strangers)} pictures of {stranger}"
    chosen = by_class(table, classes, per_class)
    assert stranger not in chosen, f"{table.name} has no class left for strangers"
    names = list(chosen)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    number = 0
    for c, rows in enumerate(chosen.values()):
        for k, row in enumerate(rows):
            split = "test" if k % 3 == 2 else "train"
            number += 1
            of = [names[c], names[(c + 1) % classes]] if split == "train" and k % 4 == 3 else [names[c]]
            put(table, row, root / split / f"P{1000 - number}.jpg")
            parts[split].append((f"P{1000 - number}", " ".join(reversed(of))))
    for k, row in enumerate(strangers[:3]):
        put(table, row, root / "test" / f"S{k}.jpg")
        parts["test"].append((f"S{k}", "-1"))
    for k, row in enumerate(strangers[3 : 3 + outside]):
        put(table, row, root / "outside" / ("street" if k % 2 else "") / f"P{1000 - k}.jpg")
    write_csv(root / "train.csv", ("id", "classes"), parts["train"])
    write_csv(
        root / "test.csv", ("id", "classes") if known else ("id",), (row if known else row[:1] for row in parts["test"])
    )
    return root


MAKERS: dict[str, Maker] = {
    "cub": make_cub,
    "cub-unseen": make_cub,
    "dogs": make_dogs,
    "compcars": make_compcars,
    "lists": make_lists,
    "car-retrieval": make_car_retrieval,
    "distractors": make_distractors,
}
"""By the name that hashret reads them under, with the default numbers."""

TURNTABLE = {"classes": 5, "test_classes": 3, "pictures_per_class": 13, "size": (64, 48), "seed": 1}
"""What every maker has enough pictures in, with its default numbers."""


def make_turntable(folder: Path) -> PictureTable:
    """A turntable set of 8 classes x 13 pictures."""
    from hashret.data.turntable.generate import generate

    return PictureTable.read_csv(generate(folder / "turntable", workers=2, progress=False, **TURNTABLE))
