"""Top-1 by condition against plain loops over all orders of ties, and the conditions of turntable pictures."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.data.table import PictureTable
from hashret.errors import UsageError
from hashret.evaluation import conditions, curves
from hashret.evaluation.compare import Representation, compare
from hashret.evaluation.conditions import has_views_and_times, rotation_by_time, time_by_time, top1_by_condition
from hashret.evaluation.gallery import GalleryRule


def pictures(views: list[str], times: list[str], first: int = 0) -> PictureTable:
    ids = [f"p{first + i}" for i in range(len(views))]
    attributes = {"view": views, "time": times}
    return PictureTable(ids, [f"/{name}.png" for name in ids], ["a"] * len(ids), [""] * len(ids), attributes, "set")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans(), st.integers(1, 4))
def test_it_is_the_share_of_first_places_over_all_orders(seed: int, at_once: int, floats: bool, n: int) -> None:
    rng = np.random.default_rng(seed)
    n_queries, n_gallery = int(rng.integers(1, 9)), int(rng.integers(0, 10))
    if floats:
        exact = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)  # products without rounding
        each = Representation("", exact[rng.integers(0, 3, n_queries)], exact[rng.integers(0, 3, n_gallery)])
    else:
        few = rng.integers(0, 4, (2, max(n_queries, n_gallery), 1), dtype=np.uint8)
        each = Representation("", few[0, :n_queries], few[1, :n_gallery], 8)
    labels_Q, labels_N = rng.integers(-1, 3, n_queries), rng.integers(-1, 3, n_gallery)
    condition, valid = rng.integers(-1, n, (n_queries, n_gallery)), rng.random((n_queries, n_gallery)) < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditions, "_PAIRS_AT_ONCE", at_once)
        found = top1_by_condition(each, labels_Q, labels_N, lambda rows: condition[rows], n, lambda rows: valid[rows])
    distances = each.distances(slice(0, n_queries))
    for c in range(n):
        hits, to_find = [], []
        for q in range(n_queries):
            right, wrong = [], []
            for i in range(n_gallery):
                if valid[q, i] and labels_Q[q] == labels_N[i] >= 0:
                    right += [distances[q, i]] if condition[q, i] == c else []
                elif valid[q, i]:
                    wrong.append(distances[q, i])
            if right:
                nearest = min(right + wrong)
                hits.append(right.count(nearest) / (right.count(nearest) + wrong.count(nearest)))
                to_find.append(len(right))
        assert found.n_queries_C[c] == len(hits)
        assert found.top1_C[c] == pytest.approx(np.mean(hits) if hits else math.nan, nan_ok=True)
        assert found.findable_C[c] == pytest.approx(np.mean(to_find) if hits else math.nan, nan_ok=True)


def test_one_condition_for_all_is_hit_at_1() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    table = pictures(["0"] * 60, ["noon"] * 60)
    table.labels = [f"c{label}" for label in labels]
    codes = Representation("", *(rng.integers(0, 256, (60, 1), dtype=np.uint8) for _ in range(2)), 8)
    rule = GalleryRule("self")
    found = top1_by_condition(
        codes, labels, labels, lambda rows: np.zeros((60, 60), int)[rows], 1, rule.between(table, table)
    )
    (scored,) = compare([codes], table, table, rule, ks=(1,))
    assert found.top1_C[0] == pytest.approx(scored.scores.top1) and found.n_queries_C[0] == scored.scores.n_queries


def test_turns_go_the_shorter_way_round() -> None:
    queries = pictures(["0", "350", "-10", "97.5"], ["night", "noon", "noon", "dusk"])
    gallery = pictures(["0", "15", "180", "352", "7.4", "7.5", "345"], ["noon"] * 7, first=4)
    found = rotation_by_time(queries, gallery)
    assert found.rows == ["noon", "night", "dusk"] and found.columns == [f"{15 * i}°" for i in range(13)]
    assert found.n == 39
    steps = np.array([[0, 1, 12, 1, 0, 1, 1], [1, 2, 11, 0, 1, 1, 0], [1, 2, 11, 0, 1, 1, 0], [7, 6, 6, 7, 6, 6, 8]])
    assert found.of_pairs(slice(0, 4)).tolist() == (steps + 13 * np.array([[1], [0], [0], [2]])).tolist()
    assert found.of_pairs(slice(1, 3)).tolist() == steps[1:3].tolist()


def test_times_stand_in_the_order_of_the_day() -> None:
    queries = pictures(["0"] * 3, ["night", "dusk", ""])
    gallery = pictures(["0"] * 2, ["morning", "noon"], first=3)
    found = time_by_time(queries, gallery)
    assert found.rows == found.columns == ["morning", "noon", "night", "unknown", "dusk"]
    assert found.of_pairs(slice(0, 3)).tolist() == [[10, 11], [20, 21], [15, 16]]


def test_which_tables_have_conditions() -> None:
    assert has_views_and_times(pictures(["0", "12.5"], ["noon"] * 2))
    assert not has_views_and_times(pictures(["0", "front"], ["noon"] * 2))
    assert not has_views_and_times(pictures(["0", "nan"], ["noon"] * 2))
    bare = pictures(["0"], ["noon"])
    del bare.attributes["time"]
    assert not has_views_and_times(bare)
    with pytest.raises(UsageError, match="not all in degrees"):
        rotation_by_time(pictures(["front"], ["noon"]), pictures(["0"], ["noon"], 1))


def test_what_does_not_fit() -> None:
    each = Representation("", np.zeros((2, 1), np.uint8), np.zeros((3, 1), np.uint8), 8)
    pairs, labels = np.full((2, 3), 5), np.zeros(3, np.int64)
    with pytest.raises(UsageError, match="has the condition 5, expected 0 to 3"):
        top1_by_condition(each, labels[:2], labels, lambda rows: pairs[rows], 4, lambda rows: pairs[rows] > 0)
    with pytest.raises(UsageError, match="labels of 3 queries and 3 gallery pictures, expected 2 and 3"):
        top1_by_condition(each, labels, labels, lambda rows: pairs[rows], 6, lambda rows: pairs[rows] > 0)


# ---- curves over ranks


def test_curves_are_the_scores_at_their_ranks() -> None:
    rng = np.random.default_rng(1)
    table = pictures(["0"] * 130, ["noon"] * 130)
    table.labels = [f"c{i % 5}" for i in range(130)]
    each = Representation("", *(rng.integers(0, 4, (130, 1), dtype=np.uint8) for _ in range(2)), 8)
    (found,) = curves.rank_curves([each], table, table, GalleryRule("self"))
    (scored,) = compare([each], table, table, GalleryRule("self"), ks=(1, 10, 100, 130))
    place = {int(k): i for i, k in enumerate(found.ranks_K)}
    assert {1, 10, 100, 130} <= set(place)
    for k in (1, 10, 100, 130):
        for kind, values in (("hit", found.hit_K), ("recall", found.recall_K), ("precision", found.precision_K)):
            assert values[place[k]] == scored.scores[f"{kind}@{k}"].expected
    assert found.recall_K[-1] == pytest.approx(1) and np.diff(found.hit_K).min() >= -1e-12


@pytest.mark.parametrize("last", [1, 2, 7, 99, 100, 101, 60_000])
def test_ranks_are_spread(last: int) -> None:
    ranks = curves.spread_ranks(last)
    assert ranks == sorted(set(ranks)) and ranks[0] == 1 and ranks[-1] == last and len(ranks) < 60
    assert last < 100 or 100 in ranks
    assert all(b <= (a + 1 if a < 10 else round(1.25 * a)) for a, b in itertools.pairwise(ranks))
