"""What holds for every command: help, exit statuses, one sentence for what goes wrong, output that cannot be taken."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hashret.cli.runs as runs_command
from hashret import __version__
from hashret.cli import COMMANDS
from hashret.cli.options import counted, text_table
from hashret.index import HammingIndex

ROOT = Path(__file__).parent.parent
HANGUL = "현대 소나타"


def shell(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], **{"capture_output": True, "text": True, "timeout": 120, **options}
    )


@pytest.fixture
def hangul_index(tmp_path: Path) -> Path:
    """Two codes of 16 bits with labels in Hangul."""
    index = HammingIndex(16)
    index.add(
        np.array([[0, 0], [0, 7]], np.uint8),
        records=[{"id": f"{i}", "path": f"/사진/{i}.jpg", "label": HANGUL} for i in range(2)],
    )
    index.save(tmp_path / "hangul.index")
    return tmp_path / "hangul.index"


# ---- help and wrong usage


DATA_COMMANDS = [["data", name] for name in ("table", "check", "sheet", "turntable")]


@pytest.mark.parametrize("words", [*([command] for command in COMMANDS), *DATA_COMMANDS])
def test_help_opens_with_an_example(hashret: Callable, words: list[str]) -> None:
    status, out, err = hashret(*words, "--help")
    assert status == 0 and err == ""
    assert out.lower().startswith("example:")
    opening = out.partition("usage:")[0]
    assert f"hashret {' '.join(words)}" in opening
    assert max(map(len, opening.splitlines())) <= 130


def test_every_command_is_listed_with_what_it_does(hashret: Callable) -> None:
    for words in ([], ["--help"]):
        status, out, _ = hashret(*words)
        assert status == 0 and out.startswith("Example:")
        assert all(f"  {name}" in out and text in out for name, text in COMMANDS.items())


def test_the_version(hashret: Callable) -> None:
    assert hashret("--version") == (0, f"hashret {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["--colour"], "COMMAND; see hashret --help"),
        (["query"], "--index"),
        (["query", "--index", "x", "-k", "0", "p.jpg"], "argument -k: found '0', expected a whole number from 1"),
        (["query", "--index", "x", "-k", "many", "p.jpg"], "argument -k: found 'many'"),
        (["query", "--index", "x", "--threads", "-2", "p.jpg"], "--threads"),
        (["query", "--index", "x", "--metric", "euclid", "p.jpg"], "invalid choice: 'euclid'"),
        (["query", "--index", "x"], "give either photos or --code HEX"),
        (["query", "--index", "x", "p.jpg", "--code", "00"], "give either photos or --code HEX"),
        (["query", "--index", "x", "--code", "00", "--metric", "cosine"], "--code is a code and no picture"),
        (["query", "--index", "x", "p.jpg", "--sheet", "s.gif"], "name a .png or .jpg"),
        (["query", "--index", "x", "p.jpg", "--sheet", "no/such/s.png"], "there is no folder"),
        (["index", "--out", "y"], "no pictures are named"),
        (["index", "x"], "--out"),
        (["index", "--model", "m", "--data", "x", "--out", "y", "--batch-size", "0"], "--batch-size"),
        (["index", "--model", "m", "--data", "x", "--out", "y", "--workers", "-1"], "--workers"),
        (["evaluate", "--model", "m", "--data", "x", "-k", "0"], "argument -k"),
        (["evaluate", "--model", "m", "--data", "x", "--map-k", "1.5"], "argument --map-k"),
        (["evaluate", "--model", "m", "--data", "x", "--out", "no/such/s.json"], "there is no folder"),
        (["evaluate", "--model", "m", "--data", "x", "--out", "."], "which is a folder"),
        (["train"], "no pictures named; give --data"),
        (["train", "--data", "x", "--code-size", "0"], "code size is 0; choose 1 to 1024 bits"),
        (["train", "--data", "x", "--margin", "wide"], "'wide' is neither a number nor 'auto'"),
        (["train", "--data", "x", "--lr", "nan"], "--lr is nan"),
        (["runs", "--data", "x"], "--data"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence_with_status_2(
    hashret: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = hashret(*words)
    assert (status, out) == (2, "")
    assert found in err and err.startswith("hashret") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["index", "--model", "m", "--data", "cars", "--out", "y"], "there is no folder, CSV, zip or data set 'cars'"),
        (["index", "--model", "m", "--data", ".", "--out", "y"], "holds no pictures"),
        (["index", "--model", "m", "--data", "x", "--out", "y", "--append"], "is no hashret index"),
        (["evaluate", "--model", "m", "--data", "cars.csv"], "'cars.csv'"),
        (["query", "--index", "no.index", "p.jpg"], "no.index is no hashret index"),
        (["query", "--index", "no.index", "--code", "00"], "no.index is no hashret index"),
        (["train", "--data", "cars"], "'cars'"),
        (["train", "--resume", "runs/gone"], "runs/gone is no training run"),
    ],
)
def test_what_is_not_there_is_one_sentence_with_status_1(
    hashret: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = hashret(*words)
    assert (status, out) == (1, "")
    assert found in err and err.startswith("hashret: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- what goes wrong underneath


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left on device; make room, then run the same"),
        (PermissionError(errno.EACCES, "Permission denied", "/x.csv"), 1, "/x.csv: permission denied; check its permissions"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 1, "x: is a directory"),
        (TimeoutError("timed out"), 1, "timed out"),
        (OSError(), 1, "the operating system refused (OSError)"),
        (MemoryError(), 1, "there is too little memory for this"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)  # fmt: skip
def test_errors_of_the_system_are_sentences(
    hashret: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, sentence: str
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(runs_command, "run", fail)
    outcome = hashret("runs")
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(f"hashret: {sentence}") and outcome.err.count("\n") == 1


def test_the_log_is_put_back_as_it_was(hashret: Callable, tmp_path: Path) -> None:
    import logging

    logger = logging.getLogger("hashret")
    before = (logger.handlers[:], logger.level, logger.propagate)
    assert hashret("runs", "--runs", tmp_path).status == 0
    assert (logger.handlers, logger.level, logger.propagate) == before


def test_a_reader_that_has_gone_is_no_error(hangul_index: Path) -> None:
    words = [sys.executable, "-m", "hashret", "query", "--index", str(hangul_index), "--code", "0000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_onto_a_full_disk_is_one_sentence(hangul_index: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hashret", "query", "--index", str(hangul_index), "--code", "0000"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "hashret: no space left on device; make room, then run the same command again\n"


def test_a_terminal_without_hangul_is_no_error(hangul_index: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "hashret", "query", "--index", hangul_index, "--code", "0000"]
    table = shell(*words, env=environment, cwd=ROOT)
    assert (table.returncode, table.stderr) == (0, "") and r"\ud604\ub300" in table.stdout
    document = json.loads(shell(*words, "--json", env=environment, cwd=ROOT).stdout)
    assert document["queries"][0]["results"][0]["label"] == HANGUL


# ---- every way to type it


def test_module_console_command_and_scripts_are_the_same_program(hangul_index: Path) -> None:
    console = Path(sys.executable).parent / "hashret"
    version = f"hashret {__version__}\n"
    assert shell(sys.executable, "-m", "hashret", "--version", cwd=ROOT).stdout == version
    assert shell(console, "--version").stdout == version
    for command in ("train", "index", "query"):
        script = shell(sys.executable, ROOT / f"{command}.py", "--help", cwd=hangul_index.parent)
        assert (script.returncode, script.stderr) == (0, "") and script.stdout.startswith("Example:  hashret")
        assert f"usage: hashret {command}" in script.stdout
    query = ["--index", hangul_index, "--code", "0001", "--json"]
    answers = [
        shell(*start, *query, cwd=ROOT)
        for start in ([sys.executable, "query.py"], [console, "query"], [sys.executable, "-m", "hashret", "query"])
    ]
    found = [
        [(hit["id"], hit["distance"]) for hit in json.loads(answer.stdout)["queries"][0]["results"]]
        for answer in answers
    ]
    assert found == [[("0", 1), ("1", 2)]] * 3


def test_help_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['numba'] = None\nfrom hashret.cli import main\n"
        "for command in ('train', 'index', 'query', 'evaluate', 'runs', 'quickstart', 'data'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
    )
    done = shell(sys.executable, "-c", code, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


# ---- tables


def test_tables_line_up_with_wide_characters() -> None:
    nfd = unicodedata.normalize("NFD", "소나타")
    table = text_table(["label", "path"], [["소나타", "a"], [nfd, "b"], ["é", "c"], ["e\u0301x", "d"], ["Golf", "e"]])
    assert table.split("\n") == ["label   path", "소나타  a", "소나타  b", "é       c", "éx      d", "Golf    e"]


def test_tables_put_numbers_to_the_right_and_cut_no_trailing_space() -> None:
    assert text_table(["n", "x"], [["1", "a"], ["-", "b"], ["10.5", "c"]]) == "   n  x\n   1  a\n   -  b\n10.5  c"
    assert text_table(["n", "x"], []) == "n  x"


def test_nothing_in_a_name_moves_the_cursor() -> None:
    table = text_table(["path"], [["a\nb"], ["\x1b[2Jc"], ["\udcff.jpg"]])
    assert table.split("\n") == ["path", "a\\nb", "\\x1b[2Jc", "\\udcff.jpg"]


def test_numbers_with_their_nouns() -> None:
    assert (counted(1, "picture"), counted(2000, "picture")) == ("1 picture", "2,000 pictures")
    assert (counted(0, "query", "queries"), counted(1, "query", "queries")) == ("0 queries", "1 query")
