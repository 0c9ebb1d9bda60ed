"""Splits made for tables that come without."""

from __future__ import annotations

import pytest

from hashret.data.splitting import split_pictures, split_unseen_classes
from hashret.data.table import PictureTable
from hashret.errors import DataError


def table(labels: list[str]) -> PictureTable:
    n = len(labels)
    return PictureTable(
        [str(i) for i in range(n)], [f"{i}.png" for i in range(n)], labels, [""] * n, {"view": ["9"] * n}
    )


def test_the_last_classes_by_name_are_unseen() -> None:
    split = split_unseen_classes(table(["b", "a", "d", "c", "", "a"]), 0.5)
    assert split.splits == ["train", "train", "test", "test", "", "train"]
    assert split.attributes == {"view": ["9"] * 6}
    assert split_unseen_classes(table(["a", "b"]), 0.99).splits == ["train", "test"]


def test_every_class_holds_out_its_share_and_keeps_one() -> None:
    labels = ["a"] * 10 + ["b"] * 5 + ["c"] + [""]
    split = split_pictures(table(labels), 0.2, seed=1)
    assert [split.splits[:10].count("test"), split.splits[10:15].count("test"), split.splits[15:]] == [
        2,
        1,
        ["train", ""],
    ]
    assert split.splits == split_pictures(table(labels), 0.2, seed=1).splits
    assert split.splits != split_pictures(table(labels), 0.2, seed=2).splits


def test_what_cannot_be_split() -> None:
    with pytest.raises(DataError, match="no whole picture of any class"):
        split_pictures(table(["a"] * 4 + ["b"] * 4), 0.1)
    with pytest.raises(DataError, match="has 1 classes; splitting classes needs at least 2"):
        split_unseen_classes(table(["a", "a"]), 0.5)
    with pytest.raises(DataError, match="has no labels"):
        split_pictures(table(["", ""]), 0.5)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(DataError, match="above 0 and below 1"):
            split_pictures(table(["a", "a"]), share)
