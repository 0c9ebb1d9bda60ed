"""Published data sets: each reader on a miniature copy in its release layout, and on copies that are spoilt in one place."""

from __future__ import annotations

import builtins
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from miniature import MAKERS, cells, make_cub, make_lists, write_csv, write_dogs_list, write_lines, write_mat
from PIL import Image

from hashret.data import PictureTable, open_source
from hashret.data.releases import READERS, cifar10_splits, open_release
from hashret.data.releases.roles import in_gallery, with_gallery
from hashret.data.sources import split_release
from hashret.errors import DataError, HashretError, UsageError
from hashret.images import read_picture

pytest.importorskip("scipy")


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory, turntable_table: PictureTable) -> dict[str, Path]:
    """The folder of a whole miniature copy of each release."""
    root = tmp_path_factory.mktemp("releases")
    return {name: make(root / name, turntable_table) for name, make in MAKERS.items()}


def same_picture(path: str, row: int, table: PictureTable) -> bool:
    return Path(path).read_bytes() == Path(table.paths[row]).read_bytes()


def labels_of_files(table: PictureTable, turntable: PictureTable) -> list[str]:
    """What the turntable set calls the class of each picture, known by the bytes of its file."""
    label_of = {Path(path).read_bytes(): label for path, label in zip(turntable.paths, turntable.labels, strict=True)}
    return [label_of[Path(path).read_bytes()] for path in table.paths]


def by_split(table: PictureTable) -> dict[str, int]:
    return dict(sorted(Counter(table.splits).items()))


# ---- whole copies


def test_every_release_can_be_made_and_read(copies: dict[str, Path]) -> None:
    assert list(MAKERS) == list(READERS)
    for name, folder in copies.items():
        table = open_source(f"{name}:{folder}")
        assert len(table) == len(set(table.ids)) > 0
        assert all(Path(path).is_absolute() and Path(path).is_file() for path in table.paths)
        assert open_release(name, str(folder)).records() == table.records()


def test_cub(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"cub:{copies['cub']}")
    assert by_split(table) == {"test": 12, "train": 12}
    assert [label.partition(".")[2] for label in table.labels] == labels_of_files(table, turntable_table)
    assert sorted(set(table.labels)) == [
        f"00{i}.{label}" for i, label in enumerate(sorted(set(turntable_table.labels))[:4], 1)
    ]
    for label in set(table.labels):
        of_class = [split for split, each in zip(table.splits, table.labels, strict=True) if each == label]
        assert of_class == ["train"] * 3 + ["test"] * 3
    assert list(table.attributes) == ["box_x", "box_y", "box_width", "box_height"]
    boxes = list(zip(*table.attributes.values(), strict=True))
    assert boxes[0] == ("1.0", "0.0", "31.0", "20.0")
    assert boxes[23] == ("24.0", "5.0", "34.0", "25.0")
    assert table.box(0) is None  # the protocols take the whole picture
    assert table.ids[23] == Path(table.paths[23]).relative_to(copies["cub"] / "images").as_posix()


def test_cub_by_unseen_classes(copies: dict[str, Path]) -> None:
    table = open_source(f"cub-unseen:{copies['cub-unseen']}")
    assert by_split(table) == {"test": 12, "train": 12}
    assert {(label[:3], split) for label, split in zip(table.labels, table.splits, strict=True)} == {
        ("001", "train"),
        ("002", "train"),
        ("003", "test"),
        ("004", "test"),
    }


def test_dogs(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"dogs:{copies['dogs']}")
    assert by_split(table) == {"test": 12, "train": 12}
    assert [label.partition("-")[2] for label in table.labels] == labels_of_files(table, turntable_table)
    assert [each.split("/")[0] for each in table.ids] == table.labels
    assert set(table.labels[:12]) == set(table.labels[12:])
    assert table.attributes == {}


def test_dogs_with_a_folder_of_lists(copies: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(copies["dogs"], tmp_path / "dogs")
    (folder / "lists").mkdir()
    for file in sorted(folder.glob("*.mat")):
        file.rename(folder / "lists" / file.name)
    assert open_source(f"dogs:{folder}").ids == open_source(f"dogs:{copies['dogs']}").ids


def test_compcars(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"compcars:{copies['compcars']}")
    labels = sorted(set(turntable_table.labels))[:4]
    model_of = {label: str(3 * number) for number, label in enumerate(labels, 1)}
    assert table.labels == [model_of[label] for label in labels_of_files(table, turntable_table)]
    # 8 of 10 web pictures are from the front, of each 8 the seventh validates; 3 models of 4 are watched.
    assert by_split(table) == {"query": 9, "train": 28, "val": 4}
    for model in model_of.values():
        of_model = [row for row in range(len(table)) if table.labels[row] == model and table.splits[row] != "query"]
        assert [table.splits[row] for row in of_model] == ["train"] * 6 + ["val", "train"]
        assert [table.ids[row] for row in of_model] == sorted(table.ids[row] for row in of_model)
    assert in_gallery(table).tolist() == [split != "query" for split in table.splits]
    for row, record in enumerate(table.records()):
        web = record["split"] != "query"
        number = int(record["label"]) // 3
        assert record["make"] == ("Tulis" if number % 2 else "Ravo")
        label = labels[number - 1]
        names = f"model {record['label']}" if number % 2 else record["label"]  # every second model is without a name
        assert record["model"] == (names if web else f"{label} S")
        assert record["viewpoint"] in (("1", "4") if web else ("",))
        assert record["year"] in (("2010", "2011", "2012", "unknown") if web else ("",))
        if not web:
            assert table.box(row) is None
            continue
        written = (
            (copies["compcars"] / record["id"].replace("/image/", "/label/")).with_suffix(".txt").read_text("utf-8")
        )
        viewpoint, _, (x1, y1, x2, y2) = (line.split() for line in written.splitlines())
        assert [record["viewpoint"]] == viewpoint
        with Image.open(table.paths[row]) as whole:  # corners count from 1 and are both inside
            expected = np.asarray(whole)[int(y1) - 1 : int(y2), int(x1) - 1 : int(x2)]
        assert (np.asarray(read_picture(table.paths[row], table.box(row))) == expected).all()


def test_compcars_without_names(copies: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(copies["compcars"], tmp_path / "cars")
    shutil.rmtree(folder / "data" / "misc")
    table, named = open_source(f"compcars:{folder}"), open_source(f"compcars:{copies['compcars']}")
    assert (table.ids, table.labels, table.splits) == (named.ids, named.labels, named.splits)
    web = [row for row, split in enumerate(table.splits) if split != "query"]
    assert {table.attributes["make"][row] for row in web} == {"1", "2"}
    assert [table.attributes["model"][row] for row in web] == [table.labels[row] for row in web]


def test_lists(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"lists:{copies['lists']}")
    assert by_split(table) == {"gallery": 12, "query": 12, "train": 12}
    assert in_gallery(table).tolist() == [split != "query" for split in table.splits]
    labels = sorted(set(turntable_table.labels))[:4]
    after = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    for picture, label, shown in zip(table.ids, table.labels, labels_of_files(table, turntable_table), strict=True):
        k = int(picture.removesuffix(".jpg").split()[-1])
        assert set(label.split(";")) == ({shown, after[shown]} if k % 4 == 3 else {shown})
    assert table.label_matrix()[1] == labels


def test_lists_without_database_and_names(tmp_path: Path, turntable_table: PictureTable) -> None:
    folder = make_lists(tmp_path, turntable_table, several=False, database=False)
    (folder / "classes.txt").unlink()
    table = open_source(f"lists:{folder}")
    assert by_split(table) == {"query": 12, "train": 12}
    assert in_gallery(table).tolist() == [split == "train" for split in table.splits]
    assert sorted(set(table.labels)) == ["0", "1", "2", "3"]


def test_lists_of_absolute_paths_and_pictures_of_no_class(tmp_path: Path, turntable_table: PictureTable) -> None:
    folder = make_lists(tmp_path, turntable_table)
    text = (folder / "test.txt").read_text("utf-8").replace("images/", f"{folder}/images/")
    first, rest = text.split("\n", 1)
    (folder / "test.txt").write_text(f"{first.rsplit(maxsplit=4)[0]} 0 0 0 0\n{rest}", "utf-8")
    table = open_source(f"lists:{folder}").where_split("query")
    assert table.labels[0] == ""
    assert table.ids[1] == table.paths[1] == str(folder / "images" / table.ids[1].rpartition("/")[2])


def test_a_picture_that_asks_may_be_searched(tmp_path: Path, turntable_table: PictureTable) -> None:
    folder = make_lists(tmp_path, turntable_table)
    lines = (folder / "test.txt").read_text("utf-8")
    (folder / "database.txt").write_text((folder / "database.txt").read_text("utf-8") + lines, "utf-8")
    table = open_source(f"lists:{folder}")
    assert by_split(table) == {"gallery": 12, "query": 12, "train": 12}
    assert in_gallery(table).all()


def test_car_retrieval(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"car-retrieval:{copies['car-retrieval']}")
    assert by_split(table) == {"submit": 6, "test": 24, "train": 32}
    shown = labels_of_files(table, turntable_table)
    assert table.labels == [
        "" if split == "submit" else label for label, split in zip(shown, table.splits, strict=True)
    ]
    content = {Path(path).read_bytes(): row for row, path in enumerate(turntable_table.paths)}
    rows = [content[Path(path).read_bytes()] for path in table.paths]
    for column in ("view", "time"):
        assert table.attributes[column] == [turntable_table.attributes[column][row] for row in rows]
    assert table.ids == [Path(path).stem for path in table.paths]


def test_car_retrieval_without_what_may_be_missing(copies: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(copies["car-retrieval"], tmp_path / "cars")
    shutil.rmtree(folder / "submit")
    (folder / "submit.csv").unlink()
    rows = [line.split(",")[:2] for line in (folder / "test.csv").read_text("utf-8").splitlines()]
    write_csv(folder / "test.csv", rows[0], rows[1:])
    table = open_source(f"car-retrieval:{folder}")
    assert by_split(table) == {"test": 24, "train": 32}
    assert list(table.attributes) == ["view", "time"]
    assert set(table.where_split("test").attributes["view"]) == {""}


def test_distractors(copies: dict[str, Path], turntable_table: PictureTable) -> None:
    table = open_source(f"distractors:{copies['distractors']}")
    assert by_split(table) == {"outside": 6, "test": 11, "train": 16}
    names = sorted(set(turntable_table.labels))
    after = dict(zip(names[:4], [*names[1:4], names[0]], strict=True))
    for record, shown in zip(table.records(), labels_of_files(table, turntable_table), strict=True):
        if record["split"] == "outside":
            assert (record["label"], shown) == ("", names[-1])
            assert record["path"].endswith(record["id"])
        elif record["id"].startswith("S"):
            assert (record["label"], shown) == ("-1", names[-1])
        else:
            assert record["label"] in (shown, ";".join(sorted((shown, after[shown]))))
    assert sum(";" in label for label in table.labels) == 4
    assert any("outside/street/" in each for each in table.ids)


def test_distractors_of_unknown_classes(tmp_path: Path, turntable_table: PictureTable) -> None:
    from miniature import make_distractors

    table = open_source(f"distractors:{make_distractors(tmp_path, turntable_table, known=False)}")
    assert set(table.where_split("test").labels) == {""}


# ---- spoilt copies


Change = Callable[[Path], None]


def edit(file: str, old: str, new: str, count: int = 1) -> Change:
    def change(folder: Path) -> None:
        text = (folder / file).read_text("utf-8")
        assert old in text, text
        (folder / file).write_text(text.replace(old, new, count), "utf-8")

    return change


def lines(file: str, change: Callable[[list[str]], list[str]]) -> Change:
    def changed(folder: Path) -> None:
        write_lines(folder / file, change((folder / file).read_text("utf-8").splitlines()))

    return changed


def remove(pattern: str, n: int = 1) -> Change:
    def change(folder: Path) -> None:
        found = sorted(folder.glob(pattern))[:n]
        assert len(found) == n
        for each in found:
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    return change


def dogs_list(file: str, change: Callable[[list[tuple[str, int]]], list[tuple[str, int]]], *more: str) -> Change:
    """Another list in `file`, and in `more`, out of what is listed there as (path, class number)."""

    def changed(folder: Path) -> None:
        from scipy.io import loadmat

        for each in (file, *more):
            content = loadmat(str(folder / each))
            names = [str(name.item()) for name in content["file_list"].flat]
            write_dogs_list(folder / each, change(list(zip(names, content["labels"].ravel().tolist(), strict=True))))

    return changed


def mat(file: str, **variables: object) -> Change:
    return lambda folder: write_mat(folder / file, **variables)


def surveillance_names(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def changed(folder: Path) -> None:
        from scipy.io import loadmat

        file = folder / "sv_data/sv_make_model_name.mat"
        write_mat(file, sv_make_model_name=change(loadmat(str(file))["sv_make_model_name"]))

    return changed


def with_value(row: int, column: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(names: np.ndarray) -> np.ndarray:
        names[row, column] = value
        return names

    return change


def also(file: str, content: str | bytes = b"") -> Change:
    def change(folder: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def all_of(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def relabelled(pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(pairs[0][0], 2), *pairs[1:]]


SPOILT: list[tuple[str, str, Change, str]] = [
    ("cub", "no label file", remove("image_class_labels.txt"),
     r"has no image_class_labels\.txt; expected the folder of CUB"),
    ("cub", "no pictures' folder", remove("images"),
     r"has no images/; expected the folder of CUB-200-2011, with images\.txt"),
    ("cub", "one picture gone", remove("images/*/*_0001_*"),
     r"images\.txt names a picture that is not in .*images, '00\d\."),
    ("cub", "pictures gone", remove("images/*/*", 3),
     r"names 3 pictures that are not in .*, the first of them '001\..*anew"),
    ("cub", "a class gone", remove("images/002.*"), r"names 6 pictures that are not in .*, the first of them '002\."),
    ("cub", "a column more", edit("images.txt", ".jpg\n", ".jpg 1\n"),
     r"line 1: found 3 columns, expected 2 \(image id, p"),
    ("cub", "a column less", edit("bounding_boxes.txt", " 20.0\n", "\n"),
     r"line 1: found 4 columns, expected 5 \(image id"),
    ("cub", "a box of words", edit("bounding_boxes.txt", " 31.0 ", " wide "),
     r"line 1: the width is 'wide', expected a number"),
    ("cub", "a box of nothing", edit("bounding_boxes.txt", " 31.0 ", " nan "),
     r"line 1: the width is 'nan', expected a number"),
    ("cub", "labels cut short", lines("image_class_labels.txt", lambda rows: rows[2:]),
     r"image_class_labels\.txt has 22 lines and images\.txt 24; the first image id without a line is '23'"),
    ("cub", "splits cut short", lines("train_test_split.txt", lambda rows: rows[:-1]),
     r"split\.txt has 23 lines and images\.txt 24"),
    ("cub", "an id that is none", edit("image_class_labels.txt", "24 4", "99 4"),
     r"the image id '99', which images\.txt does not"),
    ("cub", "an id twice", edit("image_class_labels.txt", "24 4", "23 4"),
     r"labels\.txt has the image id '23' 2 times"),
    ("cub", "a picture twice", lines("images.txt", lambda rows: [*rows, "25 " + rows[0].split()[1]]),
     r"images\.txt has the path '001\."),
    ("cub", "a class that is none", edit("image_class_labels.txt", "24 4", "24 5"),
     r"image '24' the class id '5', which classes"),
    ("cub", "a wrong label", edit("image_class_labels.txt", "24 4", "24 3"),
     r"image '24' the class '003\..*in the folder '004\."),
    ("cub", "a class too many", lines("classes.txt", lambda rows: [*rows, "5 005.Kiwi"]),
     r"lists 5 classes, but no picture is of '005\.K"),
    ("cub", "a class too few", lines("classes.txt", lambda rows: rows[:-1]),
     r"image '19' the class id '4', which classes\.txt does not"),
    ("cub", "a split mark", edit("train_test_split.txt", "\n5 0", "\n5 2"),
     r"line 5: found '2', expected 1 \(training\) or 0"),
    ("cub", "no test", edit("train_test_split.txt", " 0\n", " 1\n", -1),
     r"marks no picture with 0, so the split 'test' is empty"),
    ("cub", "an empty file", also("classes.txt"), r"classes\.txt is empty; expected lines of class id and class name"),
    ("cub", "no text", also("classes.txt", b"\xff\xfe1"), r"classes\.txt, line 1: the file is not UTF-8"),
    ("cub-unseen", "a wrong label", edit("image_class_labels.txt", "24 4", "24 1"), r"image '24' the class '001\."),
    ("dogs", "no list", remove("test_list.mat"),
     r"has no test_list\.mat; expected the folder of Stanford Dogs, with train_list"),
    ("dogs", "no pictures' folder", remove("Images"), r"has no Images/; expected the folder of Stanford Dogs"),
    ("dogs", "a picture gone", remove("Images/*/*"),
     r"file_list\.mat names a picture that is not in .*Images, 'n02085782-"),
    ("dogs", "damaged", also("train_list.mat", b"MATLAB 5.0 MAT-file" + bytes(200)),
     r"train_list\.mat cannot be read as a MATLAB"),
    ("dogs", "no MATLAB file", also("train_list.mat", "1 2 3\n"), r"train_list\.mat cannot be read as a MATLAB file"),
    ("dogs", "empty", also("train_list.mat"), r"train_list\.mat cannot be read as a MATLAB file"),
    ("dogs", "no file_list", mat("train_list.mat", labels=[[1]]), r"no cell array 'file_list' \(found labels\)"),
    ("dogs", "no labels", mat("train_list.mat", file_list=cells(["a/b.jpg"]), annotation_list=cells(["a/b"])),
     r"train_list\.mat has no array 'labels'"),
    ("dogs", "numbers for texts", mat("train_list.mat", file_list=cells([3]), annotation_list=cells(["a"]), labels=[[1]]),
     r"entry 1 of file_list is \[3\], expected a text"),
    ("dogs", "half classes", mat("train_list.mat", file_list=cells(["a/b.jpg"]), annotation_list=cells(["a/b"]), labels=[[1.5]]),
     r"entry 1 of labels is \[1\.5\], expected a whole number"),
    ("dogs", "labels cut short", mat("train_list.mat", file_list=cells(["a/b.jpg", "a/c.jpg"]), annotation_list=cells(["a/b"]),
     labels=[[1]]), r"has 2 entries in file_list, 1 in annotation_list and 1 in labels"),
    ("dogs", "annotations of others", mat("train_list.mat", file_list=cells(["a/b.jpg"]), annotation_list=cells(["a/c"]),
     labels=[[1]]), r"has the annotation 'a/c' for the file 'a/b\.jpg'"),
    ("dogs", "a file twice", dogs_list("train_list.mat", lambda p: [*p, p[0]]),
     r"train_list\.mat has the file 'n02.*' 2 times"),
    ("dogs", "both splits", dogs_list("train_list.mat", lambda p: [*p, ("n02085782-Bodalo/n02085782_22.jpg", 1)]),
     r"train_list\.mat and test_list\.mat both name 'n02085782-Bodalo/n02085782_22\.jpg'"),
    ("dogs", "lists that differ", dogs_list("train_list.mat", lambda p: p[1:]),
     r"has 24 pictures, train_list\.mat and test_list\.m"),
    ("dogs", "labels that differ", dogs_list("train_list.mat", relabelled),
     r"the first that they do not have alike is 'n02085782"),
    ("dogs", "a wrong label", dogs_list("train_list.mat", relabelled, "file_list.mat"),
     r"gives 'n02085782-.*' the class 1, and others of 'n02085782-.*' 2"),
    ("dogs", "two breeds of a number",
     dogs_list("train_list.mat", lambda p: [(n, max(c - 1, 1)) for n, c in p], "test_list.mat", "file_list.mat"),
     r"gives 'n02085944-.*' the class 1, which is that of 'n02085782-"),
    ("dogs", "a class too few",
     dogs_list("train_list.mat", lambda p: [x for x in p if x[1] != 2], "test_list.mat", "file_list.mat"),
     r"has classes up to 4, but no picture is of class 2"),
    ("dogs", "the last class too few",
     dogs_list("train_list.mat", lambda p: [x for x in p if x[1] != 4], "test_list.mat", "file_list.mat"),
     r"has the breed 'n02086268-.*', of which file_list\.mat names no picture"),
    ("dogs", "a class without test",
     all_of(dogs_list("test_list.mat", lambda p: p[3:]), dogs_list("file_list.mat", lambda p: [*p[:3], *p[6:]])),
     r"test_list\.mat names no picture of class 1 \('n02085782-"),
    ("compcars", "no labels", remove("data/label"), r"has no data/label/; expected the folder of CompCars"),
    ("compcars", "no surveillance", remove("sv_data"), r"has no sv_data/image/; expected the folder of CompCars"),
    ("compcars", "no names", remove("sv_data/*.mat"), r"has no sv_data/sv_make_model_name\.mat"),
    ("compcars", "a label gone", remove("data/label/1/12/2010/*"),
     r"1 web picture has no label file below data/label, it is '1/12"),
    ("compcars", "labels gone", remove("data/label/1"),
     r"20 web pictures have no label file below data/label, the first is '1/12"),
    ("compcars", "a picture gone", remove("data/image/1/12/2010/*"),
     r"1 label file has no picture below data/image, it is '1/12/2"),
    ("compcars", "a wrong viewpoint", edit("data/label/2/3/unknown/Bodalo97.txt", "1\n", "6\n"),
     r"line 1: the viewpoint is '6', exp"),
    ("compcars", "a viewpoint of words", edit("data/label/2/3/unknown/Bodalo97.txt", "1\n", "front\n"),
     r"viewpoint is 'front', ex"),
    ("compcars", "no box", also("data/label/2/3/unknown/Bodalo97.txt", "1\n1\n"),
     r"Bodalo97\.txt has 2 lines; expected the viewp"),
    ("compcars", "two boxes of one", also("data/label/2/3/unknown/Bodalo97.txt", "1\n2\n1 2 3 4\n"),
     r"line 2: found '2', expected"),
    ("compcars", "a corner", also("data/label/2/3/unknown/Bodalo97.txt", "1\n1\n1 2 3\n"),
     r"line 3: found '1 2 3', expected the box"),
    ("compcars", "half pixels", also("data/label/2/3/unknown/Bodalo97.txt", "1\n1\n1 2 3.5 4\n"),
     r"line 3: found '1 2 3\.5 4', exp"),
    ("compcars", "a turned box", also("data/label/2/3/unknown/Bodalo97.txt", "1\n1\n9 2 3 4\n"),
     r"the box '9 2 3 4' holds nothing"),
    ("compcars", "a picture elsewhere", also("data/image/stray.jpg"),
     r"holds 'stray\.jpg'; expected MAKE/MODEL/YEAR/ID\.jpg"),
    ("compcars", "a make of words", also("data/image/Audi/3/2010/a.jpg"),
     r"holds 'Audi/3/2010/a\.jpg'; expected MAKE/MODEL/YEAR"),
    ("compcars", "no web pictures", remove("data/image/*/*/*/*.jpg", 40), r"data.image holds no pictures"),
    ("compcars", "no class", also("sv_data/image/4/a.jpg"),
     r"holds '4/a\.jpg'; expected CLASS/ID\.jpg, .* from 1 to 3, the rows of"),
    ("compcars", "a class too few", remove("sv_data/image/2"),
     r"lists 3 classes, but sv_data/image/2 \('.* S'\) has no picture"),
    ("compcars", "two columns", surveillance_names(lambda n: n[:, :2]),
     r"a cell array of 3x2; expected three columns: make, model"),
    ("compcars", "no web model", surveillance_names(with_value(1, 2, "Bodalo")),
     r"web model of class 2 is \['Bodalo'\], expected a wh"),
    ("compcars", "no make", surveillance_names(with_value(0, 0, 7)), r"the make of class 1 is \[7\], expected a text"),
    ("compcars", "other models", all_of(*(surveillance_names(with_value(i, 2, 100)) for i in range(3))),
     r"none of the models that .* names has a web picture from the front"),
    ("compcars", "other variables", mat("data/misc/make_model_name.mat", makes=cells(["a"])),
     r"no cell array 'make_names' \(found ma"),
    ("lists", "no test", remove("test.txt"),
     r"has no test\.txt; expected the folder of a set by list files, with train\.txt and test"),
    ("lists", "an empty list", also("test.txt", "\n"), r"test\.txt is empty; expected one line a picture"),
    ("lists", "a picture gone", remove("images/* 1.jpg"),
     r"train\.txt names a picture that is not in .*, 'images/.* 1\.jpg'; put"),
    ("lists", "pictures gone", remove("images"),
     r"train\.txt names 12 pictures that are not in .*, the first of them 'images/"),
    ("lists", "absolute paths", edit("test.txt", "images/", "/data/coco/images/", -1),
     r"test\.txt names 12 pictures .* '/data/coco/images/.*; these paths are absolute: cut off what comes before"),
    ("lists", "a column less", lines("test.txt", lambda rows: [*rows[:2], rows[2][:-2]]),
     r"test\.txt, line 3: found 3 numbers, expected 4"),
    ("lists", "a column more", lines("test.txt", lambda rows: [rows[0] + " 0"]),
     r"test\.txt, line 1: found 5 numbers, expected 4 \(0 or"),
    ("lists", "a 2", lines("test.txt", lambda rows: [rows[0][:-1] + "2"]),
     r"test\.txt, line 1: found 'images/.* 1 0 0 2', expected the p"),
    ("lists", "a word", lines("test.txt", lambda rows: [rows[0].replace(" 1 0", " yes 0")]),
     r"test\.txt, line 1: found .*each 0 or 1"),
    ("lists", "no picture", lines("test.txt", lambda rows: ["notes.doc 1 0 0 0"]),
     r"line 1: found 'notes\.doc 1 0 0 0', expected the"),
    ("lists", "a blank line", lines("test.txt", lambda rows: [rows[0], "", rows[1]]),
     r"test\.txt, line 2: found '', expected the path of"),
    ("lists", "class numbers", lines("train.txt", lambda rows: [f"{x.split('.jpg')[0]}.jpg 3" for x in rows]),
     r"train\.txt, line 1: found "),
    ("lists", "one class", lines("train.txt", lambda rows: [f"{x.split('.jpg')[0]}.jpg 1" for x in rows]),
     r"for each of two classes or mo"),
    ("lists", "a line twice", lines("database.txt", lambda rows: [*rows, rows[0]]),
     r"database\.txt, line 25: 'images/.*' is listed twice"),
    ("lists", "a leak", lines("test.txt", lambda rows: [*rows, "images/Bodalo 1.jpg 1 0 0 0"]),
     r"1 of the pictures in test\.txt are in train\.txt, too \('images/Bodalo 1\.jpg'\)"),
    ("lists", "other labels", edit("database.txt", "Bodalo 1.jpg 1 0", "Bodalo 1.jpg 0 1"),
     r"has the label 'Bodalo' in train\.txt and"),
    ("lists", "a class too few", lines("classes.txt", lambda rows: rows[:-1]),
     r"classes\.txt names 3 classes, but the lines of train\.txt h"),
    ("lists", "a class twice", lines("classes.txt", lambda rows: [rows[0], *rows[:-1]]),
     r"classes\.txt has the class 'Bodalo' 2 times"),
    ("lists", "a class with a mark", edit("classes.txt", "Bodalo", "Bo;dalo"),
     r"has a class called 'Bo;dalo'; expected a name without"),
    ("lists", "a class of nothing", all_of(*(edit(f, "\n", " 0\n", -1) for f in ("train.txt", "test.txt", "database.txt")),
     lines("classes.txt", lambda rows: [*rows, "Kiwi"])), r"the lists have 5 classes, but no picture is of 'Kiwi'"),
    ("car-retrieval", "no CSV", remove("test.csv"),
     r"has no test\.csv; expected the folder of car-retrieval, with train\.csv"),
    ("car-retrieval", "no folder", remove("train"), r"has no train/; expected the folder of car-retrieval"),
    ("car-retrieval", "no submit.csv", remove("submit.csv"),
     r"has submit/ but no submit\.csv; expected both, or neither"),
    ("car-retrieval", "no submit folder", remove("submit"), r"there is no folder .*submit; expected it beside the CSV"),
    ("car-retrieval", "a wrong header", edit("train.csv", "id,label", "image,class"),
     r"has the columns image,class,view,time; expect"),
    ("car-retrieval", "a column more", edit("train.csv", "view", "angle"),
     r"columns id,label,angle,time; expected id,label and, where"),
    ("car-retrieval", "no header", lines("train.csv", lambda rows: rows[1:]),
     r"train\.csv has the columns 0.*; expected id,label and, whe"),
    ("car-retrieval", "no rows", lines("train.csv", lambda rows: rows[:1]),
     r"train\.csv has no rows; expected one for each picture in tra"),
    ("car-retrieval", "ragged", edit("train.csv", ",night\n", "\n"),
     r"train\.csv, line \d+: found 3 fields, expected 4"),
    ("car-retrieval", "an id of nothing", edit("train.csv", "000732,", "000999,"),
     r"the id '000999' has no picture in train/"),
    ("car-retrieval", "pictures gone", remove("test/*", 3),
     r"test\.csv: 3 ids \(the first: '0007\d\d'\) have no picture in test/"),
    ("car-retrieval", "a row gone", lines("test.csv", lambda rows: rows[:-1]),
     r"test: the picture '000733' has no row in test\.csv; add row"),
    ("car-retrieval", "rows gone", lines("test.csv", lambda rows: rows[:-2]),
     r"test: 2 pictures \(the first: '000733'\) have no row in test"),
    ("car-retrieval", "an id twice", lines("test.csv", lambda rows: [*rows, rows[1]]), r"test\.csv has the id '000756' twice"),
    ("car-retrieval", "a name twice", also("test/000756.png"), r"test has two pictures called '000756'"),
    ("car-retrieval", "an id in two", all_of(lines("test.csv", lambda rows: [*rows, rows[1].replace("000756", "000701")]),
     also("test/000701.jpg")), r"the id '000701' is in train\.csv and in test\.csv; ids must be unique"),
    ("car-retrieval", "no label", lines("test.csv", lambda rows: [rows[0], rows[1].split(",")[0] + ",,0,day", *rows[2:]]),
     r"test\.csv, line 2: the column label is empty"),
    ("car-retrieval", "a view of words",
     lines("test.csv", lambda rows: [rows[0], rows[1].rsplit(",", 2)[0] + ",left,day", *rows[2:]]),
     r"test\.csv: the view of '000756' is 'left', expected a number of degrees"),
    ("car-retrieval", "classes seen", lambda f: write_csv(
        f / "test.csv", ("id", "label"), [(p.stem, ("Keval", "Kiwi")[i % 2]) for i, p in enumerate(sorted(f.glob("test/*")))]),
     r"test\.csv: a class of it is in train\.csv, too \('Keval'\); test classes must be unseen"),
    ("car-retrieval", "one class", lambda f: write_csv(
        f / "test.csv", ("id", "label"), [(p.stem, "Kiwi") for p in sorted(f.glob("test/*"))]),
     r"test\.csv has one class, 'Kiwi'; expected two at least"),
    ("distractors", "no outside", remove("outside"),
     r"has no outside/; expected the folder of distractors, with train\.csv, test"),
    ("distractors", "nothing outside", all_of(remove("outside"), also("outside/readme.txt")),
     r"outside holds no pictures; expected"),
    ("distractors", "no test.csv", remove("test.csv"), r"has no test\.csv; expected the folder of distractors"),
    ("distractors", "a wrong header", edit("train.csv", "classes", "label"),
     r"train\.csv has the columns id,label; expected id,class"),
    ("distractors", "a wrong test header", edit("test.csv", "classes", "split"),
     r"columns id,split; expected id and, where known, c"),
    ("distractors", "a picture gone", remove("train/*"),
     r"train\.csv: the id 'P\d+' has no picture in train/; add the files"),
    ("distractors", "no class", edit("train.csv", "P999,Bodalo", "P999,"),
     r"train\.csv, line 2: the column classes is empty"),
    ("distractors", "a stranger", edit("train.csv", "P999,Bodalo", "P999,-1"),
     r"has 'P999' in no class \(-1\); such pictures belong"),
    ("distractors", "a mark", edit("train.csv", "P999,Bodalo", "P999,Bo;dalo"),
     r"the classes 'Bo;dalo' hold ';'; expected names par"),
    ("distractors", "an id in two", all_of(edit("test.csv", "S0,", "P999,"), remove("test/S0.jpg"), also("test/P999.jpg")),
     r"the id 'P999' is in train\.csv and in test\.csv"),
    ("distractors", "one class", lambda f: write_csv(
        f / "train.csv", ("id", "classes"), [(p.stem, "Kiwi") for p in sorted(f.glob("train/*"))]),
     r"train\.csv has one class, 'Kiwi'; expected two at least"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "sentence"), [
    pytest.param(name, change, sentence, id=f"{name}: {what}") for name, what, change, sentence in SPOILT
])  # fmt: skip
def test_spoilt_copies(copies: dict[str, Path], tmp_path: Path, name: str, change: Change, sentence: str) -> None:
    folder = shutil.copytree(copies[name], tmp_path / "spoilt")
    change(folder)
    with pytest.raises(DataError, match=sentence) as caught:
        open_source(f"{name}:{folder}")
    assert "\n" not in str(caught.value)


def test_every_release_is_refused_when_any_of_its_files_is_gone_or_empty(
    copies: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever else is in a file, a reader that does not look at it would not notice that it is gone."""
    unread = {"make_model_name.mat", "train_test_split", "Images"}
    for name, folder in copies.items():
        tops = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".csv", ".mat")]
        looked_at = [path for path in tops if not unread & {*path.parts, path.name}]
        if name == "lists":  # without them, the lists are others
            looked_at = [path for path in looked_at if path.stem not in ("database", "classes")]
        for file in looked_at[:12]:
            for broken in (None, b""):
                copy = tmp_path / "copy"
                shutil.copytree(folder, copy)
                place = copy / file.relative_to(folder)
                place.unlink() if broken is None else place.write_bytes(broken)
                with pytest.raises(DataError) as caught:
                    open_source(f"{name}:{copy}")
                assert "\n" not in str(caught.value)
                shutil.rmtree(copy)


def test_without_scipy_one_sentence_names_the_extra(copies: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_scipy(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "scipy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(UsageError, match=r"train_list\.mat is a MATLAB file, .*; pip install 'hashret\[datasets\]'"):
        open_source(f"dogs:{copies['dogs']}")
    assert len(open_source(f"cub:{copies['cub']}")) == 24


# ---- how releases are named


def test_the_form_of_the_name(copies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copies["cub"].parent)
    assert split_release("cub:CUB_200_2011") == ("cub", copies["cub"])
    assert open_source("cub:CUB_200_2011").paths == open_source(f"cub:{copies['cub']}").paths
    for spec in ("CUB_200_2011", "bird:CUB_200_2011", "cub", "torchvision:CIFAR10", "C:/cub"):
        assert split_release(spec) is None
    for spec, reason in {
        "cub:": r"'cub:' names no folder; expected cub:FOLDER",
        "cub:nowhere": r"nowhere is not there; check the path, and name the folder",
        f"cub:{copies['cub'] / 'images.txt'}": r"images\.txt is no folder; unpack the release",
        "bird:CUB_200_2011": r"no folder, CSV, zip or data set 'bird:.*cub:FOLDER \(cub, cub-unseen, dogs, compcars, lists",
    }.items():
        with pytest.raises(DataError, match=reason):
            open_source(spec)
    with pytest.raises(DataError, match=r"no release 'bird'; it reads cub, cub-unseen"):
        open_release("bird", copies["cub"])
    label_map = tmp_path / "map.csv"
    write_csv(label_map, ("label", "class"), [(label, "bird") for label in set(open_source("cub:CUB_200_2011").labels)])
    assert set(open_source("cub:CUB_200_2011", label_map).labels) == {"bird"}


def test_a_path_that_exists_wins(
    tmp_path: Path, turntable_table: PictureTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        place = tmp_path / "cub:birds" / f"class{i}" / "a.jpg"
        place.parent.mkdir(parents=True)
        shutil.copyfile(turntable_table.paths[i], place)
    assert split_release("cub:birds") is None
    assert open_source("cub:birds").labels == ["class0", "class1"]


def test_the_commands_take_a_release(
    copies: dict[str, Path], hashret: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = hashret("data", "check", f"cub:{copies['cub']}", "--json")
    assert done.status == 0, done
    document = json.loads(done.out)
    assert (document["pictures"], document["classes"], document["splits"]) == (24, 4, {"test": 12, "train": 12})
    done = hashret("data", "check", "cub:nowhere")
    assert done.status == 1
    assert "nowhere is not there" in done.err
    csv = tmp_path / "cars.csv"
    done = hashret("data", "table", f"compcars:{copies['compcars']}", "--out", csv)
    assert "41 pictures, 4 classes, query 9, train 28, val 4" in done.out
    assert open_source(csv).records() == open_source(f"compcars:{copies['compcars']}").records()
    assert "cub:" in hashret("data", "check", "--help").out


def test_a_run_is_named_after_the_release_and_found_from_anywhere(
    turntable_table: PictureTable, hashret: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_cub(tmp_path, turntable_table, per_class=12)
    monkeypatch.chdir(folder.parent)
    done = hashret("train", "--data", "cub:CUB_200_2011", "--runs", "runs", *TINY, "--epochs", "1")
    assert done.status == 0, done.err
    stored = json.loads((tmp_path / "runs" / "cub_CUB_200_2011_16" / "run.json").read_text("utf-8"))
    assert stored["source"]["data"] == f"cub:{folder}"


def test_readers_are_loaded_when_they_are_used(copies: dict[str, Path]) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from hashret.data import open_source; before = set(sys.modules); "
        f"open_source('cub:{copies['cub']}'); "
        "print(sorted(m for m in set(sys.modules) - before if 'releases' in m), 'torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "['hashret.data.releases.cub', 'hashret.data.releases.files'] False False\n"


def test_many_pictures_take_one_listing_a_folder(
    tmp_path: Path, turntable_table: PictureTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    folder = make_cub(tmp_path, turntable_table, classes=3, per_class=13)
    seen: list[str] = []
    scandir = os.scandir

    def counted(place: str) -> Any:
        seen.append(str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", counted)
    assert len(open_source(f"cub:{folder}")) == 39
    assert len(seen) == len(set(seen)) == 3


# ---- CIFAR-10


def cifar(per_class: int = 20, test_per_class: int = 5) -> PictureTable:
    rows = [(f"{split}/{i:02d}", f"c{i % 3}", split) for split, n in (("train", per_class), ("test", test_per_class))
            for i in range(3 * n)]  # fmt: skip
    ids, labels, splits = map(list, zip(*rows, strict=True))
    return PictureTable(ids, [f"/{each}.png" for each in ids], labels, splits)


def test_cifar10_protocols() -> None:
    table = cifar()
    first = cifar10_splits.split_cifar10(table, queries_per_class=4, train_per_class=6)
    second = cifar10_splits.split_cifar10_1(table, queries_per_class=4, train_per_class=6)
    third = cifar10_splits.split_cifar10_2(table)
    assert cifar10_splits.split_cifar10_2(third) == third  # a table that was split so is read back as it was
    for each in (first, second):
        counts = Counter(zip(each.labels, each.splits, strict=True))
        assert {n for (_, split), n in counts.items() if split == "query"} == {4}
        assert {n for (_, split), n in counts.items() if split == "train"} == {6}
        assert {n for (_, split), n in counts.items() if split == "gallery"} == {15}
        assert each.ids == table.ids
    assert first.splits == second.splits
    assert in_gallery(first).tolist() == [split == "gallery" for split in first.splits]
    assert in_gallery(second).tolist() == [split != "query" for split in first.splits]
    assert by_split(third) == {"query": 15, "train": 60}
    assert in_gallery(third).tolist() == [split == "train" for split in table.splits]
    assert (
        len({split for split, each in zip(first.splits, table.splits, strict=True) if each == "test"}) > 1
    )  # out of both


def test_the_cifar10_choice_depends_on_ids_and_seed_alone() -> None:
    table = cifar()
    numbers = {"queries_per_class": 4, "train_per_class": 6}
    split = cifar10_splits.split_cifar10(table, **numbers)
    order = np.random.default_rng(3).permutation(len(table))
    turned = cifar10_splits.split_cifar10(table.select(order), **numbers)
    assert dict(zip(turned.ids, turned.splits, strict=True)) == dict(zip(split.ids, split.splits, strict=True))
    assert cifar10_splits.split_cifar10(table, seed=1, **numbers).splits != split.splits


def test_the_numbers_of_the_literature() -> None:
    ids = [f"{i:05d}" for i in range(60_000)]
    table = PictureTable(
        ids, ids, [str(i % 10) for i in range(60_000)], ["test" if i < 10_000 else "train" for i in range(60_000)]
    )
    found = {name: split(table) for name, split in cifar10_splits.SPLITS.items()}
    assert {name: (by_split(each), int(in_gallery(each).sum())) for name, each in found.items()} == {
        "cifar10": ({"gallery": 54_000, "query": 1_000, "train": 5_000}, 54_000),
        "cifar10-1": ({"gallery": 54_000, "query": 1_000, "train": 5_000}, 59_000),
        "cifar10-2": ({"query": 10_000, "train": 50_000}, 50_000),
    }


def test_tables_that_are_no_cifar10() -> None:
    with pytest.raises(
        DataError, match=r"has 25 pictures of 'c0'; the protocol takes 100 to ask with and 500 to learn from"
    ):
        cifar10_splits.split_cifar10(cifar())
    with pytest.raises(DataError, match="has pictures without a label"):
        cifar10_splits.split_cifar10(PictureTable(["a"], ["a"], [""], ["train"]))
    with pytest.raises(DataError, match=r"has the splits 'train'; cifar10-2 needs the data set's own"):
        cifar10_splits.split_cifar10_2(cifar(test_per_class=0))


# ---- roles


def test_in_gallery() -> None:
    table = PictureTable(["a", "b"], ["a", "b"], ["", ""], ["gallery", "query"])
    assert in_gallery(table).tolist() == [True, False]
    assert in_gallery(with_gallery(table, [False, True])).tolist() == [False, True]
    assert issubclass(DataError, HashretError)


def test_a_gallery_column_says_yes_or_nothing() -> None:
    table = with_gallery(cifar(), [True] * len(cifar()))
    table.attributes["gallery"][3] = "true"
    with pytest.raises(DataError, match="the column 'gallery' has 'true'; expected yes, or nothing"):
        in_gallery(table)
