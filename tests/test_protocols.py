"""Protocol cards: what they say, who plays which part, results and their ranking."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pictures
from PIL import Image, ImageOps

from hashret.data.table import PictureTable
from hashret.errors import DataError, UsageError
from hashret.evaluation.gallery import GalleryRule
from hashret.protocols import parts as parts_of
from hashret.protocols.card import FLOAT, HASH, Card, Size
from hashret.protocols.cards import CARDS, find_card
from hashret.protocols.models import recipes_of
from hashret.protocols.parts import Leaks, complete, find_leaks, look_at, pictures_hash, read_parts
from hashret.protocols.ranking import rank
from hashret.protocols.result import PER_QUERY_FILE, RESULT_FILE, leak_caveats, read_result
from hashret.protocols.rows import CONTROLS
from hashret.training.options import TrainingOptions

SMALL = [
    "--backbone", "squeezenet1_1", "--image-size", 32, "--epochs", 1, "--augment", "light", "--device", "cpu", "--workers", 0,
    "--cache", "off", "--weights", "none",
]  # fmt: skip
UNSEEN = find_card("cars-unseen")
NONE_FOUND = Leaks(0, 0, 0, 0, 0, [], [], [])


def table_of(splits: str, labels: str, **attributes: list[str]) -> PictureTable:
    """Pictures with one letter each for split (t train, v val, q query, g gallery, x test) and label."""
    names = {"t": "train", "v": "val", "q": "query", "g": "gallery", "x": "test", "-": ""}
    n = len(splits)
    return PictureTable(
        [f"p{i:02d}" for i in range(n)],
        [f"/nowhere/{i}.png" for i in range(n)],
        [label.strip("-") for label in labels],
        [names[each] for each in splits],
        attributes,
    )


def read(card: Card, table: PictureTable, tmp_path: Path) -> parts_of.Parts:
    """The parts of a table, through a CSV as a user gives it."""
    table.write_csv(tmp_path / "table.csv")
    return read_parts(card, str(tmp_path / "table.csv"))


# ---- cards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_is_sound(card: Card) -> None:
    assert card.recipes.keys() <= {HASH, FLOAT}
    for of, recipe in card.recipes.items():
        for bits in card.code_sizes:
            assert TrainingOptions(**{**recipe, "code_size": bits}).code_size == bits, of
    assert card.metric in (f"hit@{k}" for k in card.ks) or card.metric.startswith("map@")
    assert card.reader == "table" or card.source
    assert not (card.several_labels and card.least_pictures)
    assert json.loads(json.dumps(card.as_dict())) == card.as_dict()
    for published in card.published:
        assert published.source and published.of in card.recipes
        assert published.bits is None or published.bits in card.code_sizes


def test_published_values_are_those_of_their_sources() -> None:
    values = {name: [(each.bits, each.value) for each in CARDS[name].published] for name in ("cub-hash", "dogs-hash")}
    assert values == {
        "cub-hash": [(16, 0.6560), (32, 0.6911), (48, 0.6941), (64, 0.7047)],
        "dogs-hash": [(16, 0.6883), (32, 0.7049), (48, 0.7106), (64, 0.7123)],
    }
    (baseline,) = CARDS["car-retrieval"].published
    assert repr(baseline.value) == "0.8449212384573601"


def test_the_hash_of_a_card_is_of_all_it_says() -> None:
    assert len({card.hash for card in CARDS.values()}) == len(CARDS)
    assert dataclasses.replace(UNSEEN, version=2).hash != UNSEEN.hash
    assert dataclasses.replace(UNSEEN, ks=(1,)).hash != UNSEEN.hash
    assert dataclasses.replace(UNSEEN).hash == UNSEEN.hash


def test_a_protocol_that_is_none() -> None:
    with pytest.raises(UsageError, match="there is no protocol 'cub_hash'; did you mean cub-hash"):
        find_card("cub_hash")
    with pytest.raises(UsageError, match="there are car-retrieval, compcars"):
        find_card("zzz")


def test_given_settings_go_to_the_recipes_that_read_them() -> None:
    card = CARDS["car-retrieval"]
    given = {"batch_size": 8, "classes_per_batch": 2, "epochs": 3, "seed": 4}
    floats, *codes = recipes_of(card, given, (16, 32), (FLOAT, HASH))
    assert (floats.name, floats.options.batch_size, floats.options.epochs) == ("float", 8, 3)
    assert floats.changed == {"batch_size": 8, "epochs": 3}
    assert [each.name for each in codes] == ["hash 16 bits", "hash 32 bits"]
    assert all(each.options.classes_per_batch == 2 and each.options.seed == 4 for each in codes)
    (smaller,) = recipes_of(card, {"epochs": 3}, (16,), (FLOAT,), {FLOAT: {"epochs": 9, "image_size": 80}})
    assert (smaller.options.epochs, smaller.options.image_size) == (3, 80)
    assert smaller.changed == {"epochs": 3, "image_size": 80}
    with pytest.raises(UsageError, match="no recipe of car-retrieval that is to be trained reads --batch-size"):
        recipes_of(card, {"batch_size": 8}, (16,), (HASH,))
    with pytest.raises(UsageError, match="cub-hash has no recipe of float"):
        recipes_of(CARDS["cub-hash"], {}, (16,), (FLOAT,))


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_who_plays_which_part(tmp_path: Path) -> None:
    card = dataclasses.replace(UNSEEN, prepared="", queries=("query",), gallery=("train", "val"))
    found = read(card, table_of("ttvqqg-", "aabaccc"), tmp_path)
    assert [found.table.ids[row] for row in found.train] == ["p00", "p01", "p02"]
    assert [found.table.ids[row] for row in found.queries] == ["p03", "p04"]
    assert [found.table.ids[row] for row in found.gallery] == ["p00", "p01", "p02"]
    assert found.table.ids == ["p00", "p01", "p02", "p03", "p04"]
    assert found.seen().tolist() == [True, False]
    assert found.sizes == {"train": Size(1, 2), "val": Size(1, 1), "query": Size(2, 2)}


def test_a_gallery_is_what_the_table_says_is_searched(tmp_path: Path) -> None:
    card = CARDS["multi-label"]
    table = table_of("ttqgg", "abacb", gallery=["yes", "", "", "yes", "yes"])
    found = read(card, table, tmp_path)
    assert [found.table.ids[row] for row in found.gallery] == ["p00", "p03", "p04"]
    # Without the column, the split says it.
    plain = read(card, table_of("ttqgg", "abacb"), tmp_path)
    assert [plain.table.ids[row] for row in plain.gallery] == ["p03", "p04"]


def test_pictures_of_several_classes_are_seen_when_one_of_them_is(tmp_path: Path) -> None:
    table = table_of("tqqg", "----")
    table.labels[:] = ["a;b", "c;b", "c", "a"]
    assert read(CARDS["multi-label"], table, tmp_path).seen().tolist() == [True, False]


def test_small_classes_leave_the_gallery_and_their_queries_with_them(tmp_path: Path) -> None:
    card = dataclasses.replace(UNSEEN, prepared="", queries=("query",), gallery=("train",), least_pictures=3)
    found = read(card, table_of("tttttqqq", "aaabbabc"), tmp_path)
    assert [found.table.labels[row] for row in found.gallery] == ["a"] * 3
    assert [found.table.ids[row] for row in found.queries] == ["p05"]
    assert len(found.train) == 5  # what is learnt from stays
    with pytest.raises(DataError, match="is of a class with 4 pictures in the gallery"):
        read(dataclasses.replace(card, least_pictures=4), table_of("tttttqqq", "aaabbabc"), tmp_path)


def test_the_hash_of_the_parts_is_of_ids_labels_and_parts_alone(tmp_path: Path) -> None:
    one = read(UNSEEN, table_of("ttxx", "aabb"), tmp_path)
    moved = dataclasses.replace(one.table, paths=[f"/elsewhere/{i}" for i in range(4)])
    assert dataclasses.replace(one, table=moved).hash == one.hash
    shuffled = table_of("ttxx", "aabb").select([3, 1, 0, 2])
    assert read(UNSEEN, shuffled, tmp_path).hash == one.hash
    for splits, labels in (("tttx", "aabb"), ("ttxx", "aacc")):
        assert read(dataclasses.replace(UNSEEN, prepared=""), table_of(splits, labels), tmp_path).hash != one.hash
    card = dataclasses.replace(UNSEEN, gallery=("train",))
    assert read(card, table_of("ttxx", "aabb"), tmp_path).hash != one.hash


@pytest.mark.parametrize(
    ("splits", "labels", "sentence"),
    [
        (
            "xx",
            "ab",
            "no labelled picture of the split 'train' or 'val', which cars-unseen learns from; it has 'test' (2)",
        ),
        (
            "tx",
            "a-",
            "no labelled picture of the split 'test', which cars-unseen asks with; it has 'test' (1), 'train' (1)",
        ),
        ("--", "ab", "no labelled picture of the split 'train'"),
    ],
)
def test_parts_that_nobody_plays(splits: str, labels: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(dataclasses.replace(UNSEEN, prepared=""), table_of(splits, labels), tmp_path)
    assert sentence in str(error.value)


def test_halves_and_alphabets_are_made_where_the_table_has_none(tmp_path: Path) -> None:
    halves = read(UNSEEN, table_of("------", "aabbcc"), tmp_path)
    assert [halves.table.labels[row] for row in halves.queries] == ["b"] * 2 + ["c"] * 2 or halves.table.labels
    labels = ["Greek/1", "Latin/1", "Latin/2", "Tamil/1"]
    table = dataclasses.replace(table_of("----", "abcd"), labels=labels)
    found = read(CARDS["omniglot"], table, tmp_path)
    assert [found.table.labels[row] for row in found.queries] == ["Tamil/1"]
    with pytest.raises(DataError, match="has 1 alphabets, or labels that are not alphabet/character"):
        read(CARDS["omniglot"], dataclasses.replace(table, labels=["Greek/1"] * 4), tmp_path)


def test_whole_releases_are_told_from_others(tmp_path: Path) -> None:
    found = read(UNSEEN, table_of("ttxx", "aabb"), tmp_path)
    assert complete(UNSEEN, found) is None
    whole = {"train": Size(1, 2), "test": Size(1, 2)}
    assert complete(dataclasses.replace(UNSEEN, sizes=whole), found) is True
    assert complete(dataclasses.replace(UNSEEN, sizes={"train": Size(1, 3)}), found) is False


def leaks_of(card: Card, parts: parts_of.Parts, rule: GalleryRule) -> Leaks:
    return find_leaks(card, parts, rule, look_at(parts))


def test_leaks_are_counted_and_missing_pictures_stop(tmp_path: Path) -> None:
    make_pictures(tmp_path / "set" / "train", classes=2, pictures=3)
    make_pictures(tmp_path / "set" / "test", classes=2, pictures=3, first=2)
    card = dataclasses.replace(UNSEEN, prepared="")
    rule = GalleryRule("self")
    assert leaks_of(card, read_parts(card, str(tmp_path / "set")), rule) == NONE_FOUND
    shutil.copy(tmp_path / "set/train/class00/00.png", tmp_path / "set/test/class02/same.png")
    noisy = np.asarray(Image.open(tmp_path / "set/train/class01/01.png")).astype(int) + 2
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "set/test/class02/near.png")
    leaks = leaks_of(card, read_parts(card, str(tmp_path / "set")), rule)
    assert (leaks.same, leaks.near) == (1, 1)
    assert "exactly the same picture is in 2 splits" in leaks.examples[0]
    assert "nearly the same" in leaks.examples[1]
    (tmp_path / "set/test/class02/00.png").write_bytes(b"")
    with pytest.raises(DataError, match="a protocol leaves no picture out: complete the data"):
        leaks_of(card, read_parts(card, str(tmp_path / "set")), rule)


def scene(seed: int) -> Image.Image:
    """A smooth random picture: as unlike another as two photos are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((96, 72), Image.Resampling.BICUBIC)


def with_pictures(table: PictureTable, scenes: list[int | str], folder: Path) -> PictureTable:
    """The table with pictures: scene n, "n~" as a worse JPEG, "n|" mirrored."""
    folder.mkdir(exist_ok=True)
    for row, of in enumerate(scenes):
        picture = scene(int(str(of).rstrip("~|")))
        if str(of).endswith("|"):
            picture = ImageOps.mirror(picture)
        table.paths[row] = str(folder / f"{row}.{'jpg' if str(of).endswith('~') else 'png'}")
        picture.save(table.paths[row], **({"quality": 60} if str(of).endswith("~") else {}))
    return table


def test_copies_within_the_split_that_asks_itself_are_counted(tmp_path: Path) -> None:
    card = dataclasses.replace(UNSEEN, prepared="")
    # Of class b: the same twice, two near ones of a third, one of them mirrored; of class c one that is also there as d.
    table = with_pictures(
        table_of("ttxxxxxxxxxx", "aabbbbbbccdb"), [0, 0, 1, 1, 2, "2~", 3, "3|", 4, 5, 4, 6], tmp_path / "set"
    )
    found = leaks_of(card, read(card, table, tmp_path), GalleryRule("self"))
    assert (found.same, found.near, found.within_same, found.within_near, found.other_class) == (0, 0, 2, 4, 2)
    assert found.within_examples == [
        "p02 has exactly the pixels of p03",
        "p03 has exactly the pixels of p02",
        "p04 looks nearly the same as p05",
        "p05 looks nearly the same as p04",
        "p06 looks nearly the same as p07, mirrored",
        "p07 looks nearly the same as p06, mirrored",
    ]
    assert found.other_class_examples[0] == "p08 (c) has exactly the pixels of p10 (d)"
    for sentence, count in zip(leak_caveats(found.as_dict()), ("2 queries", "2 pictures"), strict=True):
        assert count in sentence
    # Who asks another split does not find them, and what is learnt from may hold pictures twice.
    apart = dataclasses.replace(card, gallery=("train",))
    elsewhere = leaks_of(apart, read(apart, table, tmp_path), GalleryRule("self"))
    assert (elsewhere.within_same, elsewhere.within_near, elsewhere.other_class) == (0, 0, 2)


def test_copies_of_other_classes_in_part_are_right_where_one_class_is_shared(tmp_path: Path) -> None:
    card = dataclasses.replace(CARDS["multi-label"], queries=("query",), gallery=("query",))
    table = table_of("tqqqq", "-----")
    table.labels[:] = ["a", "a;b", "b", "c", "c;d"]
    found = leaks_of(
        card, read(card, with_pictures(table, [0, 1, 1, 1, 2], tmp_path / "set"), tmp_path), GalleryRule("self")
    )
    assert (found.within_same, found.within_near, found.other_class) == (2, 0, 3)


def test_copies_that_the_rule_leaves_out_of_the_gallery_do_not_count(tmp_path: Path) -> None:
    card = dataclasses.replace(CARDS["car-retrieval"], recipes={})
    same = {"body": "b", "generation": "1", "colour": "red"}
    columns = {name: [value] * 6 for name, value in same.items()}
    # Copies at a turn of 15 degrees leave, those at 90 degrees and at another time stay.
    columns |= {"time": ["noon"] * 5 + ["night"], "view": ["0", "0", "0", "15", "90", "0"]}
    for scenes, expected in (([0, 1, 2, 2, 3, 4], 0), ([0, 1, 2, 3, 2, 4], 2), ([0, 1, 2, "2~", 3, "2|"], 3)):
        table = with_pictures(table_of("ttxxxx", "aabbbb", **columns), list(scenes), tmp_path / "set")
        parts = read(card, table, tmp_path)
        found = leaks_of(card, parts, GalleryRule("turntable"))
        assert found.within_same + found.within_near == expected
        everything = leaks_of(card, parts, GalleryRule("self"))
        assert everything.within_same + everything.within_near == max(expected, 2)


def test_the_hash_of_the_pictures_is_of_ids_files_and_boxes(tmp_path: Path) -> None:
    card = dataclasses.replace(UNSEEN, prepared="")
    boxes = {"x1": ["0"] * 4, "y1": ["0"] * 4, "x2": ["40"] * 4, "y2": ["40"] * 4}

    def hashed(table: PictureTable) -> str:
        parts = read(card, table, tmp_path)
        return pictures_hash(parts, look_at(parts))

    table = with_pictures(table_of("ttxx", "aabb", **boxes), [0, 1, 2, 3], tmp_path / "set")
    first = hashed(table)
    assert hashed(table.select([3, 1, 0, 2])) == first
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in table.paths:
            file.write(path, Path(path).name)
    zipped = dataclasses.replace(table, paths=[f"{archive}::{Path(path).name}" for path in table.paths])
    assert hashed(zipped) == first
    smaller = dataclasses.replace(table, attributes={**boxes, "x2": ["40", "40", "40", "39"]})
    swapped = dataclasses.replace(table, paths=[table.paths[i] for i in (1, 0, 2, 3)])
    assert len({first, hashed(smaller), hashed(swapped)}) == 3
    with_pictures(table, [0, 1, 2, 4], tmp_path / "set")
    assert hashed(table) != first


def test_many_pictures_that_are_all_alike_are_counted_in_no_time(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 200).save(tmp_path / "a.png")
    Image.new("L", (16, 16), 201).save(tmp_path / "b.png")
    table = table_of("tt" + "x" * 600, "aa" + "bc" * 300)
    table.ids[:] = [f"p{i:03d}" for i in range(602)]
    table.paths[:] = [str(tmp_path / ("b.png" if i == 601 else "a.png")) for i in range(602)]
    card = dataclasses.replace(UNSEEN, prepared="")
    found = leaks_of(card, read(card, table, tmp_path), GalleryRule("self"))
    assert (found.within_same, found.within_near, found.other_class) == (599, 1, 601)
    assert max(map(len, (found.examples, found.within_examples, found.other_class_examples))) == parts_of.SHOWN_LEAKS


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of unseen classes, with codes of 16 bits."""
    from hashret.cli import main

    root = tmp_path_factory.mktemp("results")
    make_pictures(root / "set" / "train", classes=5, pictures=6)
    make_pictures(root / "set" / "test", classes=3, pictures=6, first=5)
    words = ["protocol", "run", "cars-unseen", "--data", root / "set", "--out", root / "one", "--code-size", 16, *SMALL]
    assert main([str(word) for word in words]) == 0
    return root / "one"


def test_a_result_says_what_was_done(result: Path) -> None:
    document = read_result(result).document
    assert document["protocol"] == UNSEEN.as_dict() and document["protocol_hash"] == UNSEEN.hash
    assert document["leaks"] == NONE_FOUND.as_dict()
    assert document["data"]["queries_scored"] == document["data"]["gallery"] == 18
    assert document["data"]["queries_of_seen_classes"] == 0
    (model,) = document["models"]
    assert model["name"] == "hash 16 bits" and model["settings"]["epochs"] == 1
    assert Path(model["folder"]).is_absolute()
    assert model["changed"]["backbone"] == "squeezenet1_1" and "code_size" not in model["changed"]
    kinds = [row["kind"] for row in document["rows"]]
    assert kinds == [
        "codes", "asymmetric", "features", "two-stage", "itq", "lsh", "itq of the gallery", "frozen", "pixels", "random"
    ]  # fmt: skip
    assert {kind for kind in kinds if kind in CONTROLS} == set(CONTROLS)
    for row in document["rows"]:
        assert row["model"] == ("" if row["kind"] in ("frozen", "pixels", "random") else "hash 16 bits")
        for name in ("hit@1", "map@all"):
            assert row["unseen"][name] == pytest.approx(row["scores"][name]["expected"])
            assert row["seen"][name] is None and row["seen"]["n_queries"] == 0
            low, high = row["intervals_95"][name]
            assert low <= row["scores"][name]["expected"] <= high
        assert "left-out-by-id" in row["scores"]["hit@1"]["signature"]


def test_the_scores_are_those_of_evaluate(result: Path, hashret: Callable) -> None:
    run = result / "models" / "hash16bits_seed0"
    status, out, err = hashret(
        "evaluate", "--model", run, "--data", result / "pictures.csv", "--split", "test", "--device", "cpu", "--workers", 0,
        "--json",
    )  # fmt: skip
    assert status == 0, err
    codes, features = json.loads(out)["results"][:2]
    rows = read_result(result).document["rows"]
    for name in ("hit@1", "map@all"):
        assert rows[0]["scores"][name]["expected"] == codes["scores"][name]["expected"]
        assert rows[2]["scores"][name]["expected"] == features["scores"][name]["expected"]


def test_raw_pixels_are_scored_as_evaluate_does(result: Path, hashret: Callable) -> None:
    run, pictures = result / "models" / "hash16bits_seed0", result / "pictures.csv"
    words = ("--split", "test", "--device", "cpu", "--workers", 0, "--controls", "on", "--json")
    status, out, err = hashret("evaluate", "--model", run, "--data", pictures, *words)
    assert status == 0, err
    (control,) = (each for each in json.loads(out)["results"] if each["name"].endswith("raw 32×32 pixels"))
    (row,) = (each for each in read_result(result).document["rows"] if each["kind"] == "pixels")
    assert row["name"] == "raw pixels, 32×32" and row["bits"] is None
    for name in ("hit@1", "map@all"):
        assert row["scores"][name] == control["scores"][name]


def test_what_is_trained_is_not_trained_again(result: Path, hashret: Callable, capsys: Any) -> None:
    before = (result / "models/hash16bits_seed0/model.safetensors").stat().st_mtime_ns
    words = (
        "protocol",
        "run",
        "cars-unseen",
        "--data",
        result.parent / "set",
        "--out",
        result,
        "--code-size",
        16,
        *SMALL,
    )
    first = (result / RESULT_FILE).read_text()
    status, out, err = hashret(*words, "--json")
    assert status == 0, err
    assert (result / "models/hash16bits_seed0/model.safetensors").stat().st_mtime_ns == before
    again = json.loads(out)
    assert {**again, "seconds": 0} == {**json.loads(first), "seconds": 0}
    status, _, err = hashret(*words, "--lr", 0.5)
    assert status == 2 and "holds a model that was trained with other settings or pictures; choose another --out" in err


def test_an_interrupted_training_goes_on(
    result: Path, hashret: Callable, ctrl_c_after: Callable[[int], None], tmp_path: Path
) -> None:
    words = (
        "protocol",
        "run",
        "cars-unseen",
        "--data",
        result.parent / "set",
        "--out",
        tmp_path / "two",
        "--code-size",
        16,
    )
    ctrl_c_after(1)
    status, _, err = hashret(*words, *SMALL)
    assert status == 130, err
    assert not (tmp_path / "two" / RESULT_FILE).exists()
    status, out, err = hashret(*words, *SMALL, "--json")
    assert status == 0, err
    rows = read_result(result).document["rows"]
    assert [row["scores"] for row in json.loads(out)["rows"]] == [row["scores"] for row in rows]


def test_a_model_can_be_given(result: Path, hashret: Callable, tmp_path: Path) -> None:
    run = result / "models" / "hash16bits_seed0"
    words = (
        "protocol",
        "run",
        "cars-unseen",
        "--data",
        result.parent / "set",
        "--model",
        run,
        "--device",
        "cpu",
        "--workers",
        0,
    )
    status, out, err = hashret(*words, "--out", tmp_path / "given")
    assert status == 0, err
    assert "not the card's recipe" not in out
    found, first = read_result(tmp_path / "given"), read_result(result)
    assert [row["scores"] for row in found.document["rows"]] == [row["scores"] for row in first.document["rows"]]
    assert found.document["models"][0]["fingerprint"] == first.document["models"][0]["fingerprint"]
    status, _, err = hashret(*words, "--out", tmp_path / "no", "--epochs", 3)
    assert status == 2 and "--model takes a trained model, so --epochs would change nothing" in err


def spoil(result: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a result whose document was changed."""
    to.mkdir()
    shutil.copy(result / PER_QUERY_FILE, to)
    document = json.loads((result / RESULT_FILE).read_text())
    change(document)
    (to / RESULT_FILE).write_text(json.dumps(document))
    return to


def test_ranking_is_by_paired_differences(result: Path, hashret: Callable) -> None:
    found = read_result(result)
    ranked = rank([found, found], controls=True)
    assert len(ranked) == 2 * len(found.document["rows"])
    assert [row.score for row in ranked] == sorted((row.score for row in ranked), reverse=True)
    numbers = {row["name"]: i for i, row in enumerate(found.document["rows"])}
    best = found.per_query[numbers[ranked[0].name], "hit@1"]
    rng = np.random.default_rng(0)
    resamples = [rng.integers(0, len(best), len(best)) for _ in range(1000)]
    for row in ranked:
        below = best - found.per_query[numbers[row.name], "hit@1"]
        means = [below[chosen].mean() for chosen in resamples]
        assert row.below_first == pytest.approx(below.mean())
        assert row.below_interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
        assert row.differs == (row.below_interval[0] > 0)
    assert not any(row.kind in CONTROLS for row in rank([found]))
    status, out, err = hashret("compare", result, result)
    assert status == 0, err
    assert "hash 16 bits: codes" in out and f"card {UNSEEN.hash}" in out
    status, out, err = hashret("compare", result, "--json", "--controls", "on")
    assert [row["name"] for row in json.loads(out)["ranking"]] == [row.name for row in rank([found], controls=True)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(protocol_hash="0" * 16), "scores of different protocols cannot be ranked"),
        (lambda d: d["protocol"].update(name="cub-unseen"), "scores of different protocols cannot be ranked"),
        (lambda d: d.update(splits_hash="0" * 16), "of other pictures, labels or splits; run both on the same data"),
        (lambda d: d.update(pictures_hash="0" * 16), "but the files of the pictures differ; run both on one copy"),
    ],
)
def test_results_of_different_cards_are_not_ranked(
    change: Callable[[dict[str, Any]], object], sentence: str, result: Path, tmp_path: Path, hashret: Callable
) -> None:
    other = spoil(result, tmp_path / "other", change)
    status, out, err = hashret("compare", result, other)
    assert (status, out) == (2, "")
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(format="other"), "is damaged, or of a newer version (format 'other', version 1)"),
        (lambda d: d.update(format_version=2), "is damaged, or of a newer version"),
        (lambda d: d["rows"].pop(), "is damaged"),
        (lambda d: d["rows"].append(d["rows"][0]), "queries of some rows are missing"),
        (
            lambda d: d["rows"][0]["scores"]["hit@1"].update(expected=0.123),
            "the queries' hit@1 are not those of 'hash 16 bits",
        ),
        (lambda d: d.pop("protocol"), "is damaged"),
        (lambda d: d.pop("curves"), "(no 'curves' in result.json)"),
        (lambda d: d.update(rows=3), "is damaged"),
    ],
)
def test_damaged_results_are_refused(
    change: Callable[[dict[str, Any]], object], sentence: str, result: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        read_result(spoil(result, tmp_path / "spoilt", change))
    assert sentence in str(error.value)


def test_folders_that_hold_no_result(result: Path, tmp_path: Path, hashret: Callable) -> None:
    status, _, err = hashret("compare", tmp_path)
    assert status == 1 and f"{tmp_path} is no result (it has no result.json)" in err
    broken = spoil(result, tmp_path / "broken", lambda d: None)
    for content in (b"", b"no zip", (result / PER_QUERY_FILE).read_bytes()[:100]):
        (broken / PER_QUERY_FILE).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_result(broken)
    (broken / RESULT_FILE).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_result(broken)


def test_a_page_about_results(result: Path, hashret: Callable, tmp_path: Path) -> None:
    status, out, err = hashret("report", result)
    assert status == 0, err
    page = (result / "report.html").read_text()
    document = read_result(result).document
    assert f"card {UNSEEN.hash}" in page and "not the card&#39;s recipe" in page
    for row in document["rows"]:
        assert row["name"] in page and f"{row['scores']['map@all']['expected']:.4f}" in page
    assert "Precision and recall, by codes" in page and "https://" not in page and 'src="http' not in page
    other = spoil(result, tmp_path / "other", lambda d: d["models"][0]["settings"].update(lr=0.5))
    status, out, err = hashret("report", result, other, "--out", tmp_path / "both.html", "--json")
    assert status == 0, err
    document = json.loads(out)
    assert [side["name"] for side in document["results"]] == ["one", "other"]
    assert list(document["looked_into"]) == ["one: hash 16 bits: codes"]  # the same model is looked into once
    assert "hash 16 bits: lr" in (tmp_path / "both.html").read_text()
    different = spoil(result, tmp_path / "different", lambda d: d.update(protocol_hash="0"))
    for words, sentence in (
        ((result, different), "scores of different protocols cannot be ranked"),
        ((result, result / "models" / "hash16bits_seed0"), "is no result, and"),
        ((result, "--split", "test"), "--split would change nothing"),
        ((result, "--on-bad", "skip"), "--on-bad would change nothing"),
    ):
        status, out, err = hashret("report", *words, "--out", tmp_path / "no.html")
        assert (status, out) == (2, "") and sentence in err
        assert not (tmp_path / "no.html").exists()


def test_what_cannot_be_found_again_is_said(result: Path, hashret: Callable, tmp_path: Path) -> None:
    """A result without its model, or with another table of pictures, has a page all the same, which says what it lacks."""
    (row, *_) = read_result(result).document["rows"]

    def warning(folder: Path) -> str:
        status, out, err = hashret("report", folder, "--map", "off", "--json")
        assert status == 0, err
        document, text = json.loads(out), (folder / "report.html").read_text()
        assert not document["looked_into"] and f"{row['scores']['map@all']['expected']:.4f}" in text
        assert 'id="model-1-bits"' not in text and not folder.with_name("report.html.unfinished").exists()
        said: str = document["warnings"][-1]
        return said

    without = spoil(result, tmp_path / "without", lambda d: d["models"][0].update(folder=str(tmp_path / "gone")))
    assert "picture by picture" in warning(without) and "is no longer what was scored" not in warning(without)
    shutil.copy(result / "pictures.csv", without)
    assert f"{tmp_path / 'gone'} is no longer there, or no longer the model that was scored" in warning(without)
    other = spoil(result, tmp_path / "other", lambda d: d["models"][0].update(fingerprint="0" * 64))
    shutil.copy(result / "pictures.csv", other)
    assert "or no longer the model that was scored" in warning(other)
    lines = (result / "pictures.csv").read_text().splitlines()
    (other / "pictures.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert f"{other / 'pictures.csv'} is no longer what was scored; run the protocol again" in warning(other)
    renamed = spoil(result, tmp_path / "renamed", lambda d: d.update(protocol_hash="0" * 16))
    assert f"is of the card {'0' * 16}, and cars-unseen is {UNSEEN.hash} by now" in warning(renamed)


def test_the_part_of_the_docs_about_results(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import protocols

    page = tmp_path / "page.md"
    page.write_text("# Protocols\n\nText.\n")
    for _ in range(2):  # written again, the part takes its own place
        assert protocols.main([str(result), "--markdown", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Protocols") and text.count("# Measured") == 1
    first, second = read_result(result).document["rows"][:2]
    assert f"| {first['name']} | {first['scores']['hit@1']['expected']:.3f} ±" in text
    assert f"{second['name']} | {second['scores']['hit@1']['expected']:.3f} ±" in text
    assert "points of hit@1 below" in text and "not the card's recipe, changed: " in text


# ---- what is wrong is said before anything is trained, and leaves nothing behind --------------------------------------


def command(data: object, out: object, *more: object) -> list[object]:
    return ["protocol", "run", "cars-unseen", "--data", data, "--out", out, "--code-size", 16, *SMALL, *more]


def test_training_that_cannot_begin_leaves_nothing_behind(result: Path, hashret: Callable, tmp_path: Path) -> None:
    make_pictures(tmp_path / "set" / "train", classes=2, pictures=1)
    make_pictures(tmp_path / "set" / "test", classes=2, pictures=3, first=5)
    out = tmp_path / "out"
    status, _, err = hashret(*command(tmp_path / "set", out))
    assert status == 1 and "2 training classes with a single picture" in err
    assert not out.exists()
    status, _, err = hashret(*command(result.parent / "set", out))  # its name is free
    assert status == 0, err


def test_queries_that_find_nothing_are_known_before_training(hashret: Callable, tmp_path: Path) -> None:
    make_pictures(tmp_path / "set" / "train", classes=3, pictures=6)
    make_pictures(tmp_path / "set" / "test", classes=3, pictures=1, first=5)
    status, _, err = hashret(*command(tmp_path / "set", tmp_path / "out"))
    assert status == 1 and "no query of set has another picture of its class in the gallery" in err
    assert not (tmp_path / "out").exists()


def test_views_that_are_no_numbers_are_known_before_training(hashret: Callable, tmp_path: Path) -> None:
    columns = {"body": "b", "generation": "1", "colour": "red", "time": "noon", "view": "north"}
    table = table_of("ttttxxxx", "aabbccdd", **{name: [value] * 8 for name, value in columns.items()})
    table.write_csv(tmp_path / "table.csv")
    words = command(tmp_path / "table.csv", tmp_path / "out", "--leaks", "off")
    status, _, err = hashret(*["car-retrieval" if word == "cars-unseen" else word for word in words])
    assert status == 2 and "are not all in degrees" in err and "--rule" not in err
    assert not (tmp_path / "out").exists()


def test_a_refused_run_leaves_the_result_as_it_was(result: Path, hashret: Callable, tmp_path: Path) -> None:
    shutil.copytree(result.parent / "set", tmp_path / "set")
    (tmp_path / "set/test/class05/00.png").unlink()
    before = {path: path.read_bytes() for path in result.rglob("*") if path.is_file()}
    status, _, err = hashret(*command(tmp_path / "set", result))
    assert status == 2 and "trained with other settings or pictures" in err
    assert {path: path.read_bytes() for path in result.rglob("*") if path.is_file()} == before


def test_where_a_model_was_trained_does_not_make_it_another(result: Path, hashret: Callable, tmp_path: Path) -> None:
    shutil.copytree(result, tmp_path / "moved")
    words = [word for word in command(result.parent / "set", tmp_path / "moved") if word != "--workers"]
    words.remove(0)
    model = tmp_path / "moved/models/hash16bits_seed0/model.safetensors"
    before = model.stat().st_mtime_ns
    status, _, err = hashret(*words, "--workers", 1)
    assert status == 0, err
    assert model.stat().st_mtime_ns == before


@pytest.mark.parametrize("left", [["lock"], ["lock", "run.json"]])
def test_a_training_killed_before_its_first_state_is_begun_anew(
    left: list[str], result: Path, hashret: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "models" / "hash16bits_seed0"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    if "run.json" in left:
        document = json.loads((result / "models/hash16bits_seed0/run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**document, "status": "running"}))
    status, _, err = hashret(*command(result.parent / "set", tmp_path / "out"))
    assert status == 0, err
    rows = [read_result(each).document["rows"] for each in (tmp_path / "out", result)]
    assert rows[0] == rows[1]


def test_other_files_are_not_replaced(result: Path, hashret: Callable, tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = hashret(*command(result.parent / "set", tmp_path))
    assert status == 2 and "holds other files than a result (notes.txt)" in err
    assert (tmp_path / "pictures.csv").read_text() == "mine"
    status, _, err = hashret(*command(result.parent / "set", tmp_path / "notes.txt"))
    assert status == 2 and "is no folder" in err


def test_models_of_one_name_are_told_apart(result: Path, hashret: Callable, tmp_path: Path) -> None:
    run = result / "models" / "hash16bits_seed0"
    shutil.copytree(run, tmp_path / "a" / "m")
    shutil.copytree(run, tmp_path / "b" / "m")
    words = ["protocol", "run", "cars-unseen", "--data", result.parent / "set", "--device", "cpu", "--workers", 0]
    one, other = tmp_path / "a" / "m", tmp_path / "b" / "m"
    status, _, err = hashret(*words, "--model", one, "--model", other, "--out", tmp_path / "out")
    assert status == 0, err
    document = read_result(tmp_path / "out").document
    assert [model["name"] for model in document["models"]] == [str(one), str(other)]
    assert len({row["name"] for row in document["rows"]}) == len(document["rows"]) and len(document["curves"]) == 8
    for more, sentence in (
        (["--model", one], "twice; name every model once"),
        (["--code-size", 8], "--code-size is of codes that are fitted to the features of float models"),
        (["--model", "none"], "there is no model 'none'"),
    ):
        status, _, err = hashret(*words, "--model", one, *more, "--out", tmp_path / "no")
        assert status in (1, 2) and sentence in err
        assert not (tmp_path / "no").exists()


def test_an_epoch_of_a_run_is_a_model_of_that_run(
    result: Path, hashret: Callable, tmp_path: Path, monkeypatch: Any
) -> None:
    data = result.parent / "set"
    words = ["train", "--data", data, "--runs", tmp_path, "--code-size", 16, *SMALL, "--keep-epochs"]
    assert hashret(*words, "--exp-name", "floats", "--objective", "classification", "--batch-size", 8)[0] == 0
    assert hashret(*words, "--exp-name", "small", "--project", 24)[0] == 0
    words = [
        "protocol",
        "run",
        "cars-unseen",
        "--data",
        data,
        "--device",
        "cpu",
        "--workers",
        0,
        "--out",
        tmp_path / "out",
    ]
    status, _, err = hashret(*words, "--model", f"{tmp_path}/floats@1", "--model", tmp_path / "small")
    assert status == 0, err
    document = read_result(tmp_path / "out").document
    assert [(model["name"], model["of"]) for model in document["models"]] == [("floats@1", FLOAT), ("small", HASH)]
    assert document["models"][0]["settings"]["objective"] == "classification"
    # Networks that began otherwise have controls of their own.
    frozen = [row["name"] for row in document["rows"] if row["kind"] == "frozen"]
    assert [name.rpartition(", ")[2] for name in frozen] == ["512 numbers", "24 numbers"]


def test_a_model_without_its_run_says_itself_what_it_is_of(result: Path, hashret: Callable, tmp_path: Path) -> None:
    data = result.parent / "set"
    words = ["train", "--data", data, "--runs", tmp_path, "--code-size", 16, *SMALL, "--objective", "classification"]
    kinds = {"floats": ("features", FLOAT), "codes": ("codes", HASH)}
    for name, (through, _) in kinds.items():
        status, _, err = hashret(*words, "--exp-name", name, "--through", through, "--batch-size", 8)
        assert status == 0, err
    given: list[object] = []
    for folder in (tmp_path / "floats", tmp_path / "codes", result / "models" / "hash16bits_seed0"):
        alone = tmp_path / "alone" / folder.name
        alone.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(folder / name, alone)
        given += ["--model", alone]
    words = ["protocol", "run", "cars-unseen", "--data", data, "--device", "cpu", "--workers", 0, *given]
    status, out, err = hashret(*words, "--out", tmp_path / "out")
    assert status == 0, err
    models = read_result(tmp_path / "out").document["models"]
    assert [(model["of"], model["of_known"]) for model in models] == [(FLOAT, True), (HASH, True), (HASH, False)]
    assert out.count("nobody knows whether its codes were trained") == 1
    assert "hash16bits_seed0: there is no run.json beside it" in out


def test_a_picture_that_cannot_be_read_leaves_nothing_behind(result: Path, hashret: Callable, tmp_path: Path) -> None:
    shutil.copytree(result.parent / "set", tmp_path / "set")
    (tmp_path / "set/test/class05/00.png").write_bytes(b"junk")
    words = ["protocol", "run", "cars-unseen", "--data", tmp_path / "set", "--device", "cpu", "--workers", 0]
    words += ["--model", result / "models" / "hash16bits_seed0", "--leaks", "off", "--out", tmp_path / "out"]
    status, _, err = hashret(*words)
    assert status == 1 and "the file is not a picture" in err
    assert not (tmp_path / "out").exists()


def test_a_model_that_takes_no_pictures(result: Path, hashret: Callable, tmp_path: Path) -> None:
    from hashret.model.projection import Projection
    from hashret.training import posthoc

    vectors = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    Projection(posthoc.itq(posthoc.principal_components(vectors, 8), 8)).save_pretrained(tmp_path / "model")
    words = ["protocol", "run", "cars-unseen", "--data", result.parent / "set", "--model", tmp_path / "model"]
    status, _, err = hashret(*words, "--out", tmp_path / "out")
    assert status == 1 and "has no network that takes pictures" in err
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_trained_elsewhere_may_have_seen_the_queries(
    result: Path, hashret: Callable, tmp_path: Path
) -> None:
    shutil.copytree(result.parent / "set", tmp_path / "set")
    (tmp_path / "set/test/class05/00.png").unlink()
    words = ["protocol", "run", "cars-unseen", "--device", "cpu", "--workers", 0]
    words += ["--model", result / "models" / "hash16bits_seed0"]
    for data, said in ((result.parent / "set", False), (tmp_path / "set", True)):
        out = tmp_path / f"out{said}"
        status, text, err = hashret(*words, "--data", data, "--out", out)
        assert status == 0, err
        assert ("it may have seen the queries" in text) == said
        assert read_result(out).document["models"][0]["same_splits"] == (not said)
        assert read_result(out).document["machine"]["device"] == "cpu"


def test_results_of_one_name_are_told_apart(result: Path, hashret: Callable, tmp_path: Path) -> None:
    other = tmp_path / "one"
    spoil(result, other, lambda d: None)
    status, out, err = hashret("compare", result, other, "--json")
    assert status == 0, err
    assert {row["result"] for row in json.loads(out)["ranking"]} == {str(result), str(other)}
    status, out, err = hashret("report", result, other, "--out", tmp_path / "page.html", "--json")
    assert [side["name"] for side in json.loads(out)["results"]] == [str(result), str(other)]


def test_a_ranking_says_what_is_to_be_known_of_each_result(result: Path, hashret: Callable, tmp_path: Path) -> None:
    other = spoil(result, tmp_path / "other", lambda d: d["leaks"].update(same=2, near=1, examples=["a is b"]))
    status, out, err = hashret("compare", result, other)
    assert status == 0, err
    assert "other: Leaks: 2 pictures in two splits, 1 more nearly: a is b" in out and "one: Leaks" not in out
    assert "one: hash 16 bits: not the card's recipe" in out
    status, out, err = hashret("compare", result, other, "--json")
    assert [len(each) for each in json.loads(out)["caveats"].values()] == [1, 2]


def test_results_that_do_not_know_their_files_rank_and_say_so(result: Path, hashret: Callable, tmp_path: Path) -> None:
    assert len(read_result(result).document["pictures_hash"]) == 16
    unknown = spoil(result, tmp_path / "unknown", lambda d: d.update(pictures_hash=None))
    older = spoil(result, tmp_path / "older", lambda d: d.pop("pictures_hash"))
    status, out, err = hashret("compare", unknown, result, older)
    assert status == 0, err
    for name, said in (("unknown", True), ("older", True), ("one", False)):
        assert (f"{name}: Nobody hashed the pictures' files" in out) == said
    # Those that know are held against each other, whichever comes first.
    other = spoil(result, tmp_path / "other", lambda d: d.update(pictures_hash="0" * 16))
    status, out, err = hashret("compare", unknown, result, other)
    assert (status, out) == (2, "") and "the files of the pictures differ" in err


def test_results_of_before_copies_within_a_split_were_counted_are_read(
    result: Path, hashret: Callable, tmp_path: Path
) -> None:
    other = spoil(result, tmp_path / "other", lambda d: d.update(leaks={"same": 0, "near": 0, "examples": []}))
    status, out, err = hashret("compare", result, other)
    assert status == 0, err
    assert "other: Nobody looked for pictures that are twice in one split" in out and "one: Nobody" not in out


def test_results_by_other_rules_are_not_ranked(result: Path, hashret: Callable, tmp_path: Path) -> None:
    other = spoil(result, tmp_path / "other", lambda d: d.update(rule="near views are left out"))
    status, out, err = hashret("compare", result, other)
    assert (status, out) == (2, "") and "other pictures leave a query's gallery" in err


def test_classes_of_pictures_of_several_are_counted_one_by_one(tmp_path: Path) -> None:
    table = table_of("ttqg", "----")
    table.labels[:] = ["a;b", "a", "c;b", "c;a"]
    sizes = read(CARDS["multi-label"], table, tmp_path).sizes
    assert sizes == {"train": Size(2, 2), "query": Size(2, 1), "gallery": Size(2, 1)}


def test_a_release_is_whole_only_where_the_size_of_every_split_is_known(tmp_path: Path) -> None:
    found = read(UNSEEN, table_of("ttxx", "aabb"), tmp_path)
    assert complete(dataclasses.replace(UNSEEN, sizes={"test": Size(1, 2)}), found) is None
    assert complete(dataclasses.replace(UNSEEN, sizes={"test": Size(1, 3)}), found) is False


def test_a_result_can_be_named_as_the_sources_do(
    result: Path, hashret: Callable, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["protocol", "run", "cars-unseen", "--dataset_name", result.parent / "set", "--exp_name", "bits16"]
    status, _, err = hashret(*words, "--code_size", 16, "--triplet_margin", 8, *SMALL)
    assert status == 0, err
    assert read_result(tmp_path / "results" / "bits16").document["models"][0]["settings"]["margin"] == 8
    for more, sentence in (
        (["--out", "x"], "--exp-name and --out both name"),
        (["--exp_name", "a/b"], "is a name and no path"),
    ):
        status, _, err = hashret(*words, *more)
        assert status == 2 and sentence in err


# ---- the command line -----------------------------------------------------------------------------------------------


def test_list_and_show(hashret: Callable) -> None:
    status, out, _ = hashret("protocol", "list")
    assert status == 0 and all(name in out for name in CARDS)
    for name, card in CARDS.items():
        status, out, _ = hashret("protocol", "show", name)
        assert status == 0 and card.hash in out and card.title in out
        status, out, _ = hashret("protocol", "show", name, "--json")
        document = json.loads(out)
        assert document.pop("hash") == card.hash and document == card.as_dict()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["protocol"], "hashret protocol takes list, show, run, found nothing"),
        (["protocol", "fly"], "found 'fly'"),
        (["protocol", "show", "cub"], "there is no protocol 'cub'"),
        (["protocol", "run", "cub-hash"], "--data SOURCE is missing"),
        (["protocol", "run", "cub-hash", "--data", "x"], "--out RESULT is missing"),
        (
            ["protocol", "run", "cub-hash", "--data", "x", "--out", "y", "--arch", "resnet50"],
            "--arch is a flag of compcars only; use",
        ),
        (
            ["protocol", "run", "cub-hash", "--data", "x", "--out", "y", "--show_batch"],
            "--show_batch is a flag of compcars only",
        ),
        (
            ["protocol", "run", "multi-label", "--data", "x", "--out", "y", "--least-pictures", 4],
            "--least-pictures is 4, but a picture of multi-label can be of several classes",
        ),
        (
            ["protocol", "run", "compcars", "--epoch", 2, "--epochs", 3],
            "--epoch and --epochs mean the same; give one of them",
        ),
        (
            ["protocol", "run", "cub-hash", "--data", "turntable", "--out", "y"],
            "cub-hash has no stand-in that could be drawn",
        ),
        (["protocol", "run", "car-retrieval", "--data", "nowhere", "--out", "y"], "nowhere"),
    ],
)
def test_wrong_usage(words: list[object], sentence: str, hashret: Callable, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = hashret(*words)
    assert status in (1, 2) and out == ""
    assert sentence in err and err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_several_labels_are_scored_as_plain_loops_do() -> None:
    from test_evaluation import plain_scores

    from hashret.evaluation.compare import Representation, compare
    from hashret.evaluation.gallery import GalleryRule

    rng = np.random.default_rng(3)
    names = ["a", "b", "c", "d"]

    def some(n: int, prefix: str) -> PictureTable:
        labels = [";".join(sorted(rng.choice(names, rng.integers(1, 3), replace=False))) for _ in range(n)]
        return PictureTable([f"{prefix}{i}" for i in range(n)], ["x"] * n, labels, [""] * n)

    queries, gallery = some(7, "q"), some(40, "g")
    bits = [rng.integers(0, 2, (n, 10), dtype=np.uint8) for n in (7, 40)]
    vectors = [each.astype(np.float32) / np.linalg.norm(each, axis=1, keepdims=True) for each in bits]
    codes = Representation("codes", *(np.packbits(each, axis=1) for each in bits), 10)
    floats = Representation("floats", vectors[0], vectors[1])
    found = compare([codes, floats], queries, gallery, GalleryRule("self"), several_labels=True)
    relevant = [[bool(set(q.split(";")) & set(g.split(";"))) for g in gallery.labels] for q in queries.labels]
    apart = (bits[0][:, None] != bits[1][None]).sum(axis=2)
    cosine = floats.distances(slice(0, 7))
    for each, distances in zip(found, (apart, cosine), strict=True):
        plain = [
            plain_scores(list(map(float, row)), flags, [1, 10]) for row, flags in zip(distances, relevant, strict=True)
        ]
        scored = [scores for scores in plain if scores is not None]
        assert each.scores["map@all"].expected == pytest.approx(np.mean([scores["map@all"] for scores in scored]))
        assert each.scores["hit@1"].expected == pytest.approx(np.mean([scores["hit@1"] for scores in scored]))
