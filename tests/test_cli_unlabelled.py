"""`hashret index` without a trained model, as a user types it: pictures or embeddings in, codes that were fitted to them."""

from __future__ import annotations

import json
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pictures, settle
from PIL import Image
from safetensors.torch import save_file

from hashret import codes, sheets
from hashret.cli import fitting
from hashret.data.sources import open_source
from hashret.encoding import encode_table
from hashret.index import CosineIndex, HammingIndex
from hashret.index.store import Store
from hashret.model import Hasher
from hashret.model.backbones import make_backbone
from hashret.model.projection import Projection

CPU = ["--device", "cpu", "--workers", 0]
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of a small network, as one would download them: its random features still tell colours apart."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = make_backbone("squeezenet1_1").module
    file = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(module.state_dict(), file)
    return file


@pytest.fixture(scope="session")
def network(weights: Path) -> list[object]:
    """Flags that name it."""
    half = [0.5, 0.5, 0.5]
    named = ["--backbone", "squeezenet1_1", "--weights", weights, "--image-size", 32, "--mean", *half, "--std", *half]
    return [*named, *CPU]


@pytest.fixture(scope="session")
def fitted_index(closed_set: Path, network: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes of 64 bits fitted to the closed set; tests only read it."""
    from hashret.cli import main

    out = tmp_path_factory.mktemp("fitted") / "hues.index"
    assert main([str(word) for word in ("index", closed_set, "--out", out, *network)]) == 0
    return out


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch that a network saw had."""
    run_batch, batches = Hasher.run_batch, []

    def counted(self: Hasher, pictures: Any) -> Any:
        batches.append(len(pictures))
        return run_batch(self, pictures)

    monkeypatch.setattr(Hasher, "run_batch", counted)
    return batches


def ask(hashret: Callable, *words: object) -> list[list[dict[str, Any]]]:
    status, out, err = hashret("query", *words, "--json")
    assert status == 0, err
    return [query["results"] for query in json.loads(out)["queries"]]


def array(index: Path, name: str) -> np.ndarray:
    (file,) = index.rglob(name)
    return np.load(file)


# ---- pictures


def test_one_command_gives_codes_and_says_how_good_they_are(
    hashret: Callable, closed_set: Path, network: list[object], tmp_path: Path, seen: list[int]
) -> None:
    out = tmp_path / "my.index"
    status, said, err = hashret("index", closed_set, "--out", out, *network)
    assert status == 0, err
    assert sum(seen) == 48, "each picture once"
    lines = said.splitlines()
    assert lines.pop(0) == "features: squeezenet1_1, weights squeezenet.safetensors, pictures of 32 px"
    assert (
        lines[0] == "recall of the float top-10 (the nearest others by cosine of features), mean over all 48 pictures:"
    )
    assert lines[1].split() == ["codes", "bits", "by", "code", "alone", "two-stage"]
    table = [line.rsplit(maxsplit=3) for line in lines[2:11]]
    assert [(row[0], int(row[1])) for row in table] == [
        (codes, bits) for codes in ("ITQ", "PCA sign", "LSH") for bits in (64, 128, 256)
    ]
    assert all(0 < float(row[2]) < 1 and float(row[3]) == 1 for row in table)
    assert lines[11] == (
        "ITQ codes of 64 bits, the fewest of 64, 128 and 256 that reach 95%: two-stage search (hashret query --rerank 100: the "
        "nearest codes, ranked by features) ranks all 48 pictures by features, so it finds all of the float top-10"
    )
    assert lines[12:] == [f"{out}: 48 pictures added, 48 in all, codes of 64 bits and features of 512 float16 numbers"]
    assert [path.name for path in tmp_path.iterdir()] == ["my.index"]
    assert sorted(path.name for path in out.iterdir()) == ["generations", "lock", "manifest.json", "model", "segments"]


def test_the_index_holds_what_its_model_says(fitted_index: Path, closed_set: Path) -> None:
    hasher = Hasher.from_pretrained(fitted_index / "model", device="cpu")
    encoded = encode_table(hasher, open_source(closed_set), what=("codes", "logits", "features"), workers=0)
    index = HammingIndex.load(fitted_index)
    differing = codes.unpack(array(fitted_index, "codes.npy"), 64) != codes.unpack(encoded.codes, 64)
    assert np.abs(encoded.logits[differing]).max(initial=0) < 1e-6, "but for rounding"
    assert np.allclose(array(fitted_index, "features.npy"), encoded.features, atol=1e-3)
    assert Store.open(fitted_index).feature_dtype == "float16"
    assert index.model == {
        "fingerprint": hasher.fingerprint(), "name": "ITQ-64 of hues", "path": "model",
        "thresholds": hasher.config["thresholds"], "preprocessing": hasher.config["preprocessing"],
    }  # fmt: skip
    assert index.records(range(48)) == open_source(closed_set).records()
    balance = codes.statistics(array(fitted_index, "codes.npy"), 64)
    assert balance.dead_bits == 0 and balance.mean_imbalance < 0.2


def test_a_photo_finds_itself_without_a_model_named(
    hashret: Callable, fitted_index: Path, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = closed_set / "class03" / "05.png"
    moved = shutil.copytree(fitted_index, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--metric", "cosine"], ["--metric", "asymmetric"], ["--rerank", 20]):
        for index in (fitted_index, moved, "elsewhere"):
            (found,) = ask(hashret, "--index", index, photo, "-k", 5, "--device", "cpu", *words)
            assert found[0]["id"] == "class03/05.png"
            assert found[0].get("distance", 0) <= 1
    shutil.rmtree(moved / "model")
    status, _, err = hashret("query", "--index", "elsewhere", photo)
    assert status == 2 and "the model of the index, elsewhere/model, is gone; say where it lies now with --model" in err
    assert hashret("query", "--index", "elsewhere", photo, "--model", fitted_index / "model").status == 0
    other = Hasher.from_pretrained(fitted_index / "model", device="cpu")
    other.network.head.mean += 0.1
    other.save_pretrained(moved / "model")
    status, _, err = hashret("query", "--index", "elsewhere", photo, "--device", "cpu")
    assert status == 1 and "the index was made by the model ITQ-64 of hues with fingerprint" in err


def test_a_contact_sheet_judges_nothing_by_folders(
    hashret: Callable, fitted_index: Path, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contact_sheet, shown = sheets.contact_sheet, []

    def keep(rows: list[sheets.SheetRow]) -> Image.Image:
        shown.extend(rows)
        return contact_sheet(rows)

    monkeypatch.setattr(sheets, "contact_sheet", keep)
    photo = closed_set / "class03" / "05.png"
    status, _, err = hashret("query", "--index", fitted_index, photo, "--sheet", tmp_path / "s.png", "--device", "cpu")
    assert status == 0 and (tmp_path / "s.png").exists(), err
    assert {picture.right for picture in shown[0].results} == {None}
    assert shown[0].query.caption == ["query", "class03"] and shown[0].results[0].caption[1] == "class03"


def test_other_commands_take_the_model_in_the_index(hashret: Callable, fitted_index: Path, closed_set: Path) -> None:
    status, out, err = hashret("evaluate", "--model", fitted_index / "model", "--data", closed_set, *CPU, "--json")
    assert status == 0 and json.loads(out), err
    assert hashret("dedup", "--index", fitted_index).status == 0


def test_json_is_one_document(hashret: Callable, closed_set: Path, network: list[object], tmp_path: Path) -> None:
    words = ["index", "--data", closed_set, "--out", tmp_path / "i", "--code-size", 24, *network, "--json"]
    status, out, _ = hashret(*words)
    document = json.loads(out)
    assert status == 0 and (document["code_size"], document["dim"], document["metrics"]) == (
        24,
        512,
        ["hamming", "cosine"],
    )
    fitted = document["fitted"]
    assert fitted["architecture"] == {
        "backbone": "squeezenet1_1", "stem": "standard", "feature_size": 512, "weights": "squeezenet.safetensors",
    }  # fmt: skip
    assert (fitted["codes"], fitted["fitted_on"], fitted["queries"]) == ("ITQ", 48, 48)
    assert (fitted["top"], fitted["rerank"], fitted["seed"], fitted["principal_components"]) == (10, 100, 0, 47)
    assert fitted["why"].startswith("ITQ codes of 24 bits, as asked for: two-stage search")
    rows = fitted["recall_of_float_top"]
    assert [row["bits"] for row in rows] == [24, 64, 128, 256] * 3
    assert rows[0]["signatures"]["by_code"].startswith("recall|cutoff:10|denominator:relevant|ties:exact-expectation")
    model = Hasher.from_pretrained(tmp_path / "i" / "model", device="cpu")
    assert {"architecture": fitted["architecture"], **model.protocol, **model.scores} == {"data": "hues", **fitted}
    by_code = {(row["codes"], row["bits"]): row["by_code"] for row in rows}
    assert by_code["ITQ", 256] > by_code["ITQ", 24] and by_code["LSH", 256] > by_code["LSH", 24]


def test_the_same_command_gives_the_same_bytes(
    hashret: Callable, closed_set: Path, network: list[object], fitted_index: Path, tmp_path: Path
) -> None:
    assert hashret("index", closed_set, "--out", tmp_path / "i", *network).status == 0
    for name in ("codes.npy", "features.npy", "ids.npy"):
        assert (array(tmp_path / "i", name) == array(fitted_index, name)).all()
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "i" / "model" / name).read_bytes() == (fitted_index / "model" / name).read_bytes()


def test_the_fewest_bits_that_keep_enough_are_taken(
    hashret: Callable, closed_set: Path, network: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "RERANK", 11)
    words = ["index", closed_set, *network, "--json", "--out"]
    kept = {}
    for enough in (0.0, 0.99999, None):
        monkeypatch.setattr(fitting, "ENOUGH", kept[128] if enough is None else enough)
        document = json.loads(hashret(*words, tmp_path / str(enough)).out)
        rows = [row for row in document["fitted"]["recall_of_float_top"] if row["codes"] == "ITQ"]
        kept = {row["bits"]: row["two_stage"] for row in rows}
        assert kept[64] < kept[128] < kept[256] < 1
        assert (
            document["code_size"]
            == Store.open(tmp_path / str(enough)).code_size
            == {0.0: 64, None: 128}.get(enough, 256)
        )
    assert document["fitted"]["why"].startswith("ITQ codes of 128 bits, the fewest of 64, 128 and 256 that reach")
    monkeypatch.setattr(fitting, "ENOUGH", 0.99999)
    said = hashret("index", closed_set, *network, "--out", tmp_path / "said").out
    assert "ITQ codes of 256 bits, the most of 64, 128 and 256, for none reaches 100%: two-stage search (" in said
    assert "--rerank 11: the nearest codes" in said
    assert f"finds {kept[256]:.1%} of the float top-10" in said


@pytest.mark.parametrize("n", [1, 2, 5, 19])
def test_few_pictures_are_indexed_and_nothing_is_made_up(
    n: int, hashret: Callable, closed_set: Path, network: list[object], tmp_path: Path
) -> None:
    table = open_source(closed_set).select(np.arange(n) * 2)
    table.write_csv(tmp_path / "t.csv")
    out = tmp_path / "i"
    status, said, err = hashret("index", tmp_path / "t.csv", "--out", out, *network)
    assert status == 0, err
    assert "\nITQ codes of 64 bits; how well they keep the float neighbours cannot be measured on " in said
    assert f"on {n} picture" in said and "fewer than 20" in said and len(said.splitlines()) == 3
    for row in range(n):
        (found,) = ask(hashret, "--index", out, table.paths[row], "-k", n, "--device", "cpu", "--rerank", n)
        assert found[0]["id"] == table.ids[row]
    document = json.loads(hashret("index", tmp_path / "t.csv", "--out", tmp_path / "j", *network, "--json").out)
    assert document["fitted"]["recall_of_float_top"] == [] and document["fitted"]["queries"] == 0


def test_equal_pictures_have_equal_codes(hashret: Callable, network: list[object], tmp_path: Path) -> None:
    (tmp_path / "same").mkdir()
    for i in range(30):
        Image.new("RGB", (32, 32), "red").save(tmp_path / "same" / f"{i:02d}.png")
    out = tmp_path / "i"
    status, said, err = hashret("index", tmp_path / "same", "--out", out, *network)
    assert status == 0, err
    assert "\nITQ codes of 64 bits; all features are equal, so there are no nearer and farther neighbours" in said
    (found,) = ask(hashret, "--index", out, tmp_path / "same" / "07.png", "-k", 30, "--device", "cpu")
    assert [hit["distance"] for hit in found] == [0] * 30


def test_any_folder_of_pictures_will_do(hashret: Callable, network: list[object], tmp_path: Path) -> None:
    """Pictures lying directly in it and in folders, of all kinds, Hangul names, one of them broken."""
    made = make_pictures(tmp_path / "made", classes=5, pictures=5)
    data = tmp_path / "내 사진"
    (data / "여름" / "바다").mkdir(parents=True)
    for number, path in enumerate(sorted(made.rglob("*.png"))):
        with Image.open(path) as picture:
            name, place = f"사진 {number:02d}", data if number < 20 else data / "여름" / "바다"
            match number % 5:
                case 0:
                    picture.save(place / f"{name}.jpg")
                case 1:
                    picture.convert("RGBA").save(place / f"{name}.png")
                case 2:
                    deep = np.asarray(picture.convert("L"), np.uint16) * 257
                    Image.fromarray(deep).save(place / f"{name}.png")
                case 3:
                    exif = Image.Exif()
                    exif[0x0112] = 6  # turned by 90 degrees
                    picture.save(place / f"{name}.jpg", exif=exif)
                case 4:
                    picture.convert("P").save(place / f"{name}.gif")
    (data / "깨진 사진.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    out = tmp_path / "i"
    status, _, err = hashret("index", data, "--out", out, *network)
    assert status == 1 and "깨진 사진.jpg" in err and not out.exists()
    status, said, err = hashret("index", data, "--out", out, *network, "--on-bad", "skip")
    assert status == 0 and "1 picture cannot be read" in err and "25 pictures added" in said
    for name in ("사진 00.jpg", "여름/바다/사진 22.png", "사진 03.jpg"):
        (found,) = ask(hashret, "--index", out, data / name, "-k", 25, "--device", "cpu", "--metric", "cosine")
        assert found[0]["id"] == name and found[0]["similarity"] > 0.999


class TestAppend:
    @pytest.fixture
    def half(self, hashret: Callable, unseen_set: Path, network: list[object], tmp_path: Path) -> Path:
        out = tmp_path / "half.index"
        assert hashret("index", unseen_set, "--split", "train", "--out", out, *network).status == 0
        return out

    def test_the_same_model_makes_the_new_codes(self, hashret: Callable, half: Path, unseen_set: Path) -> None:
        before = {path.name: path.read_bytes() for path in (half / "model").iterdir()}
        words = ["index", unseen_set, "--split", "test", "--out", half, "--append", *CPU]
        status, out, err = hashret(*words)
        assert (status, out) == (
            0,
            f"{half}: 24 pictures added, 72 in all, codes of 64 bits and features of 512 float16 numbers\n",
        ), err
        assert {path.name: path.read_bytes() for path in (half / "model").iterdir()} == before
        photo = unseen_set / "test" / "class07" / "03.png"
        (found,) = ask(hashret, "--index", half, photo, "-k", 3, "--device", "cpu")
        assert found[0]["id"] == "test/class07/03.png" and found[0]["distance"] <= 1
        status, _, err = hashret(*words)
        assert status == 2 and "24 ids of hues are in" in err

    def test_the_model_may_be_named_if_it_is_the_same(
        self, hashret: Callable, half: Path, tiny_run: Path, unseen_set: Path
    ) -> None:
        words = ["index", unseen_set, "--split", "test", "--out", half, "--append", *CPU, "--model"]
        status, _, err = hashret(*words, tiny_run)
        assert status == 1 and "use the model that made the index" in err and len(Store.open(half)) == 48
        assert hashret(*words, half / "model").status == 0

    def test_what_is_settled_cannot_be_chosen_anew(self, hashret: Callable, half: Path, unseen_set: Path) -> None:
        for flags in (["--code-size", 64], ["--backbone", "resnet18"], ["--weights", "imagenet"], ["--image-size", 64]):
            status, _, err = hashret("index", unseen_set, "--out", half, "--append", *flags)
            assert status == 2 and f"takes the model that made the index; leave out {flags[0]}" in err

    def test_a_trained_model_need_not_be_named_either(
        self, hashret: Callable, tiny_run: Path, unseen_set: Path, tmp_path: Path
    ) -> None:
        words = ["index", unseen_set, "--out", tmp_path / "i", *CPU]
        assert hashret(*words, "--model", tiny_run, "--split", "train").status == 0
        assert hashret(*words, "--append", "--split", "test").status == 0
        assert len(Store.open(tmp_path / "i")) == 72


class TestSync:
    """An index without a trained model follows its folder by the model that it keeps."""

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        make_pictures(tmp_path / "set", classes=4)
        settle(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.fixture
    def sync(self, hashret: Callable, place: Path, network: list[object]) -> Callable[..., dict[str, Any]]:
        """Bring the index to the set, made first; what is said as JSON."""

        def run(*words: object) -> dict[str, Any]:
            status, out, err = hashret("index", "set", "--sync", "--out", "my.index", *CPU, "--json", *words)
            assert status == 0, err
            document: dict[str, Any] = json.loads(out)
            return document

        assert run(*network)["added"] == 32
        return run

    def is_as_new(self, place: Path) -> bool:
        """Whether codes and features are those that the model in the index makes of the folder."""
        table, index = open_source(place / "set"), HammingIndex.load(place / "my.index")
        hasher = Hasher.from_pretrained(place / "my.index" / "model", device="cpu")
        encoded = encode_table(hasher, table, what=("codes", "features"), workers=0)
        own = index.find(table.ids)
        contents = Store.open(place / "my.index")._contents.vectors(own)
        far = np.bitwise_count(contents["codes"] ^ encoded.codes).sum(axis=1)
        near = np.allclose(contents["features"], encoded.features, atol=1e-3)
        return len(index) == len(table) and index.records(own) == table.records() and int(far.max()) <= 1 and near

    def test_the_first_time_it_is_the_index_that_the_command_makes_without_it(
        self, hashret: Callable, sync: Callable, place: Path, network: list[object]
    ) -> None:
        plain = hashret("index", "set", "--out", "plain.index", *network)
        assert plain.status == 0
        for name in ("codes.npy", "features.npy", "ids.npy"):
            assert (array(place / "my.index", name) == array(place / "plain.index", name)).all()
        for name in ("config.json", "model.safetensors"):
            one, other = ((place / index / "model" / name).read_bytes() for index in ("my.index", "plain.index"))
            assert one == other
        shutil.rmtree("my.index")
        status, out, err = hashret("index", "set", "--sync", "--out", "my.index", *network)
        assert (status, err) == (0, plain.err) and out.splitlines()[:-1] == plain.out.splitlines()[:-1]
        assert out.splitlines()[-1] == "my.index: 32 added; 32 pictures in all"
        assert sorted(path.name for path in place.iterdir()) == ["my.index", "plain.index", "set"]

    def test_what_changes_is_encoded_by_the_model_in_the_index(
        self, hashret: Callable, sync: Callable, place: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = {path.name: path.read_bytes() for path in (place / "my.index" / "model").iterdir()}
        make_pictures(place / "set", classes=1, pictures=3, first=7)
        shutil.copy("set/class00/00.png", "set/class01/07.png")
        (place / "set" / "class02").rename(place / "set" / "바다")
        (place / "set" / "class03" / "05.png").unlink()
        dry = sync("--dry-run")
        assert (dry["added"], dry["changed"], dry["moved"], dry["removed"], seen) == (3, 1, 8, 1, [])
        done = sync()
        assert (done["added"], done["changed"], done["moved"], done["removed"], sum(seen)) == (3, 1, 8, 1, 4)
        assert "fitted" not in done, "codes are not fitted again"
        assert {path.name: path.read_bytes() for path in (place / "my.index" / "model").iterdir()} == before
        assert self.is_as_new(place)
        (found,) = ask(hashret, "--index", "my.index", "set/class07/01.png", "-k", 5, "--device", "cpu", "--rerank", 9)
        assert found[0]["id"] == "class07/01.png"
        moved = place / "elsewhere"
        moved.mkdir()
        (place / "my.index").rename(moved / "my.index")
        (place / "set" / "class03" / "04.png").unlink()
        shutil.copy("set/class00/01.png", "set/class00/copy.png")
        monkeypatch.chdir(moved)
        words = ["index", "../set", "--sync", "--out", "my.index", *CPU]
        assert hashret(*words).status == 0, "the model is found wherever the index lies and is called from"
        monkeypatch.chdir(place)
        shutil.rmtree("elsewhere/my.index/model")
        shutil.copy("set/class00/02.png", "set/class00/again.png")
        make_pictures(place / "set", classes=1, pictures=1, first=8)
        status, _, err = hashret("index", "set", "--sync", "--out", "elsewhere/my.index", *CPU)
        assert status == 2 and "the model of the index, elsewhere/my.index/model, is gone" in err

    def test_an_index_that_outgrew_its_codes_is_said_to(
        self, hashret: Callable, place: Path, network: list[object]
    ) -> None:
        make_pictures(place / "few", classes=1, pictures=2, first=7)
        assert hashret("index", "few", "--out", "my.index", *network).status == 0
        for number, (words, warned) in enumerate(
            ((["set", "--append", "--on-bad", "skip"], True), (["few", "--sync"], False), (["set", "--sync"], True))
        ):
            allow = ["--allow-removals"] if "--sync" in words else []
            status, _, err = hashret("index", *words, "--out", "my.index", *CPU, *allow)
            assert status == 0, err
            said = "codes were fitted to 2 pictures, and the index holds 3" in err
            assert said == warned, (number, err)

    def test_an_index_made_without_it(self, hashret: Callable, place: Path, network: list[object]) -> None:
        assert hashret("index", "set", "--out", "my.index", *network).status == 0
        status, out, err = hashret("index", "set", "--sync", "--out", "my.index", *CPU)
        assert (status, out) == (0, "my.index: 32 encoded anew; 32 pictures in all\n") and self.is_as_new(place), err
        assert hashret("index", "set", "--sync", "--out", "my.index", *CPU).out == (
            "my.index: 32 unchanged; 32 pictures in all\n"
        )

    def test_the_same_command_again(
        self, hashret: Callable, sync: Callable, network: list[object], weights: Path, tiny_run: Path
    ) -> None:
        words = ["index", "set", "--sync", "--out", "my.index"]
        same = [*network, "--code-size", "auto", "--feature-dtype", "float16", "--metric", "both"]
        assert hashret(*words, *same).out == "my.index: 32 unchanged; 32 pictures in all\n"
        assert hashret(*words, *network, "--code-size", 64).status == 0
        for flags, message in (
            (
                ["--code-size", 128],
                "my.index was made with --code-size 64, not 128; leave --code-size out, or make a new",
            ),
            (["--backbone", "resnet18"], "--backbone squeezenet1_1, not resnet18"),
            (["--weights", "imagenet"], "--weights squeezenet.safetensors, not imagenet"),
            (["--mean", 0, 0, 0.5], "--mean 0.5 0.5 0.5, not 0 0 0.5"),
            (["--image-size", 64], "--image-size 32, not 64"),
            (["--metric", "hamming"], "holds hamming and cosine; leave --metric out"),
            (["--feature-dtype", "float32"], "keeps features as float16; leave --feature-dtype out"),
            (["--embeddings", "x.npy"], "--sync encodes pictures by the network of the index"),
        ):
            for dry in ([], ["--dry-run"]):
                status, out, err = hashret(*words, *CPU, *flags, *dry)
                assert (status, out) == (2, "") and message in err and err.count("\n") == 1, err
        status, _, err = hashret(*words, *CPU, "--model", tiny_run)
        assert status == 1 and "use the model that made the index" in err
        assert hashret(*words, *CPU, "--model", "my.index/model").status == 0

    def test_a_dry_run_of_a_new_index_loads_no_network(self, hashret: Callable, place: Path) -> None:
        status, out, err = hashret("index", "set", "--sync", "--out", "new.index", "--dry-run", *CPU)
        assert status == 0 and "new.index would have: 32 added" in out, err
        assert [path.name for path in place.iterdir()] == ["set"]


@pytest.mark.parametrize("where", ["encoding", "fitting"])
def test_an_interrupted_command_goes_on_where_it_stopped(
    where: str,
    hashret: Callable,
    closed_set: Path,
    network: list[object],
    fitted_index: Path,
    tmp_path: Path,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(encode_table.__kwdefaults__, "chunk_size", 8)
    words = ["index", closed_set, "--out", tmp_path / "i", *network]
    with monkeypatch.context() as patch:
        stopped: Any = Hasher.run_batch

        def interrupted(*given: Any) -> Any:
            if where == "fitting" or sum(seen) >= 24:
                raise KeyboardInterrupt
            return stopped(*given)

        if where == "encoding":
            patch.setattr(Hasher, "run_batch", interrupted)
        else:
            patch.setattr("hashret.training.posthoc.itq", interrupted)
        status, said, err = hashret(*words)
    assert (status, said) == (130, "") and "the same command goes on from there" in err
    assert not (tmp_path / "i").exists()
    done = sum(seen)
    assert done == (24 if where == "encoding" else 48)
    status, said, err = hashret(*words)
    assert status == 0 and sum(seen) == 48 and f"{done} of 48 pictures are encoded already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
    assert (array(tmp_path / "i", "codes.npy") == array(fitted_index, "codes.npy")).all()


def test_weights_that_cannot_be_downloaded(
    hashret: Callable, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    status, out, err = hashret("index", closed_set, "--out", tmp_path / "i", *CPU)
    assert (status, out) == (1, "") and err == (
        "hashret: the ImageNet weights of resnet18 could not be downloaded (<urlopen error Name or service not known>); give "
        "--weights FILE (a .safetensors or .pth file of the backbone), --embeddings NPY from any other network, or --model RUN\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_downloaded_weights_are_the_default(
    hashret: Callable, closed_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return make_backbone("resnet18").module.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    table = open_source(closed_set).select(range(3))
    table.write_csv(tmp_path / "t.csv")
    assert hashret("index", tmp_path / "t.csv", "--out", tmp_path / "i", *CPU).status == 0
    assert len(asked) == 1 and "resnet18" in asked[0]
    hasher = Hasher.from_pretrained(tmp_path / "i" / "model", device="cpu")
    assert (hasher.network.backbone_name, hasher.preprocess.image_size) == ("resnet18", 224)
    assert hasher.weights == "IMAGENET1K_V1"


def test_what_does_not_go_together_is_one_sentence(
    hashret: Callable, closed_set: Path, weights: Path, tiny_run: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.ones((48, 3), np.float32))
    embeddings = ["--embeddings", tmp_path / "x.npy"]
    (tmp_path / "ids.txt").write_text("a\n" * 48)
    for words, status, message in (
        ([closed_set, "--data", closed_set], 2, "the pictures are named twice"),
        ([closed_set, "--model", tiny_run, "--code-size", 64], 2, "leave out --code-size"),
        ([closed_set, "--model", tiny_run, "--weights", "imagenet"], 2, "leave out --weights"),
        ([closed_set, "--model", tiny_run, *embeddings], 2, "no network is run; leave out --model"),
        (
            [closed_set, *embeddings, "--backbone", "resnet18", "--image-size", 64],
            2,
            "leave out --backbone, --image-size",
        ),
        (
            [closed_set, *embeddings, "--ids", tmp_path / "ids.txt"],
            2,
            "--ids names the rows of --embeddings that come without",
        ),
        ([closed_set, "--ids", tmp_path / "ids.txt"], 2, "leave it out"),
        ([*embeddings, "--ids", tmp_path / "ids.txt"], 1, "'a' stands twice"),
        ([closed_set, "--metric", "hamming"], 2, "leave --metric out"),
        ([closed_set, "--metric", "cosine"], 2, "leave --metric out"),
        ([closed_set, "--weights", "none"], 2, "a network that has learnt nothing"),
        ([closed_set, "--code-size", "0"], 2, "found '0', expected a whole number from 1"),
        ([closed_set, "--code-size", "1025"], 2, "from 1 to 1024"),
        ([closed_set, "--code-size", "many"], 2, "found 'many'"),
        ([closed_set, "--weights", "no.pth"], 1, "there is no weights file no.pth"),
        ([closed_set, "--weights", "nobody"], 1, "there is no model 'nobody'"),
        ([closed_set, "--backbone", "squeezenet1_1", "--weights", weights], 2, "give --mean and --std"),
        ([closed_set, "--backbone", "resnet19"], 2, "did you mean resnet18"),
        ([tmp_path / "nowhere"], 1, "there is no folder, CSV, zip or data set"),
    ):
        found = hashret("index", *words, "--out", tmp_path / "i", "--device", "cpu")
        assert found[:2] == (status, "") and message in found.err and found.err.count("\n") == 1, found.err
        assert not (tmp_path / "i").exists() and not (tmp_path / "i.unfinished").exists()


@pytest.mark.parametrize(
    "network", [["--backbone", "squeezenet1_1", "--image-size", 32], []], ids=["said", "the run's own"]
)
def test_codes_on_the_features_of_a_trained_run(
    hashret: Callable, closed_set: Path, tiny_run: Path, tmp_path: Path, network: list[object]
) -> None:
    words = [*network, "--weights", tiny_run, "--code-size", 32, *CPU]
    assert hashret("index", closed_set, "--out", tmp_path / "i", *words).status == 0
    trained = Hasher.from_pretrained(tiny_run, device="cpu")
    features = encode_table(trained, open_source(closed_set), what=("features",), workers=0).features
    assert features is not None and np.allclose(array(tmp_path / "i", "features.npy"), features, atol=1e-3)


# ---- embeddings


def vectors(n: int, seed: int = 0, dim: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 2, (12, dim))
    return (centres[rng.integers(0, 12, n)] + rng.normal(0, 0.7, (n, dim)) + 1).astype(np.float32)


@pytest.fixture
def embedded(hashret: Callable, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """An index of 300 embeddings alone, and these."""
    given = vectors(300)
    np.save(tmp_path / "x.npy", given)
    assert hashret("index", "--embeddings", tmp_path / "x.npy", "--out", tmp_path / "my.index").status == 0
    return tmp_path / "my.index", given


def test_embeddings_alone_are_indexed_by_number(
    hashret: Callable, embedded: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    index, given = embedded
    said = hashret("index", "--embeddings", tmp_path / "x.npy", "--out", tmp_path / "j").out
    assert said.splitlines()[-1].endswith(
        "j: 300 vectors added, 300 in all, codes of 64 bits and features of 24 float16 numbers"
    )
    projection = Projection.from_pretrained(index / "model")
    assert (array(index, "codes.npy") == codes.binarize(projection.embed(given))).all()
    assert HammingIndex.load(index).model == {
        "fingerprint": projection.fingerprint(), "name": "ITQ-64 of x.npy", "path": "model",
        "thresholds": None, "preprocessing": None,
    }  # fmt: skip
    np.save(tmp_path / "q.npy", given[[7, 250]])
    words = ["--index", index, "--embedding", tmp_path / "q.npy", "-k", 4]
    for flags in ([], ["--metric", "cosine"], ["--metric", "asymmetric"], ["--rerank", 50]):
        found = ask(hashret, *words, *flags)
        assert [hits[0]["id"] for hits in found] == ["7", "250"] and [len(hits) for hits in found] == [4, 4]
    by_float = CosineIndex.load(index).search(given[[7, 250]], 4)[1]
    assert [[int(hit["id"]) for hit in hits] for hits in ask(hashret, *words, "--rerank", 300)] == by_float.tolist()
    status, out, _ = hashret("query", *words)
    assert status == 0 and f"{tmp_path / 'q.npy'}[1]: the 4 nearest of 300 pictures" in out
    np.save(tmp_path / "one.npy", given[7].astype(np.float64))
    status, out, _ = hashret("query", "--index", index, "--embedding", tmp_path / "one.npy", "-k", 1)
    assert status == 0 and out.startswith(f"{tmp_path / 'one.npy'}: the 1 nearest of 300 pictures")


def test_embeddings_with_names(hashret: Callable, tmp_path: Path) -> None:
    given = vectors(40)
    np.save(tmp_path / "x.npy", given)
    (tmp_path / "ids.txt").write_text("".join(f"차 {i}\n" for i in range(40)), "utf-8")
    words = ["index", "--embeddings", tmp_path / "x.npy", "--ids", tmp_path / "ids.txt", "--out", tmp_path / "i"]
    assert hashret(*words).status == 0
    np.save(tmp_path / "q.npy", given[5])
    (found,) = ask(hashret, "--index", tmp_path / "i", "--embedding", tmp_path / "q.npy", "-k", 1)
    assert (found[0]["id"], found[0]["path"]) == ("차 5", "")
    status, _, err = hashret(*words, "--append")
    assert status == 2 and "40 ids of x.npy are in" in err and "'차 0'" in err


def test_embeddings_of_pictures(hashret: Callable, closed_set: Path, tmp_path: Path, seen: list[int]) -> None:
    given = vectors(48)
    np.save(tmp_path / "x.npy", given)
    words = ["index", closed_set, "--embeddings", tmp_path / "x.npy", "--out", tmp_path / "i"]
    status, out, err = hashret(*words)
    assert status == 0 and "48 pictures added" in out and not seen, err
    assert HammingIndex.load(tmp_path / "i").records(range(48)) == open_source(closed_set).records()
    np.save(tmp_path / "q.npy", given[11])
    (found,) = ask(hashret, "--index", tmp_path / "i", "--embedding", tmp_path / "q.npy", "-k", 1)
    assert found[0]["path"] == open_source(closed_set).paths[11]
    status, _, err = hashret("query", "--index", tmp_path / "i", closed_set / "class00" / "00.png", "--device", "cpu")
    assert status == 1 and "makes codes of embeddings and has no network that takes pictures" in err
    np.save(tmp_path / "x.npy", given[:-1])
    status, _, err = hashret(*words[:-1], tmp_path / "j")
    assert (
        status == 1
        and (
            f"{tmp_path / 'x.npy'} holds 47 vectors for 48 pictures of hues; expected one for each, in the order of "
            "`hashret data table`"
        )
        in err
    )


def test_embeddings_are_appended_by_the_same_projection(
    hashret: Callable, embedded: tuple[Path, np.ndarray], closed_set: Path, tmp_path: Path
) -> None:
    index, _ = embedded
    model = (index / "model" / "model.safetensors").read_bytes()
    more = vectors(50, seed=1)
    np.save(tmp_path / "more.npy", more)
    status, out, err = hashret("index", "--embeddings", tmp_path / "more.npy", "--out", index, "--append")
    assert status == 0 and "50 vectors added, 350 in all" in out, err
    assert (index / "model" / "model.safetensors").read_bytes() == model
    np.save(tmp_path / "q.npy", more[49])
    (found,) = ask(hashret, "--index", index, "--embedding", tmp_path / "q.npy", "-k", 1, "--rerank", 50)
    assert found[0]["id"] == "349"
    np.save(tmp_path / "wide.npy", vectors(5, dim=30))
    status, _, err = hashret("index", "--embeddings", tmp_path / "wide.npy", "--out", index, "--append")
    assert status == 2 and "shape (5, 30), expected (N, 24)" in err and len(Store.open(index)) == 350
    status, _, err = hashret("index", closed_set, "--out", index, "--append", "--device", "cpu")
    assert status == 1 and "has no network that takes pictures; give it embeddings (--embedding, --embeddings)" in err


def test_an_embedding_that_does_not_fit_is_one_sentence(
    hashret: Callable, embedded: tuple[Path, np.ndarray], fitted_index: Path, closed_set: Path, tmp_path: Path
) -> None:
    index, given = embedded
    np.save(tmp_path / "q.npy", given[:2])
    np.save(tmp_path / "wide.npy", vectors(1, dim=30))
    np.save(tmp_path / "zero.npy", np.zeros(24))
    one = ["--embedding", tmp_path / "q.npy"]
    for words, status, message in (
        (["--index", index, *one, "--code", "00"], 2, "give either photos or --code HEX or --embedding NPY"),
        (["--index", index, *one, closed_set / "class00" / "00.png"], 2, "give either photos or --code HEX or"),
        (["--index", index, *one, "--sheet", tmp_path / "s.png"], 2, "leave out --sheet and --not-itself"),
        (["--index", index, *one, "--not-itself"], 2, "leave out --sheet and --not-itself"),
        (["--index", index, "--embedding", tmp_path / "wide.npy"], 2, "shape (1, 30), expected (N, 24)"),
        (["--index", index, "--embedding", tmp_path / "wide.npy", "--metric", "cosine"], 1, "expected floats (N, 24)"),
        (["--index", index, "--embedding", tmp_path / "zero.npy"], 1, "row 0 of"),
        (["--index", index, "--embedding", tmp_path / "none.npy"], 1, "there is no file"),
        (
            ["--index", fitted_index, *one],
            1,
            "makes codes of pictures by a network, not of embeddings; give it pictures",
        ),
    ):
        found = hashret("query", *words)
        assert found[:2] == (status, "") and message in found.err and found.err.count("\n") == 1, found.err


def test_nothing_is_left_of_an_index_of_embeddings_that_failed(
    hashret: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", vectors(40))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Projection, "save_pretrained", full)
        status, _, err = hashret("index", "--embeddings", tmp_path / "x.npy", "--out", tmp_path / "i")
    assert status == 1 and "no space left on device" in err and not (tmp_path / "i").exists()
    assert hashret("index", "--embeddings", tmp_path / "x.npy", "--out", tmp_path / "i").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "x.npy"]


# ---- real


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no {DATA}")
def test_real_features_keep_their_neighbours(hashret: Callable, tmp_path: Path) -> None:
    table = open_source(DATA / "stanford_cars_96")
    table.select(np.arange(0, len(table), 8)).write_csv(tmp_path / "t.csv")
    half = [0.5, 0.5, 0.5]
    words = [
        "--backbone",
        "mobilenet_v2",
        "--weights",
        DATA / "mobilenet_v2_imagenet_fp16.safetensors",
        "--mean",
        *half,
    ]
    status, out, err = hashret(
        "index", tmp_path / "t.csv", "--out", tmp_path / "i", *words, "--std", *half, "--image-size", 96, "--json"
    )
    assert status == 0, err
    rows = json.loads(out)["fitted"]["recall_of_float_top"]
    by_code = {(row["codes"], row["bits"]): row["by_code"] for row in rows}
    for bits in (64, 128, 256):
        assert by_code["ITQ", bits] > max(by_code["PCA sign", bits], by_code["LSH", bits]) + 0.03
