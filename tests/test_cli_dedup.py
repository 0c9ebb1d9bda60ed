"""`hashret dedup` as a user types it."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hashret.cli.dedup import EXAMPLE, SHEET_COLUMNS, SHEET_GROUPS
from hashret.codes import pack
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.index import HammingIndex
from hashret.index.near_duplicates import near_duplicates
from hashret.model.hasher import Hasher

CPU = ["--device", "cpu", "--workers", 0]
CODES = [0b0000, 0b1111_0000, 0b0001, 0b1111_0000, 0b0011, 0b1111_1111_0000, 0b1111_1111_1000_0000_0000_0000]
"""Within 1 bit: 0, 2 and 4 are a chain, 1 and 3 are equal, 5 and 6 are alone."""


def hues(folder: Path, n: int) -> list[Path]:
    """So many pictures with Hangul names, as some file systems decompose them."""
    folder.mkdir(parents=True)
    paths = [folder / unicodedata.normalize("NFD", f"차 {i}.png") for i in range(n)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 30), (30 * i % 256, 200 - 20 * i % 200, 90)).save(path)
    return paths


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Seven pictures, codes of 24 bits."""
    made = HammingIndex(24)
    codes = np.array(CODES, ">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    labels = ["소나타", "아반떼", "소나타", "소나타", "", "x", "y"]
    made.add(
        codes,
        records=[
            {"id": path.name, "path": str(path), "label": label}
            for path, label in zip(hues(tmp_path / "사진", 7), labels, strict=True)
        ],
    )
    made.save(tmp_path / "차.index")
    return tmp_path / "차.index"


def name(i: int) -> str:
    return unicodedata.normalize("NFD", f"차 {i}.png")


def ask(hashret: Callable, *words: object) -> dict[str, Any]:
    status, out, err = hashret("dedup", *words, "--json")
    assert status == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def members(document: dict[str, Any]) -> list[list[str]]:
    return [[picture["id"] for picture in group["pictures"]] for group in document["groups"]]


def test_groups_of_an_index(hashret: Callable, index: Path) -> None:
    status, out, err = hashret("dedup", "--index", index, "--radius", 1)
    assert status == 0
    assert out == (
        "group  pictures  bits  ids\n"
        "    1         3     2  차 0.png  차 2.png  차 4.png\n"
        "    2         2     0  차 1.png  차 3.png\n"
        f"{index}: 2 groups within 1 bit, 5 of 7 pictures; 3 besides the first of each\n"
    )
    assert err == (
        "1 group is a chain of near pictures that leads up to 2 bits away from the first; a smaller --radius cuts it\n"
    )
    assert hashret("dedup", "--index", index, "--radius", 0).err == ""
    assert members(ask(hashret, "--index", index, "--radius", 0)) == [[name(1), name(3)]]
    everything = ask(hashret, "--index", index, "--radius", 24)
    assert members(everything) == [[name(i) for i in range(7)]] and everything["in_groups"] == 7
    assert ask(hashret, "--index", index)["radius"] == 3, "what is not said"


def test_json_is_one_document(hashret: Callable, index: Path, tmp_path: Path) -> None:
    out, sheet = tmp_path / "g.csv", tmp_path / "g.png"
    document = ask(hashret, "--index", index, "--radius", 1, "--out", out, "--sheet", sheet, "--threads", 2)
    groups = document.pop("groups")
    assert document == {
        "source": str(index), "radius": 1, "exact": True, "pictures": 7, "in_groups": 5,
        "out": str(out), "sheet": str(sheet), "skipped_list": None,
    }  # fmt: skip
    assert [group["largest_distance"] for group in groups] == [2, 0]
    assert groups[0]["pictures"][1] == {
        "id": name(2), "path": str(tmp_path / "사진" / name(2)), "label": "소나타", "distance": 1,
    }  # fmt: skip
    assert [picture["distance"] for picture in groups[0]["pictures"]] == [0, 1, 2]


def test_the_csv_has_a_line_for_each_picture(hashret: Callable, index: Path, tmp_path: Path) -> None:
    out = tmp_path / "무리.csv"
    assert hashret("dedup", "--index", index, "--radius", 1, "--out", out).status == 0
    with out.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert out.read_text("utf-8").splitlines()[0] == "group,id,path,label,distance"
    assert [(row["group"], row["id"], row["distance"]) for row in rows] == [
        ("1", name(0), "0"), ("1", name(2), "1"), ("1", name(4), "2"), ("2", name(1), "0"), ("2", name(3), "0"),
    ]  # fmt: skip
    assert all(Path(row["path"]).is_file() for row in rows) and rows[0]["label"] == "소나타" and rows[2]["label"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["무리.csv", "사진", "차.index"])


def test_the_csv_takes_any_name(hashret: Callable, tmp_path: Path) -> None:
    hostile = ['a,"b"', "c\rd", "e\nf", "=1+1", ""]
    made = HammingIndex(8)
    made.add(np.zeros((5, 1), np.uint8), records=[{"id": f"i{i}", "label": text} for i, text in enumerate(hostile)])
    made.save(tmp_path / "i")
    out = tmp_path / "g.csv"
    assert hashret("dedup", "--index", tmp_path / "i", "--out", out).status == 0
    with out.open(encoding="utf-8", newline="") as opened:
        assert [row["label"] for row in csv.DictReader(opened)] == hostile


def test_the_sheet_has_a_row_for_each_group(hashret: Callable, index: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "무리.png"
    assert hashret("dedup", "--index", index, "--radius", 1, "--sheet", sheet).status == 0
    with Image.open(sheet) as picture:
        assert 3 * 144 < picture.width < 4 * 180 and 2 * 144 < picture.height < 3 * 240
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert (0xD5, 0x5E, 0x00) in colours, "the same code under two labels"
    assert (0x00, 0x7A, 0x58) not in colours
    for i in (0, 1, 2, 3, 4):
        assert (30 * i % 256, 200 - 20 * i % 200, 90) in colours
    for i in (5, 6):
        assert (30 * i % 256, 200 - 20 * i % 200, 90) not in colours


def test_a_sheet_and_a_line_are_cut_where_groups_are_many_or_large(hashret: Callable, tmp_path: Path) -> None:
    made = HammingIndex(16)
    numbers = np.repeat(np.arange(SHEET_GROUPS + 3), [30, *[2] * (SHEET_GROUPS + 2)])
    codes = pack((numbers[:, None] >> np.arange(16)) & 1)
    made.add(codes, records=[{"id": f"{i:03d}", "path": "gone.png"} for i in range(len(codes))])
    made.save(tmp_path / "i")
    sheet = tmp_path / "s.jpg"
    status, out, err = hashret("dedup", "--index", tmp_path / "i", "--radius", 0, "--sheet", sheet)
    assert status == 0
    assert err == f"the contact sheet shows at most {SHEET_GROUPS} groups and {SHEET_COLUMNS} pictures of each\n"
    lines = out.splitlines()
    assert len(lines) == 1 + SHEET_GROUPS + 3 + 1
    assert lines[1].split() == ["1", "30", "0", *(f"{i:03d}" for i in range(8)), "and", "22", "more"]
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG" and picture.width < 13 * 180 and picture.height < 51 * 230
    document = ask(hashret, "--index", tmp_path / "i", "--radius", 0)
    assert [len(names) for names in members(document)] == [30, *[2] * (SHEET_GROUPS + 2)], "JSON holds all"


def test_records_are_read_in_parts(hashret: Callable, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashret("dedup", "--index", index, "--radius", 1).out
    for most in (1, 2, 4, 5):
        monkeypatch.setattr("hashret.cli.dedup._RECORDS_AT_ONCE", most)
        assert hashret("dedup", "--index", index, "--radius", 1).out == expected


def test_no_duplicates(hashret: Callable, index: Path, tmp_path: Path) -> None:
    opened = HammingIndex.load(index)
    opened.remove(opened.find([name(3)]))
    opened.save(index)
    words = ["--index", index, "--radius", 0, "--out", tmp_path / "g.csv", "--sheet", tmp_path / "g.png"]
    status, out, err = hashret("dedup", *words)
    assert (status, out) == (0, f"{index}: no near-duplicates within 0 bits among 6 pictures\n")
    assert err == "there are no groups, so no contact sheet was written\n" and not (tmp_path / "g.png").exists()
    assert (tmp_path / "g.csv").read_text() == "group,id,path,label,distance\n"
    document = ask(hashret, *words)
    assert document["groups"] == [] and document["sheet"] is None and document["in_groups"] == 0
    HammingIndex(8).save(tmp_path / "empty")
    assert hashret("dedup", "--index", tmp_path / "empty").out.endswith("among 0 pictures\n")


def test_an_index_without_records(hashret: Callable, tmp_path: Path) -> None:
    made = HammingIndex(8)
    made.add(np.zeros((2, 1), np.uint8), ids=[70, 5])
    made.save(tmp_path / "i")
    document = ask(hashret, "--index", tmp_path / "i", "--sheet", tmp_path / "s.png")
    assert document["groups"][0]["pictures"] == [
        {"id": "70", "path": "", "label": "", "distance": 0}, {"id": "5", "path": "", "label": "", "distance": 0},
    ]  # fmt: skip


def test_an_index_needs_no_torch(index: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'torchvision'): sys.modules[name] = None\n"
        "from hashret.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "dedup", "--index", str(index), "--radius", "0"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "") and "1 group within 0 bits, 2 of 7 pictures" in done.stdout


@pytest.fixture
def folder(closed_set: Path, tmp_path: Path) -> Path:
    """Two classes with Hangul names; one picture lies in both, one twice in the same."""
    folder = tmp_path / "차들"
    for source, label in (("class00", "소나타"), ("class03", "아반떼")):
        shutil.copytree(closed_set / source, folder / label)
    shutil.copy(folder / "소나타" / "02.png", folder / "아반떼" / "복사본.png")
    shutil.copy(folder / "아반떼" / "05.png", folder / "아반떼" / "05 (1).png")
    return folder


class TestFolder:
    def test_pictures_are_encoded_first(self, hashret: Callable, tiny_run: Path, folder: Path, tmp_path: Path) -> None:
        words = ["--data", folder, "--model", tiny_run, "--radius", 0, *CPU]
        sheet, out = tmp_path / "s.png", tmp_path / "g.csv"
        document = ask(hashret, *words, "--sheet", sheet, "--out", out)
        groups = [set(names) for names in members(document)]
        assert any({"소나타/02.png", "아반떼/복사본.png"} <= names for names in groups)
        assert any({"아반떼/05.png", "아반떼/05 (1).png"} <= names for names in groups)
        assert document["pictures"] == 18 and all(group["largest_distance"] == 0 for group in document["groups"])
        # The same as over an index of the same pictures, and nothing is left behind.
        assert hashret("index", "--model", tiny_run, "--data", folder, "--out", tmp_path / "i", *CPU).status == 0
        assert ask(hashret, "--index", tmp_path / "i", "--radius", 0)["groups"] == document["groups"]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["g.csv", "i", "s.png", "차들"])
        with Image.open(sheet) as picture:
            assert (0xD5, 0x5E, 0x00) in {colour for _, colour in picture.getcolors(1 << 24)}

    def test_sources_and_labels_as_in_other_commands(
        self, hashret: Callable, tiny_run: Path, folder: Path, tmp_path: Path
    ) -> None:
        table = open_source(folder)
        table.splits = ["train" if path.endswith("05.png") else "test" for path in table.paths]
        table.write_csv(tmp_path / "t.csv")
        (tmp_path / "map.csv").write_text("label,class\n소나타,차\n아반떼,차\n")
        words = ["--data", tmp_path / "t.csv", "--label-map", tmp_path / "map.csv", "--split", "test"]
        document = ask(hashret, *words, "--model", tiny_run, "--radius", 16, *CPU)
        assert document["pictures"] == 16 and {p["label"] for p in document["groups"][0]["pictures"]} == {"차"}

    def test_pictures_that_cannot_be_read(
        self, hashret: Callable, tiny_run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (folder / "소나타" / "깨짐.png").write_bytes(b"\x89PNG")
        words = ["--data", folder, "--model", tiny_run, "--radius", 0, *CPU]
        status, out, err = hashret("dedup", *words)
        assert (status, out) == (1, "") and "깨짐.png" in err and err.count("\n") == 1
        document = ask(hashret, *words, "--on-bad", "skip", "--out", "g.csv")
        assert document["pictures"] == 18 and document["skipped_list"] == "g.csv.skipped.txt"
        assert "깨짐.png" in Path("g.csv.skipped.txt").read_text("utf-8")
        for path in folder.rglob("*.png"):
            path.write_bytes(b"\x89PNG")
        status, out, err = hashret("dedup", *words, "--on-bad", "skip")
        assert (status, out) == (1, "") and "none of the 19 pictures of 차들 can be read; nothing was compared" in err


STOPPED = """
import sys, time
from hashret.encoding import encode_table
from hashret.model.hasher import Hasher

encode_table.__kwdefaults__["chunk_size"] = 4
run_batch, batches = Hasher.run_batch, []

def waits_in_the_fourth(self, pictures):
    batches.append(len(pictures))
    if len(batches) == 4:
        print("in the fourth", flush=True)
        time.sleep(100)
    return run_batch(self, pictures)

Hasher.run_batch = waits_in_the_fourth
from hashret.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, in chunks of four pictures; in the fourth it waits for what comes."""


class Encoding:
    """How many pictures were encoded at a time, and the batch in which a user interrupts."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.interrupted_in = 0


class TestInterruption:
    """18 pictures in chunks of four."""

    @pytest.fixture
    def encoding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoding:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setitem(encode_table.__kwdefaults__, "chunk_size", 4)
        run_batch, encoding = Hasher.run_batch, Encoding()

        def counted(self: Hasher, pictures: Any) -> Any:
            encoding.batches.append(len(pictures))
            if len(encoding.batches) == encoding.interrupted_in:
                raise KeyboardInterrupt
            return run_batch(self, pictures)

        monkeypatch.setattr(Hasher, "run_batch", counted)
        return encoding

    def interrupted(self, hashret: Callable, encoding: Encoding, *words: object) -> str:
        """What the command says on standard error when it is interrupted in its fourth batch."""
        encoding.batches, encoding.interrupted_in = [], 4
        status, out, err = hashret("dedup", *words)
        encoding.batches, encoding.interrupted_in = [], 0
        assert (status, out) == (130, "") and err.endswith("hashret: interrupted\n")
        return str(err)

    @pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
    @pytest.mark.parametrize("number,status", [("SIGINT", 130), ("SIGKILL", -9)])
    @pytest.mark.parametrize("out", [[], ["--out", "무리.csv"]], ids=["printed", "written"])
    def test_a_stopped_run_goes_on_where_it_stopped(
        self,
        hashret: Callable,
        tiny_run: Path,
        folder: Path,
        encoding: Encoding,
        number: str,
        status: int,
        out: list[str],
    ) -> None:
        words = ["--data", folder, "--model", tiny_run, "--radius", 1, *CPU, *out]
        command = [sys.executable, "-c", STOPPED, "dedup", *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as running:
            assert running.stdout is not None and running.stdout.readline() == "in the fourth\n"
            running.send_signal(getattr(signal, number))
            _, err = running.communicate(timeout=60)
        assert running.returncode == status
        (workplace,) = Path.cwd().iterdir()
        assert len(list(workplace.glob("chunk-*.npz"))) == 3
        if number == "SIGINT":
            kept = f"what was encoded is kept in {workplace}; the same command goes on from there"
            assert err.endswith(f"{kept}\nhashret: interrupted\n")
        done = hashret("dedup", *words, "--json")
        assert done.status == 0 and "12 of 18 pictures are encoded already" in done.err and encoding.batches == [4, 2]
        assert [path.name for path in Path.cwd().iterdir()] == out[1:]
        assert ask(hashret, *words)["groups"] == json.loads(done.out)["groups"] != [], "as without a stop"

    def test_the_same_name_elsewhere_and_another_model_are_other_jobs(
        self, hashret: Callable, tiny_run: Path, folder: Path, tmp_path: Path, encoding: Encoding
    ) -> None:
        other = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
        expected = ask(hashret, "--data", folder, "--model", tiny_run, *CPU)
        jobs = [(folder, tiny_run), (other, tiny_run), (folder, f"{tiny_run}@1")]
        for data, model in jobs:
            self.interrupted(hashret, encoding, "--data", data, "--model", model, *CPU)
        kept = sorted(Path.cwd().iterdir())
        assert len(kept) == 3 and all(path.name.startswith(f"{folder.name}.") for path in kept)
        assert [len(list(path.iterdir())) for path in kept] == [3, 3, 3]
        for left, (data, model) in zip((2, 1, 0), jobs, strict=True):
            encoding.batches = []
            document = ask(hashret, "--data", data, "--model", model, *CPU)
            assert encoding.batches == [4, 2] and len(list(Path.cwd().iterdir())) == left
            assert (data, model) != jobs[0] or document == expected

    def test_what_changed_is_encoded_anew(
        self, hashret: Callable, tiny_run: Path, folder: Path, encoding: Encoding
    ) -> None:
        """Into one file: another model's codes, or those of a picture that is not what it was, are never taken."""
        words = ["--data", folder, "--radius", 1, *CPU, "--out", "g.csv"]
        self.interrupted(hashret, encoding, *words, "--model", f"{tiny_run}@1")
        document = ask(hashret, *words, "--model", f"{tiny_run}@2")
        assert encoding.batches == [4, 4, 4, 4, 2]
        assert [path.name for path in Path.cwd().iterdir()] == ["g.csv"], "not even the other model's chunks are left"
        assert ask(hashret, *words, "--model", f"{tiny_run}@2") == document
        self.interrupted(hashret, encoding, *words, "--model", f"{tiny_run}@2")
        shutil.copy(folder / "아반떼" / "05.png", folder / "소나타" / "00.png")
        document = ask(hashret, *words, "--model", f"{tiny_run}@2")
        assert encoding.batches == [4, 4, 2]
        assert any({"소나타/00.png", "아반떼/05.png"} <= set(names) for names in members(document))

    def test_nothing_is_encoded_again_when_comparing_or_writing_was_stopped(
        self, hashret: Callable, tiny_run: Path, folder: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["--data", folder, "--model", tiny_run, *CPU, "--out", "g.csv"]

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("hashret.index.near_duplicates.near_duplicates", interrupted)
            status, _, err = hashret("dedup", *words)
            assert status == 130 and "what was encoded is kept in" in err
        with monkeypatch.context() as patch:
            patch.setattr("hashret.index.durable.replace_file", full)
            status, _, err = hashret("dedup", *words)
            assert status == 1 and "18 of 18 pictures are encoded already" in err and "No space left" in err
        assert encoding.batches == [4, 4, 4, 4, 2]
        assert hashret("dedup", *words).status == 0
        assert len(encoding.batches) == 5 and [path.name for path in Path.cwd().iterdir()] == ["g.csv"]

    def test_the_same_command_twice_at_once(
        self, hashret: Callable, tiny_run: Path, folder: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one that is done first takes the folder away; the other has its answer all the same."""
        words = ["--data", folder, "--model", tiny_run, *CPU]
        expected = ask(hashret, *words)

        def done_first(*given: Any) -> Any:
            (workplace,) = Path.cwd().iterdir()
            shutil.rmtree(workplace)
            return near_duplicates(*given)

        monkeypatch.setattr("hashret.index.near_duplicates.near_duplicates", done_first)
        assert ask(hashret, *words) == expected

    def test_an_interruption_before_anything_is_done_leaves_nothing(
        self, hashret: Callable, tiny_run: Path, folder: Path, encoding: Encoding
    ) -> None:
        encoding.interrupted_in = 1
        status, out, err = hashret("dedup", "--data", folder, "--model", tiny_run, *CPU)
        assert (status, out, err) == (130, "", "hashret: interrupted\n") and not list(Path.cwd().iterdir())

    def test_the_pictures_lie_where_the_command_is_typed(
        self, hashret: Callable, tiny_run: Path, folder: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        (folder / "소나타" / "깨짐.png").write_bytes(b"\x89PNG")
        words = ["--data", ".", "--model", tiny_run, *CPU, "--on-bad", "skip"]
        kept = Path(self.interrupted(hashret, encoding, *words).partition("kept in ")[2].partition(";")[0])
        assert kept.parent == folder and kept.name.startswith(f"{folder.name}.") and kept.name.endswith(".unfinished")
        document = ask(hashret, *words)
        assert document["pictures"] == 18 and sum(encoding.batches) < 10
        assert document["skipped_list"] == f"{folder.name}.skipped.txt" and Path(document["skipped_list"]).is_file()
        assert sorted(path.name for path in folder.iterdir()) == sorted(["소나타", "아반떼", document["skipped_list"]])

    def test_a_place_that_cannot_be_written_is_refused_at_once(
        self,
        hashret: Callable,
        tiny_run: Path,
        folder: Path,
        tmp_path: Path,
        encoding: Encoding,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        here = Path.cwd()
        monkeypatch.setattr("os.access", lambda path, _: Path(path) != here)
        words = ["--data", folder, "--model", tiny_run, *CPU]
        status, out, err = hashret("dedup", *words)
        assert (status, out) == (2, "") and f"nothing can be written to {here}" in err and "--out" in err
        assert encoding.batches == [] and hashret("dedup", *words, "--out", tmp_path / "g.csv").status == 0


def test_wrong_usage(hashret: Callable, index: Path, tmp_path: Path) -> None:
    here = ["--index", index]
    for words, said in (
        ([], "give either --index INDEX, or --data SOURCE with --model RUN"),
        ([*here, "--data", tmp_path], "give either --index INDEX, or --data SOURCE with --model RUN"),
        (["--data", tmp_path], "--data needs --model RUN"),
        ([*here, "--model", "x"], "leave out --model, --split and --label-map"),
        ([*here, "--split", "test"], "leave out --model, --split and --label-map"),
        ([*here, "--sheet", tmp_path / "s.gif"], "name a .png or .jpg file"),
        ([*here, "--sheet", tmp_path / "no" / "s.png"], "there is no folder"),
        ([*here, "--out", tmp_path], "which is a folder; name a file"),
        ([*here, "--radius", "-1"], "expected a whole number from 0"),
        ([*here, "--radius", "1.5"], "expected a whole number from 0"),
        ([*here, "--threads", "0"], "expected a whole number from 1"),
        ([*here, "extra"], "unrecognized arguments: extra"),
    ):
        status, out, err = hashret("dedup", *words)
        assert (status, out) == (2, "") and said in err and err.count("\n") == 1, err


def test_what_is_not_there(hashret: Callable, tiny_run: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--index", tmp_path / "none"], "is no hashret index"),
        (["--data", tmp_path / "none", "--model", tiny_run], str(tmp_path / "none")),
        (["--data", tmp_path, "--model", tiny_run], str(tmp_path)),
        (["--data", tmp_path, "--model", "nobody"], str(tmp_path)),
    ):
        status, out, err = hashret("dedup", *words)
        assert (status, out) == (1, "") and said in err and err.count("\n") == 1, err


def test_help_opens_with_an_example_that_works(
    hashret: Callable, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = hashret("dedup", "--help")
    assert status == 0 and out.startswith("Example:  hashret dedup ")
    monkeypatch.chdir(tmp_path)
    index.rename(tmp_path / "cars.index")
    words = EXAMPLE.splitlines()[0].split()[2:]
    assert hashret(*words).status == 0
    assert (tmp_path / "groups.png").is_file() and (tmp_path / "groups.csv").is_file()
