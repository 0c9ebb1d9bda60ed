"""Representations side by side, judged by plain loops: who counts for whom, what is relevant, and the scores themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.data.table import PictureTable
from hashret.errors import UsageError
from hashret.evaluation import compare as comparing
from hashret.evaluation.compare import Asymmetric, Representation, TwoStage, compare
from hashret.evaluation.gallery import GalleryRule, gallery_rule, is_turntable, numbered


def table(ids: list[str], labels: list[str], **attributes: list[str]) -> PictureTable:
    return PictureTable(ids, [f"/{name}.png" for name in ids], labels, [""] * len(ids), attributes, "set")


def plain_scores(distances: list[float], relevant: list[bool], ks: list[int]) -> dict[str, float] | None:
    """Scores of one query expected over the orders of equal distances, position by position; None when nothing is relevant."""
    total = sum(relevant)
    if not total:
        return None
    before = relevant_before = 0
    hits = dict.fromkeys(ks, 0.0)
    found = dict.fromkeys(ks, 0.0)
    precision_sum = 0.0
    precision_sum_at = dict.fromkeys(ks, 0.0)
    missed = dict.fromkeys(ks, 1.0)
    for distance in sorted(set(distances)):
        members = [right for each, right in zip(distances, relevant, strict=True) if each == distance]
        n, r = len(members), sum(members)
        for k in ks:
            inside = max(0, min(n, k - before))
            found[k] += inside * r / n
            missed[k] *= math.comb(n - r, inside) / math.comb(n, inside)
        for position in range(1, n + 1):
            earlier = (position - 1) * (r - 1) / (n - 1) if n > 1 else 0
            gain = r / n * (relevant_before + 1 + earlier) / (before + position)
            precision_sum += gain
            for k in ks:
                if before + position <= k:
                    precision_sum_at[k] += gain
        before, relevant_before = before + n, relevant_before + r
    hits = {k: 1 - missed[k] for k in ks}
    return {
        "map@all": precision_sum / total,
        **{f"hit@{k}": hits[k] for k in ks},
        **{f"recall@{k}": found[k] / total for k in ks},
        **{f"precision@{k}": found[k] / k for k in ks},
        **{f"map@{k}": precision_sum_at[k] / min(k, total) for k in ks},
    }


def assert_scores(
    representation: Representation,
    queries: PictureTable,
    gallery: PictureTable,
    counts: Callable[[int, int], bool],
    result: comparing.Result,
    ks: list[int],
) -> None:
    plain = []
    for q in range(len(queries)):
        members = [n for n in range(len(gallery)) if counts(q, n)]
        distances = [distance(representation, q, n) for n in members]
        plain.append(plain_scores(distances, [gallery.labels[n] == queries.labels[q] for n in members], ks))
    scored = [scores for scores in plain if scores is not None]
    assert result.scores.n_queries == len(scored)
    assert result.scores.n_excluded == len(plain) - len(scored)
    for name in scored[0] if scored else ():
        assert result.scores[name].expected == pytest.approx(np.mean([scores[name] for scores in scored]), abs=1e-9), (
            name
        )


def distance(each: Representation, q: int, n: int) -> float:
    if isinstance(each, Asymmetric):
        bits = np.unpackbits(each.gallery[n])[: each.code_size].tolist()
        return -sum(logit if bit else -logit for logit, bit in zip(each.queries[q].tolist(), bits, strict=True))
    if each.code_size is None:
        return float(np.float32(1) - np.float32(sum(each.queries[q] * each.gallery[n])))
    return int(
        sum((a ^ b).bit_count() for a, b in zip(each.queries[q].tolist(), each.gallery[n].tolist(), strict=True))
    )


@settings(max_examples=25, deadline=None)
@given(
    n_queries=st.integers(1, 9), n_gallery=st.integers(1, 12), shared=st.integers(0, 9), classes=st.integers(1, 3),
    pairs=st.sampled_from([1, 7, 25, 1 << 22]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_scores_equal_plain_loops_whatever_the_shapes_and_chunks(
    n_queries: int, n_gallery: int, shared: int, classes: int, pairs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    query_ids = [f"p{i}" for i in range(n_queries)]
    # Some ids are in both: the query leaves its gallery by id, wherever it stands there and whatever its code.
    gallery_ids = [*query_ids[: min(shared, n_gallery)], *(f"g{i}" for i in range(n_gallery))][:n_gallery]
    rng.shuffle(gallery_ids)
    names = ["", *(f"c{i}" for i in range(classes))]
    queries = table(query_ids, [names[rng.integers(1, classes + 1)] for _ in query_ids])
    gallery = table(gallery_ids, [names[rng.integers(0, classes + 1)] for _ in gallery_ids])
    few = rng.integers(0, 2, (3, 2), dtype=np.uint8)  # few distinct codes: many ties
    exact = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)  # products without rounding
    representations = [
        Representation("codes", few[rng.integers(0, 3, n_queries)], few[rng.integers(0, 3, n_gallery)], 16),
        Representation("vectors", exact[rng.integers(0, 3, n_queries)], exact[rng.integers(0, 3, n_gallery)]),
        Asymmetric(
            "logits", rng.integers(-2, 3, (n_queries, 16)).astype(np.float32), few[rng.integers(0, 3, n_gallery)], 16
        ),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "_PAIRS_AT_ONCE", pairs)
        results = compare(representations, queries, gallery, GalleryRule("self"), ks=[1, 3], map_cutoffs=[None, 1, 3])
    for each, result in zip(representations, results, strict=True):
        assert result.name == each.name

        def others(q: int, n: int) -> bool:
            return queries.ids[q] != gallery.ids[n]

        assert_scores(each, queries, gallery, others, result, [1, 3])


def test_every_chunk_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gallery = table([f"g{i}" for i in range(7)], ["a", "b", "a", "b", "a", "b", "a"])
    queries = table([f"q{i}" for i in range(20)], ["a", "b"] * 10)
    vectors = Representation("x", rng.standard_normal((20, 2)), rng.standard_normal((7, 2)))
    asked = []
    distances = Representation.distances

    def counting(self: Representation, rows: slice) -> np.ndarray:
        asked.append(rows)
        return distances(self, rows)

    monkeypatch.setattr(Representation, "distances", counting)
    whole = compare([vectors], queries, gallery, GalleryRule("self"))[0]
    assert asked == [slice(0, 20)]
    asked.clear()
    monkeypatch.setattr(comparing, "_PAIRS_AT_ONCE", 3 * 7)
    parts = compare([vectors], queries, gallery, GalleryRule("self"))[0]
    assert asked == [slice(start, min(start + 3, 20)) for start in range(0, 20, 3)]
    assert parts.as_dict() == whole.as_dict()
    assert (parts.scores.per_query("hit@1") == whole.scores.per_query("hit@1")).all()


def test_scores_within_a_radius_are_of_codes_alone() -> None:
    pictures = table(["1", "2", "3"], ["a", "a", "b"])
    codes, vectors = np.array([[0], [1], [7]], np.uint8), np.eye(3, dtype=np.float32)
    measures = ["map@R", "precision-within@2", "empty-within@2"]
    of_codes, of_vectors = compare(
        [Representation("codes", codes, codes, 8), Representation("vectors", vectors, vectors)],
        pictures, pictures, GalleryRule("self"), measures=measures,
    )  # fmt: skip
    assert of_codes.scores["precision-within@2"].expected == pytest.approx((1 + 0.5) / 2)
    assert of_codes.scores["empty-within@2"].expected == 0 and of_codes.scores["map@R"].expected == 1
    assert of_vectors.scores.names == [name for name in of_codes.scores.names if "-within@" not in name]


class TestTurntableRule:
    def pictures(self, seed: int, n: int, first: int = 0) -> PictureTable:
        rng = np.random.default_rng(seed)
        return table(
            [str(first + i) for i in range(n)],
            [f"car{rng.integers(3)}" for _ in range(n)],
            colour=[f"colour{rng.integers(2)}" for _ in range(n)],
            time=[["noon", "night"][rng.integers(2)] for _ in range(n)],
            view=[str(15 * rng.integers(24)) for _ in range(n)],
        )

    def counts(self, queries: PictureTable, gallery: PictureTable, q: int, n: int) -> bool:
        if queries.ids[q] == gallery.ids[n]:
            return False
        apart = abs(int(queries.attributes["view"][q]) - int(gallery.attributes["view"][n])) % 360
        alike = all(queries.attributes[c][q] == gallery.attributes[c][n] for c in ("colour", "time"))
        return not (alike and min(apart, 360 - apart) <= 30)

    @pytest.mark.parametrize(("n_queries", "n_gallery", "first"), [(30, 30, 0), (5, 40, 20), (40, 5, 0)])
    def test_near_views_of_the_same_paint_and_light_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch, n_queries: int, n_gallery: int, first: int
    ) -> None:
        monkeypatch.setattr(comparing, "_PAIRS_AT_ONCE", 100)
        queries, gallery = self.pictures(1, n_queries), self.pictures(1 + first, n_gallery, first)
        rng = np.random.default_rng(2)
        each = Representation(
            "x",
            rng.integers(0, 4, (n_queries, 1), dtype=np.uint8),
            rng.integers(0, 4, (n_gallery, 1), dtype=np.uint8),
            8,
        )
        (result,) = compare([each], queries, gallery, GalleryRule("turntable"), ks=[1, 4], map_cutoffs=[None, 1, 4])
        assert_scores(each, queries, gallery, lambda q, n: self.counts(queries, gallery, q, n), result, [1, 4])
        assert "same-colour-and-time-within-30-degrees" in result.scores.signature("hit@1")

    def test_which_tables_are_turntables(self) -> None:
        plain, turning = table(["1"], ["a"]), self.pictures(0, 1)
        assert not is_turntable(plain) and not is_turntable(turning)
        turning.attributes.update(body=["suv"], generation=["1"])
        assert is_turntable(turning)
        assert gallery_rule("auto", plain).name == "self" and gallery_rule("auto", turning).name == "turntable"
        assert gallery_rule("self", turning).name == "self"
        with pytest.raises(UsageError, match="set has no column 'colour', which --rule turntable needs"):
            gallery_rule("turntable", plain)
        with pytest.raises(UsageError, match="--rule is 'none'; choose one of auto, self, turntable"):
            gallery_rule("none", plain)

    @pytest.mark.parametrize("view", ["front", "", "nan", "inf"])
    def test_views_that_are_no_degrees(self, view: str) -> None:
        pictures = self.pictures(0, 3)
        pictures.attributes["view"][1] = view
        with pytest.raises(UsageError, match="; correct the column view, or take it out"):
            GalleryRule("turntable").between(pictures, pictures)
        del pictures.attributes["view"]  # the advice, followed
        assert gallery_rule("auto", pictures).between(pictures, pictures)(slice(0, 1)).sum() == len(pictures) - 1


def test_a_picture_without_a_label_is_never_right() -> None:
    codes = np.zeros((3, 1), np.uint8)
    gallery = table(["1", "2", "3"], ["", "a", ""])
    (result,) = compare([Representation("x", codes[:1], codes, 8)], table(["q"], ["a"]), gallery, GalleryRule("self"))
    assert result.scores["hit@1"].expected == pytest.approx(1 / 3)


def test_what_cannot_be_compared() -> None:
    codes, two = np.zeros((2, 1), np.uint8), table(["1", "2"], ["a", "a"])
    with pytest.raises(UsageError, match="there are no queries to score"):
        compare([Representation("x", codes[:0], codes, 8)], table([], []), two, GalleryRule("self"))
    with pytest.raises(UsageError, match="1 queries have no label"):
        compare([Representation("x", codes, codes, 8)], table(["1", "2"], ["a", ""]), two, GalleryRule("self"))
    with pytest.raises(UsageError, match="x stands for 2 queries and 1 gallery pictures, expected 2 and 2"):
        compare([Representation("x", codes, codes[:1], 8)], two, two, GalleryRule("self"))


def test_a_gallery_with_nothing_to_find_gives_no_scores() -> None:
    codes = np.zeros((2, 1), np.uint8)
    (result,) = compare(
        [Representation("x", codes, codes, 8)],
        table(["1", "2"], ["a", "b"]),
        table(["1", "2"], ["a", "b"]),
        GalleryRule("self"),
    )
    document = result.as_dict()
    assert (document["n_queries"], document["n_excluded"], document["hit@1_interval_95"]) == (0, 2, None)
    assert document["scores"]["map@all"]["expected"] is None


def test_texts_are_numbered_alike() -> None:
    one, two = numbered(["b", "a", "b"], ["a", "c", "b"])
    assert ((one[:, None] == two[None, :]) == [[False, False, True], [True, False, False], [False, False, True]]).all()
    assert all(len(each) == 0 for each in numbered([], []))


def test_controls_are_what_they_say(closed_set: Path) -> None:
    from hashret.data.sources import open_source
    from hashret.evaluation.controls import pixel_vectors, untrained_features
    from hashret.images import read_picture
    from hashret.model.hasher import build

    pictures = open_source(closed_set).select([0, 9, 20])
    vectors = pixel_vectors(pictures)
    for row, vector in enumerate(vectors):
        pixels = np.asarray(read_picture(pictures.paths[row]), np.float64).reshape(-1)  # 32 × 32 already
        expected = (pixels - pixels.mean()) / np.linalg.norm(pixels - pixels.mean())
        assert vector == pytest.approx(expected, abs=1e-5)
    trained, other = (build("squeezenet1_1", code_size=bits, image_size=32) for bits in (8, 16))
    features = untrained_features(trained, pictures, workers=0)
    assert features.shape == (3, 512) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert (features == untrained_features(other, pictures, workers=0)).all(), "a control does not depend on the model"


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), within=st.integers(1, 40))
def test_two_stage_ranks_as_the_search_does(seed: int, n: int, within: int) -> None:
    rng = np.random.default_rng(seed)
    codes_QB, codes_NB = (rng.integers(0, 4, (count, 2), np.uint8) for count in (3, n))
    vectors_QD, vectors_ND = (rng.standard_normal((count, 4)).astype(np.float32) for count in (3, n))
    for vectors in (vectors_QD, vectors_ND):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = rng.random((3, n)) < 0.8
    vectors = {"query_vectors": vectors_QD, "gallery_vectors": vectors_ND}
    each = TwoStage("x", codes_QB, codes_NB, 16, **vectors, valid=lambda rows: counts[rows], within=within)
    found = each.distances(slice(1, 3))
    cosine_distances = Representation("", vectors_QD, vectors_ND).distances(slice(0, 3))
    assert each.distance_name == f"hamming-{within}-then-cosine"
    for q in (1, 2):
        hamming = [int(np.bitwise_count(codes_QB[q] ^ code).sum()) for code in codes_NB]
        first = sorted(np.flatnonzero(counts[q]), key=lambda row: (hamming[row], row))[:within]
        others = [row for row in np.flatnonzero(counts[q]) if row not in first]
        # BLAS may add up the products of one query and of three in another order.
        assert [found[q - 1, row] for row in first] == pytest.approx(
            [cosine_distances[q, row] for row in first], abs=1e-6
        )
        assert [found[q - 1, row] for row in others] == [4 + hamming[row] for row in others]
