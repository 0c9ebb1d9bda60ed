"""Every source of pictures becomes the same table: folders, CSVs, zips, torchvision's data sets, and the data commands."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from hashret.cli import main
from hashret.data import PictureTable, open_source
from hashret.data.layout import read_layout, shared_top
from hashret.data.torchvision_sets import SETS, cache_folder, find_set
from hashret.errors import DataError
from hashret.images import read_picture

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NFC = "현대/쏘나타"
NFD = unicodedata.normalize("NFD", NFC)


def needs(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"needs the data set {name}, which is not here")
    return SHARED / name


def picture(colour: object = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()


def folder_with(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture((i, i, i)) if path.suffix != ".csv" else b"")
    return root


def zip_with(path: Path, *names: str, **texts: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, b"" if name.endswith("/") else picture((i, i, i)))
        for name, text in texts.items():
            archive.writestr(name.replace("__", "/") + ".csv", text)
    return path


def seen(table: PictureTable) -> list[tuple[str, str, str]]:
    for path in table.paths:
        assert read_picture(path).size == (8, 6)
    return list(zip(table.ids, table.labels, table.splits, strict=True))


# ---- folders


def test_class_folders(tmp_path: Path) -> None:
    root = folder_with(
        tmp_path / "내 차", "dog/2.png", "dog/1.png", "cat/x.PNG", f"{NFD}/1.png", "classes.csv", "cat/notes.txt"
    )
    table = open_source(root)
    assert table.name == "내 차"
    assert seen(table) == [
        ("cat/x.PNG", "cat", ""),
        ("dog/1.png", "dog", ""),
        ("dog/2.png", "dog", ""),
        (f"{NFC}/1.png", NFC, ""),
    ]
    assert table.paths[-1] == f"{root}/{NFD}/1.png"


def test_the_order_does_not_depend_on_the_unicode_form_of_the_disk(tmp_path: Path) -> None:
    labels = ["가나", "각", "abc", "é", "z", "하"]
    for form in ("NFC", "NFD"):
        folder_with(tmp_path / form, *(unicodedata.normalize(form, f"{label}/1.png") for label in labels))
    assert open_source(tmp_path / "NFC").ids == open_source(tmp_path / "NFD").ids


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "validation", "TEST"), ("train", "valid", "query")],
)
def test_split_folders_on_top(tmp_path: Path, train: str, val: str, test: str) -> None:
    folder_with(
        tmp_path, f"{train}/cat/1.png", f"{train}/dog/a/1.png", f"{val}/cat/2.png", f"{test}/dog/3.png", "cover.png"
    )
    found = {(label, split) for _, label, split in seen(open_source(tmp_path))}
    last = "test" if test.lower() == "test" else test
    assert found == {("cat", "train"), ("dog/a", "train"), ("cat", "val"), ("dog", last), ("", "")}


def test_a_class_called_test_among_others_is_a_class(tmp_path: Path) -> None:
    folder_with(tmp_path, "cat/1.png", "test/1.png", "train/1.png")
    assert {(label, split) for _, label, split in seen(open_source(tmp_path))} == {
        ("cat", ""),
        ("test", ""),
        ("train", ""),
    }


def test_flat_folders(tmp_path: Path) -> None:
    folder_with(tmp_path / "flat", "b.png", "a.png")
    assert seen(open_source(tmp_path / "flat")) == [("a.png", "", ""), ("b.png", "", "")]
    folder_with(tmp_path / "split", "query/b.png", "gallery/a.png", "database/c.png")
    assert [split for _, _, split in seen(open_source(tmp_path / "split"))] == ["database", "gallery", "query"]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    folder_with(tmp_path, "cat/1.png", "cat/._1.png", ".thumbs/1.png", "__MACOSX/cat/1.png")
    assert open_source(tmp_path).ids == ["cat/1.png"]


def test_links_and_loops(tmp_path: Path) -> None:
    outside = folder_with(tmp_path / "outside", "1.png")
    root = folder_with(tmp_path / "root", "cat/1.png")
    (root / "dog").symlink_to(outside, target_is_directory=True)
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    assert open_source(root).ids == ["cat/1.png", "cat/gone.png", "dog/1.png"]


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.png").write_bytes(picture())
    zip_with(tmp_path / "empty.zip")
    (tmp_path / "no.zip").write_bytes(b"x")
    for name, reason in {
        "empty": "holds no pictures",
        "a.txt": r"a \.txt file",
        "a.png": "a single picture",
        "empty.zip": "holds no pictures",
        "no.zip": "cannot be read as a zip",
        "nothing": "no folder, CSV, zip or data set",
    }.items():
        with pytest.raises(DataError, match=reason):
            open_source(tmp_path / name)
    with pytest.raises(DataError, match=r"no data set 'Imagenette'.*CIFAR10"):
        open_source("torchvision:Imagenette")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not let such a name exist")
def test_a_name_in_an_old_encoding_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, "cat/1.png")
    os.mkdir(os.fsencode(tmp_path) + b"/" + "쏘나타".encode("cp949"))  # noqa: PTH102  the name is no text
    with pytest.raises(DataError, match=r"no Unicode name.*convmv"):
        open_source(tmp_path)


def test_a_folder_with_a_table_is_read_through_it(tmp_path: Path) -> None:
    folder_with(tmp_path / "set", "pictures/1.png", "pictures/2.png")
    PictureTable(["b"], [str(tmp_path / "set/pictures/2.png")], ["차"], ["test"], {"view": ["15"]}).write_csv(
        tmp_path / "set/table.csv"
    )
    table = open_source(tmp_path / "set")
    assert seen(table) == [("b", "차", "test")]
    assert (table.name, table.attributes) == ("set", {"view": ["15"]})
    assert seen(open_source(tmp_path / "set" / "table.csv")) == [("b", "차", "test")]
    (tmp_path / "map.csv").write_text("label,class\n차,car\n", "utf-8")
    assert open_source(tmp_path / "set", tmp_path / "map.csv").labels == ["car"]


# ---- zips


def test_zip_of_class_folders(tmp_path: Path) -> None:
    names = [
        "train/cat/1.png",
        f"train/{NFD}/1.png",
        "test/cat/2.png",
        "test/.DS_Store.png",
        "__MACOSX/train/cat/._1.png",
        "test/",
    ]
    table = open_source(zip_with(tmp_path / "차.zip", *names))
    assert seen(table) == [
        ("test/cat/2.png", "cat", "test"),
        ("train/cat/1.png", "cat", "train"),
        (f"train/{NFC}/1.png", NFC, "train"),
    ]
    assert table.name == "차"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["photos/1.png", "photos/2.png"], ["", ""]),  # the usual zip of a flat folder, called like it
        (["cats/1.png", "cats/2.png"], ["cats", "cats"]),
        (["1.png", "2.png"], ["", ""]),
        (["photos/cat/1.png", "photos/dog/2.png"], ["cat", "dog"]),
        (["x/y/cat/1.png", "x/y/dog/2.png"], ["cat", "dog"]),
        (["x/cat/1.png", "x/2.png"], ["x/cat", "x"]),
        (["x/train/cat/1.png", "x/test/dog/2.png"], ["cat", "dog"]),
        (["train/cat/1.png", "train/dog/2.png"], ["cat", "dog"]),
    ],
)
def test_folders_around_everything_in_a_zip(tmp_path: Path, names: list[str], labels: list[str]) -> None:
    table = open_source(zip_with(tmp_path / "photos.zip", *names))
    found = {path.rpartition("::")[2]: label for path, label in zip(table.paths, table.labels, strict=True)}
    assert found == dict(zip(names, labels, strict=True))


@pytest.mark.parametrize("where", ["", "set/"])
def test_zip_of_a_table(tmp_path: Path, where: str) -> None:
    csv = "id,path,label,split,view\n1,pictures/0.png,차,train,15\n"
    prefix = where.replace("/", "__")
    for name in ("table", "cars"):
        path = zip_with(
            tmp_path / f"{name}.zip",
            f"{where}pictures/0.png",
            f"{where}pictures/1.png",
            **{prefix + name: csv, prefix + "classes": "a,b\n"},
        )
        table = open_source(path)
        assert seen(table) == [("1", "차", "train")]
        assert table.attributes == {"view": ["15"]}


def test_zip_paths_survive_a_csv(tmp_path: Path) -> None:
    table = open_source(zip_with(tmp_path / "차.zip", f"{NFD}/1.png", "dog/2.png"))
    table.write_csv(tmp_path / "t.csv")
    back = PictureTable.read_csv(tmp_path / "t.csv")
    assert seen(back) == seen(table)
    assert "\n" + f"{NFC}/1.png,차.zip::{NFD}/1.png" in (tmp_path / "t.csv").read_text("utf-8")


def test_layout_of_no_pictures() -> None:
    assert read_layout([]) == ([], [])
    assert shared_top([], "x") == ""


# ---- the real sets


def test_real_cifar_zip() -> None:
    table = open_source(needs("cifar10_test.zip"))
    assert len(table) == 10_000
    assert set(Counter(table.labels).values()) == {1000}
    assert set(table.splits) == {"test"}
    assert read_picture(table.paths[1234]).size == (32, 32)


def test_real_omniglot_zip_has_alphabets_and_characters() -> None:
    table = open_source(needs("omniglot_small1.zip"))
    assert len(table) == 2720
    assert set(Counter(table.labels).values()) == {20}
    assert len(set(table.labels)) == 136
    assert table.labels[0] == "Balinese/character01"
    assert read_picture(table.paths[0]).size == (105, 105)


def test_real_cars_folder_with_class_names_beside() -> None:
    folder = needs("stanford_cars_96")
    table = open_source(folder, folder / "classes.csv")
    assert len(table) == 8144
    assert len(set(table.labels)) == 196
    assert table.labels[0] == "AM General Hummer SUV 2000"
    assert set(table.splits) == {""}


# ---- torchvision


class Fake:
    """Stands for a data set class of torchvision's."""

    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, root: str, *, train: bool, download: bool) -> None:
        Fake.calls.append({"root": root, "train": train, "download": download})
        self.classes = ["비행기", "car/truck"]
        self.train = train

    def __len__(self) -> int:
        return 4 if self.train else 2

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.new("L", (5, 7), row), row % 2


def test_a_torchvision_set_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path / "캐시"))
    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    Fake.calls.clear()
    table = open_source("cifar-10")
    assert [call["train"] for call in Fake.calls] == [True, False]
    assert all(call["download"] for call in Fake.calls)
    assert table.name == "CIFAR10"
    assert table.ids == [*(f"train/00000{i}" for i in range(4)), "test/000000", "test/000001"]
    assert table.labels == ["비행기", "car/truck"] * 3
    assert read_picture(table.paths[3]).getpixel((0, 0)) == (3, 3, 3)
    again = open_source("torchvision:CIFAR10")
    assert (len(Fake.calls), again.paths) == (2, table.paths)
    assert (tmp_path / "캐시/torchvision/CIFAR10/table.csv").is_file()
    (tmp_path / "CIFAR10").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="holds no pictures"):
        open_source("CIFAR10")  # what exists wins over a name


def test_files_of_a_torchvision_set_are_used_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))

    class FakeFlowers(Fake):
        def __init__(self, root: str, *, split: str, download: bool) -> None:
            super().__init__(root, train=split == "train", download=download)
            folder_with(Path(root) / "jpg", *(f"{split}{i}.png" for i in range(len(self))))
            self._image_files = [Path(root) / "jpg" / f"{split}{i}.png" for i in range(len(self))]

    monkeypatch.setattr(datasets, "Flowers102", FakeFlowers)
    table = open_source("Flowers102")
    assert table.paths[0] == str(tmp_path / "torchvision/Flowers102/jpg/train0.png")
    assert Counter(table.splits) == {"train": 4, "val": 2, "test": 2}
    assert not (tmp_path / "torchvision/Flowers102/pictures").exists()


def test_large_pictures_are_kept_as_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    data = [(Image.new("RGB", (257, 3), "red"), 0), (Image.new("RGB", (256, 3), "red"), 1)]

    class FakeCaltech(list[tuple[Image.Image, int]]):
        categories = ("a", "b")

        def __init__(self, root: str, download: bool) -> None:
            super().__init__(data)

    monkeypatch.setattr(datasets, "Caltech101", FakeCaltech)
    table = open_source("caltech_101")
    assert [Path(path).suffix for path in table.paths] == [".jpg", ".png"]
    assert (table.splits, table.labels) == (["", ""], ["a", "b"])


@pytest.mark.parametrize("name", ["CIFAR10", "StanfordCars"])
def test_a_failed_download_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("torchvision.datasets")
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # the real way, to an address where nobody answers
    with pytest.raises(
        DataError, match=rf"{name} could not be downloaded \(.+\); fetch it .*{name}, or give a folder"
    ) as caught:
        open_source(name)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("table.csv"))


def test_every_named_set_is_one_of_torchvisions() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    import inspect

    for name, kind in SETS.items():
        parameters = inspect.signature(getattr(datasets, name).__init__).parameters
        for arguments in kind.splits.values():
            for argument in (*arguments, *kind.fixed, "root"):
                assert argument in parameters or "kwargs" in parameters, (name, argument)
    assert find_set("stanford-cars") == "StanfordCars"
    assert find_set("Fashion MNIST") == "FashionMNIST"
    assert find_set("cars") is None


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HASHRET_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HASHRET_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "hashret"


def test_opening_a_folder_loads_no_torch(tmp_path: Path) -> None:
    folder_with(tmp_path, "cat/1.png")
    script = f"import sys; from hashret.data import open_source; open_source({str(tmp_path)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


# ---- the commands


def test_data_table_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_with(tmp_path / "set", "train/cat/1.png", f"test/{NFD}/2.png")
    out = tmp_path / "out.csv"
    assert main(["data", "table", str(root), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 pictures, 2 classes, test 1, train 1\n"
    assert seen(open_source(out)) == seen(open_source(root))
    assert main(["data", "table", str(root), "--out", str(out), "--split", "test", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["pictures"], document["splits"]) == (1, {"test": 1})
    assert open_source(out).labels == [NFC]
    assert main(["data", "table", str(root), "--out", str(out), "--split", "val"]) == 1
    assert "has no split 'val'" in capsys.readouterr().err


def test_data_sheet_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_with(
        tmp_path / "set", *(f"{label}/{i}.png" for label in ("cat", NFD) for i in range(5)), "bird/0.png"
    )
    out = tmp_path / "시트.png"
    assert main(["data", "sheet", str(root), "--out", str(out), "--per-class", "3", "--size", "40", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["shown"] == [
        "bird/0.png",
        "cat/0.png",
        "cat/1.png",
        "cat/3.png",
        *(f"{NFC}/{i}.png" for i in (0, 1, 3)),
    ]
    with Image.open(out) as sheet:
        assert sheet.size == tuple(document["size"])
    assert main(["data", "sheet", str(root), "--out", str(out), "--classes", "1", "--seed", "3"]) == 0
    flat = folder_with(tmp_path / "flat", *(f"{i}.png" for i in range(9)))
    assert (
        main(["data", "sheet", str(flat), "--out", str(tmp_path / "s.jpg"), "--classes", "2", "--per-class", "2"]) == 0
    )
    assert "4 pictures of 9" in capsys.readouterr().out
    assert main(["data", "sheet", str(flat), "--out", str(tmp_path / "s.gif")]) == 2
    assert main(["data", "sheet", str(flat), "--out", str(tmp_path / "no" / "s.png")]) == 1


@pytest.mark.parametrize(
    "arguments",
    [["sheet"], ["check"], ["table", "x"], [], ["nonsense"], ["sheet", "x", "--out", "a.png", "--size", "0"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", *arguments])
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["table", "check", "sheet", "turntable"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", command, "--help"])
    assert caught.value.code == 0
    assert f"hashret data {command} " in capsys.readouterr().out.split("\n\n", 1)[1][:400]
