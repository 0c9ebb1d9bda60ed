"""The numbers of a report against plain loops, and its page: whole, alone, escaped, the same twice."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from hashret import codes
from hashret.data.table import PictureTable
from hashret.evaluation.compare import Representation, compare
from hashret.evaluation.gallery import GalleryRule
from hashret.metrics import retrieval_scores
from hashret.report import analysis, bits, charts, history, labels, page, picture_map, ranking, thumbnails, verdict
from hashret.report import text as page_text
from hashret.report.analysis import CODES, FEATURES, RIGHT, TIED, TWO_STAGE, WRONG, Analysis, Encodings, analyse
from hashret.report.ranking import Pairs

seeds = st.integers(0, 2**32 - 1)


def random_pairs(seed: int, *, whole: bool) -> tuple[Pairs, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Up to 8 queries and 9 gallery pictures of 3 classes or none: pairs, distances, what counts, both sides' labels."""
    rng = np.random.default_rng(seed)
    n_queries, n_gallery = rng.integers(1, 9), rng.integers(1, 10)
    distances = rng.integers(0, 5, (n_queries, n_gallery)).astype(np.int32)
    if not whole:
        distances = (distances / 4).astype(np.float32)
    valid = rng.random((n_queries, n_gallery)) < 0.8
    pairs = Pairs(lambda rows: distances[rows], lambda rows: valid[rows], int(n_queries), int(n_gallery))
    return pairs, distances, valid, rng.integers(0, 3, n_queries), rng.integers(-1, 3, n_gallery)


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---- rankings


@settings(max_examples=60, deadline=None)
@given(seeds, st.booleans(), st.integers(1, 12), st.integers(1, 30))
def test_nearest_is_a_sort_by_distance_and_row(seed: int, whole: bool, k: int, at_once: int) -> None:
    pairs, distances, valid, _, _ = random_pairs(seed, whole=whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_PAIRS_AT_ONCE", at_once)
        found = ranking.nearest(pairs, k)
    for q in range(pairs.n_queries):
        expected = sorted((distances[q, n].item(), n) for n in range(pairs.n_gallery) if valid[q, n])[:k]
        missing = k - len(expected)
        assert found.rows_QK[q].tolist() == [n for _, n in expected] + [-1] * missing
        there = found.distances_QK[q][: len(expected)]
        assert there.tolist() == [distance for distance, _ in expected]
        assert np.isnan(found.distances_QK[q][len(expected) :]).all()


@settings(max_examples=60, deadline=None)
@given(seeds, st.booleans(), st.integers(1, 30))
def test_answers_share_votes_among_the_nearest(seed: int, whole: bool, at_once: int) -> None:
    pairs, distances, valid, query_labels, gallery_labels = random_pairs(seed, whole=whole)
    relevant = (query_labels[:, None] == gallery_labels[None, :]) & valid
    counted = relevant.any(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_PAIRS_AT_ONCE", at_once)
        found = ranking.answers(pairs, query_labels, gallery_labels, counted)
    expected: Counter[tuple[int, int]] = Counter()
    for q in np.flatnonzero(counted):
        nearest = min(distances[q, n] for n in range(pairs.n_gallery) if valid[q, n])
        tied = [n for n in range(pairs.n_gallery) if valid[q, n] and distances[q, n] == nearest]
        for n in tied:
            expected[int(query_labels[q]), int(gallery_labels[n])] += 1 / len(tied)
    got = {(a, b): c for a, b, c in zip(*(column.tolist() for column in found), strict=True)}
    assert got == pytest.approx(dict(expected))
    assert found.counts_P.tolist() == pytest.approx(sorted(expected.values(), reverse=True))
    if counted.any():
        scores = retrieval_scores(distances, relevant, valid, ks=(1,))
        right = found.counts_P[found.asked_P == found.answered_P].sum()
        assert right == pytest.approx(scores.top1 * scores.n_queries)
    shares = [ranking.share(found, 1, b) for b in range(-1, 3)]
    total = sum(count for (a, _), count in expected.items() if a == 1)
    assert shares == pytest.approx([expected[1, b] / total if total else math.nan for b in range(-1, 3)], nan_ok=True)
    wrong = ranking.confused(found)
    assert all(a != b and b >= 0 for a, b in zip(wrong.asked_P.tolist(), wrong.answered_P.tolist(), strict=True))
    chosen = ranking.most_confused_classes(found, 2)
    assert len(chosen) <= 2 and chosen == sorted(chosen)
    assert ranking.matrix(found, [0, 1, 2]).tolist() == pytest.approx(
        np.array([[expected[a, b] for b in range(3)] for a in range(3)])
    )


# ---- bits


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 12))
def test_correlations_are_numpys_and_agree_with_the_statistics(seed: int, size: int, n: int) -> None:
    bits_NK = np.random.default_rng(seed).random((n, size)) < 0.5
    packed = codes.pack(bits_NK)
    correlation = bits.correlations(packed, size)
    statistics = codes.statistics(packed, size)
    alive = np.flatnonzero(bits_NK.any(axis=0) & ~bits_NK.all(axis=0))
    assert np.isnan(np.diagonal(correlation)).sum() == statistics.dead_bits
    pairs = [(i, j) for i in alive for j in alive if i < j]
    for i, j in pairs:
        assert correlation[i, j] == pytest.approx(np.corrcoef(bits_NK[:, i], bits_NK[:, j])[0, 1], abs=1e-9)
    strongest = bits.most_correlated(correlation, 3)
    assert len(strongest) == min(3, len(pairs))
    if pairs:
        assert abs(strongest[0].correlation) == pytest.approx(statistics.max_correlation, abs=1e-9)
        assert np.mean([abs(correlation[pair]) for pair in pairs]) == pytest.approx(
            statistics.mean_correlation, abs=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 30))
def test_distances_are_counted_by_class(seed: int, at_once: int) -> None:
    pairs, distances, valid, query_labels, gallery_labels = random_pairs(seed, whole=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_PAIRS_AT_ONCE", at_once)
        found = bits.distance_counts(pairs, query_labels, gallery_labels, 6)
    same, other = [], []
    for q in range(pairs.n_queries):
        for n in range(pairs.n_gallery):
            if valid[q, n] and gallery_labels[n] >= 0:
                (same if query_labels[q] == gallery_labels[n] else other).append(distances[q, n])
    assert found.same_D.tolist() == [same.count(d) for d in range(7)]
    assert found.other_D.tolist() == [other.count(d) for d in range(7)]
    if not same or not other:
        assert math.isnan(found.separation)
    else:
        nearer = np.mean([1.0 if a < b else 0.5 if a == b else 0.0 for a in same for b in other])
        assert found.separation == pytest.approx(nearer)


def test_activations_count_from_their_thresholds() -> None:
    logits = np.array([[0.0, 5.0], [-9.0, 5.0]], np.float32)
    assert bits.activation_counts(logits, None, bins=4).tolist() == [1, 0, 1, 2]
    assert bits.activation_counts(logits, np.array([0.0, 5.0], np.float32), bins=4).tolist() == [1, 0, 3, 0]


# ---- labels


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 6), st.floats(0.2, 1.0))
def test_suspects_are_those_whom_all_kinds_of_neighbours_contradict(seed: int, k: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    gallery_labels = rng.integers(-1, 3, 8)
    query_labels = rng.integers(-1, 3, 10)
    kinds = [rng.integers(-1, 8, (10, k)) for _ in range(2)]
    found = labels.suspects(query_labels, gallery_labels, kinds, least)
    expected = []
    for q, own in enumerate(query_labels.tolist()):
        votes = [[int(gallery_labels[n]) for n in rows[q] if n >= 0] for rows in kinds]
        best = max(((min(each.count(b) for each in votes) / k, -b) for b in range(3) if b != own), default=(0.0, 0))
        if own >= 0 and best[0] >= least and best[0] > 0:
            expected.append((q, -best[1], best[0], max(each.count(own) for each in votes) / k))
    expected.sort(key=lambda each: (-each[2], each[3], each[0]))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def test_swapped_labels_are_found() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(6), 20)
    centres = unit(rng, 6, 16)
    features = centres[true] + rng.normal(0, 0.1, (120, 16)).astype(np.float32)
    given_labels = true.copy()
    swapped = rng.choice(120, 8, replace=False)
    given_labels[swapped] = (true[swapped] + 1) % 6
    distances = 1 - features @ features.T
    pairs = Pairs(lambda rows: distances[rows], lambda rows: ~np.eye(120, dtype=bool)[rows], 120, 120)
    near = ranking.nearest(pairs, 10).rows_QK
    found = labels.suspects(given_labels, given_labels, [near, near])
    assert set(found.queries_S.tolist()) == set(swapped.tolist())
    assert found.labels_S.tolist() == true[found.queries_S].tolist()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(0, 60))
def test_twins_are_pairs_of_two_labels_that_look_the_same(seed: int, at_once: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    packed, features = rng.integers(0, 3, (n, 1), dtype=np.uint8), unit(rng, 4, 2)[rng.integers(0, 4, n)]
    numbers = rng.integers(-1, 2, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "_PAIRS_AT_ONCE", at_once)
        found = labels.twins(packed, 8, features, numbers, most, alike=0.9)
    expected = set()
    for i in range(n):
        for j in range(i + 1, n):
            if numbers[i] != numbers[j] and min(numbers[i], numbers[j]) >= 0:
                apart, cosine = bin(packed[i, 0] ^ packed[j, 0]).count("1"), float(features[i] @ features[j])
                if apart == 0 or cosine >= 0.9:
                    expected.add((i, j, apart))
    assert found.n == len(expected)
    got = list(zip(found.first_T.tolist(), found.second_T.tolist(), found.bits_T.tolist(), strict=True))
    assert len(got) == min(most, len(expected)) and set(got) <= expected
    assert (np.diff(found.cosines_T) <= 0).all()


# ---- the log


def test_numbers_of_the_log_find_their_place() -> None:
    log: list[dict[str, Any]] = [
        {"epoch": 1, "loss": 2.0, "val_map": 0.1, "val_float_map": 0.2, "lr": 1e-3, "images_per_second": 90.0, "later": 1,
         "gap": 0.4, "val_score_gap": 0.1, "val_imbalance": 0.2, "imbalance": 0.1, "updates": 7, "names": ["a"]},
        {"epoch": 2, "loss": float("nan"), "val_map": None, "lr": 5e-4, "note": "text", "later": True, "wait_share": 0.5,
         "updates": 7},
    ]  # fmt: skip
    found = {panel.title: panel for panel in history.panels(log)}
    assert list(found) == [
        "Loss", "Validation mAP", "Float mAP less binary mAP", "From activation to bit", "Learning rate", "Imbalance of bits",
        "Pictures per second", "Waiting for pictures", "later",
    ]  # fmt: skip
    assert [curve.title for curve in found["Validation mAP"].curves] == ["codes", "activations"]
    assert [curve.title for curve in found["Imbalance of bits"].curves] == ["validation", "training"]
    assert found["Loss"].curves[0].values[0] == 2.0 and math.isnan(found["Loss"].curves[0].values[1])
    assert math.isnan(found["later"].curves[0].values[1])
    assert history.constants(log) == [("updates", 7)]
    assert history.epochs(log) == [1, 2] and history.epochs([{}, {"epoch": "x"}]) == [1, 2]
    assert history.panels([{"loss": math.nan, "lr": math.inf}] * 2) == history.constants([{"x": math.nan}]) == []
    assert history.panels([]) == [] and history.panels([{"epoch": 1}]) == []
    many = [{f"number {i}": i * j for i in range(1, 100)} for j in range(2)]
    assert len(history.panels(many)) == history.MOST_OTHER


# ---- charts


def drawn(name: str) -> str:
    rng = np.random.default_rng(5)
    panel = history.Panel("A <b> & c", "", [history.Curve("x", 'x "y" <z>', [1.0, math.nan, 3.0])])
    counts = bits.DistanceCounts(rng.integers(0, 9, 17), rng.integers(0, 9, 17))
    make: dict[str, Callable[[], str]] = {
        "curves": lambda: charts.curves(panel, [1, 2, 3], 3),
        "one epoch": lambda: charts.curves(history.panels([{"loss": 1.0}])[0], [1], 1),
        "constant": lambda: charts.curves(history.panels([{"lr": 0}, {"lr": 0}])[0], [1, 2], None),
        "balance": lambda: charts.balance(rng.random(64)),
        "one bit": lambda: charts.balance(np.array([1.0])),
        "correlation": lambda: charts.correlation_map(np.corrcoef(rng.random((8, 30)))),
        "all dead": lambda: charts.correlation_map(np.full((3, 3), np.nan)),
        "large": lambda: charts.correlation_map(rng.uniform(-1, 1, (1024, 1024))),
        "distances": lambda: charts.distances(counts),
        "no pairs": lambda: charts.distances(bits.DistanceCounts(np.zeros(2, np.int64), np.zeros(2, np.int64))),
        "activations": lambda: charts.activations(rng.integers(0, 9, 40)),
        "points": lambda: charts.float_against_binary(rng.random(5000), rng.random(5000)),
        "no points": lambda: charts.float_against_binary(np.full(3, np.nan), np.full(3, np.nan)),
        "precision": lambda: charts.precision_recall(
            [
                charts.Line("$a$ <b>", np.linspace(0.1, 1, 20), rng.random(20)),
                charts.Line("radius", np.linspace(0, 0.4, 5), np.array([np.nan, 1, 1, 0.5, 0.2]), points=True),
            ],
            "codes",
        ),
        "many lines": lambda: charts.hits(
            [charts.Line(f"run {i}", np.arange(1.0, 101), np.sort(rng.random(100))) for i in range(9)], "codes"
        ),
        "one rank": lambda: charts.hits([charts.Line("x" * 50, np.array([1.0]), np.array([0.0]))], "codes"),
        "few classes": lambda: charts.places(rng.random((70, 2)), rng.integers(-1, 20, 70), 20, "map"),
        "many classes": lambda: charts.places(rng.random((4000, 2)), rng.integers(-1, 500, 4000), 500, "map"),
        "sizes": lambda: charts.sizes([charts.Point(f"r{b}", b, 0.5, (0.4, 0.6)) for b in (16.0, 64.0, 16.0)], "mAP"),
    }
    return make[name]()


CHARTS = ["curves", "one epoch", "constant", "balance", "one bit", "correlation", "all dead", "large", "distances", "no pairs",
          "activations", "points", "no points", "precision", "many lines", "one rank", "few classes", "many classes",
          "sizes"]  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_charts_stand_in_a_page(name: str) -> None:
    svg = drawn(name)
    assert svg == drawn(name)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label")
    assert "http:" not in svg and "https:" not in svg and "<metadata" not in svg and len(svg) < 700_000
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", svg) and ("var(--ink)" in svg or "<image" in svg)
    assert "<style" not in svg and "DejaVu" not in svg and ("var(--sans)" in svg or "<image" in svg)
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in re.findall(r'href="([^"]*)"', svg))
    referred = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
    assert set(referred) <= set(ids)


def test_large_maps_keep_the_strongest() -> None:
    values = np.zeros((300, 300))
    values[299, 3], values[0, 0] = -0.9, np.nan
    shown, cells = charts._pooled(values)
    assert (shown.shape, cells) == ((150, 150), 2)
    assert shown[149, 1] == -0.9 and shown[0, 0] == 0


# ---- analysis


def made(
    folder: Path, labels_N: list[str], ids: list[str] | None = None, *, size: int = 16, seed: int = 0
) -> tuple[PictureTable, Encodings]:
    """Pictures on disk, one file for all of them, and random encodings drawn together a little by label."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = len(labels_N)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "차 <1>.png")
    names = ids or [f"p{i}" for i in range(n)]
    table = PictureTable(names, [str(folder / "차 <1>.png")] * n, labels_N, [""] * n, {}, "set")
    numbers = table.class_ids()[0]
    logits = rng.normal(size=(numbers.max() + 2, size))[numbers] + rng.normal(0, 1.2, (n, size))
    logits = logits.astype(np.float32)
    features = unit(rng, int(numbers.max()) + 2, 32)[numbers] + 0.25 * unit(rng, n, 32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return table, Encodings(size, codes.binarize(logits), logits, features.astype(np.float32))


def analysed(table: PictureTable, encodings: Encodings) -> Analysis:
    rows = np.flatnonzero([label != "" for label in table.labels])
    return analyse(table, rows, encodings, GalleryRule("self"))


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_queries_that_are_not_searched(seed: int) -> None:
    """Queries apart from the gallery: everything is as if the gallery's pictures had been all there are to find."""
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(6, 30)), 12
    table = PictureTable(
        [f"p{i}" for i in range(n)], ["nowhere.png"] * n, [f"c{c}" for c in rng.integers(0, 3, n)], [""] * n, {}, "set"
    )
    logits = rng.normal(size=(n, size)).astype(np.float32)
    encodings = Encodings(size, codes.binarize(logits), logits, unit(rng, n, 8))
    asks = np.flatnonzero(rng.random(n) < 0.5)
    searched = np.flatnonzero(rng.random(n) < 0.6)
    if not len(asks) or not len(searched):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "pixel_likeness", lambda _, twins: np.zeros(len(twins.first_T)))  # there are no pictures
        found = analyse(table, asks, encodings, GalleryRule("self"), gallery_rows_N=searched)
    apart = np.array([[(codes.unpack(encodings.codes_NB, size)[q] != bits_K).sum() for bits_K in
                       codes.unpack(encodings.codes_NB, size)] for q in range(n)])  # fmt: skip
    for i, query in enumerate(asks.tolist()):
        there = sorted((int(apart[query, row]), row) for row in searched.tolist() if row != query)
        first = [row for row in found.nearest[CODES].rows_QK[i].tolist() if row >= 0]
        assert first == [row for _, row in there][: found.nearest[CODES].rows_QK.shape[1]]
    counts = Counter(
        (int(apart[q, row]), table.labels[q] == table.labels[row]) for q in asks for row in searched if row != q
    )
    for same in (True, False):
        of_class = found.distances.same_D if same else found.distances.other_D
        assert of_class.tolist() == [counts[distance, same] for distance in range(size + 1)]
    queries, gallery = table.select(asks), table.select(searched)
    (expected,) = compare(
        [Representation("codes", encodings.codes_NB[asks], encodings.codes_NB[searched], size)],
        queries, gallery, GalleryRule("self"),
    )  # fmt: skip
    scores = found.results[CODES].scores
    assert scores.n_queries == expected.scores.n_queries
    if scores.n_queries:
        assert scores["map@all"] == expected.scores["map@all"]


def facts(**known: Any) -> verdict.RunFacts:
    document = {
        "status": "done", "data": "set", "source": {"data": "set"}, "options": {"backbone": "resnet18", "epochs": 2},
        "pictures": {"train": 90, "validation": 30}, "versions": {"hashret": "0"}, "result": {"best_epoch": 2},
    }  # fmt: skip
    log = [
        {"epoch": 1, "loss": 2.0, "val_map": 0.1, "$x^ <b>\x00": 1},
        {"epoch": 2, "loss": 1.0, "val_map": 0.3, "$x^ <b>\x00": 2},
    ]
    given = {"name": "run", "document": document, "history": log, "model_epoch": 2, "pictures": "30 pictures"}
    return verdict.RunFacts(**{**given, "validated": True, **known})


def test_all_numbers_of_an_analysis_agree(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 5}" for i in range(60)] + ["", "alone"])
    found = analysed(table, encodings)
    n_queries = 61
    assert len(found.query_rows_Q) == n_queries and found.results[CODES].scores.n_excluded == 1
    right = found.answers.counts_P[found.answers.asked_P == found.answers.answered_P].sum()
    assert right == pytest.approx(60 * found.results[CODES].scores["hit@1"].expected)
    assert np.nanmean(found.ap[FEATURES]) == pytest.approx(found.results[FEATURES].scores["map@all"].expected)
    assert np.isnan(found.ap[CODES][-1]) and found.outcomes[CODES][-1] == analysis.UNSCORED
    crossed = found.crossed()
    assert crossed.sum() == 60
    for axis, name in ((1, FEATURES), (0, CODES)):
        assert crossed.sum(axis=axis).tolist() == [
            int((found.outcomes[name] == kind).sum()) for kind in (RIGHT, TIED, WRONG)
        ]
    assert len(found.lost_to_bits()) == crossed[0, 2]
    worst = found.worst(1000)
    assert len(worst) == 60 and np.diff(found.ap[CODES][worst]).min() >= 0
    scores = found.class_scores()
    assert sum(each.n_queries for each in scores) == 60 and "alone" not in {each.label for each in scores}
    assert np.average([each.hit1 for each in scores], weights=[each.n_queries for each in scores]) == pytest.approx(
        found.results[CODES].scores["hit@1"].expected
    )
    assert found.distances.same_D.sum() == 5 * 12 * 11
    loss, (low, high) = found.loss("map@all")
    assert low <= loss <= high
    assert found.results[TWO_STAGE].scores["map@all"].expected > found.results[CODES].scores["map@all"].expected


def test_the_best_queries_are_of_different_classes(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 5}" for i in range(60)] + ["", "alone"])
    found = analysed(table, encodings)
    best = found.best(10)
    assert len(best) == 5 and len({int(found.labels_Q[query]) for query in best}) == 5
    assert found.ap[CODES][best[0]] == np.nanmax(found.ap[CODES]) and found.best(2) == best[:2]
    for query in best:
        of_class = found.labels_Q == found.labels_Q[query]
        assert found.ap[CODES][query] == found.ap[CODES][of_class].max()


def test_each_class_has_both_scores_and_what_it_is_taken_for(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 5}" for i in range(60)])
    found = analysed(table, encodings)
    scores = found.class_scores()
    for name, hit1, ap in ((CODES, "hit1", "ap"), (FEATURES, "float_hit1", "float_ap")):
        assert np.mean([getattr(each, hit1) for each in scores]) == pytest.approx(found.results[name].scores.top1)
        assert np.mean([getattr(each, ap) for each in scores]) == pytest.approx(np.nanmean(found.ap[name]))
    for each in scores:
        wrong = {
            answered: count
            for asked, answered, count in zip(*(column.tolist() for column in found.answers), strict=True)
            if found.classes[asked] == each.label and answered != asked
        }
        assert each.taken_for == (found.classes[max(wrong, key=lambda answered: wrong[answered])] if wrong else "")


def test_curves_agree_with_the_scores(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 5}" for i in range(60)])
    found = analysed(table, encodings)
    for name in (CODES, FEATURES):
        curve, scores = found.curves[name], found.results[name].scores
        for k in (1, 5, 10):
            assert curve.hit_K[k - 1] == pytest.approx(scores[f"hit@{k}"].expected)
            assert curve.precision_K[k - 1] == pytest.approx(scores[f"precision@{k}"].expected)
    assert found.radius_curve.recall_D[-1] == pytest.approx(1) and len(found.radius_curve.recall_D) == 17


def turned(table: PictureTable) -> PictureTable:
    n = len(table)
    times = ["morning", "noon", "night"]
    table.attributes = {"view": [str(15 * i % 360) for i in range(n)], "time": [times[i // 5 % 3] for i in range(n)]}
    return table


def test_maps_of_view_and_light(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 5}" for i in range(60)])
    assert not analysed(table, encodings).conditions
    found = analysed(turned(table), encodings)
    document = found.as_dict()["top1_by_condition"]
    assert list(document) == [analysis.TURN, analysis.LIGHT]
    light = document[analysis.LIGHT]
    assert light["rows"] == ["morning", "noon", "night", "all"] and light["columns"] == light["rows"][:3]
    assert light["queries"][3] == [60, 60, 60] and light["findable"][0][1] == pytest.approx(4)
    top1 = np.array(light["top1"][CODES])
    assert top1[3] == pytest.approx(top1[:3].mean(axis=0))
    parsed = checked(page.render(facts(), found, 3))
    text = "".join(parsed.text)
    assert "View and light" in text and parsed.tags["table"] >= 8 and "165°" in text
    json.dumps(document, allow_nan=False)


def test_what_cannot_be_turned_is_left_out(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, ["a", "a", "b"])
    turned(table).attributes["view"][0] = "front"
    assert "View and light" not in page.render(facts(), analysed(table, encodings), 3)


# ---- the map of the pictures


class FakeUMAP:
    """The first two numbers of the features as places; warns as umap does."""

    def __init__(self, **settings: Any) -> None:
        assert settings == {"n_neighbors": 15, "metric": "cosine", "random_state": picture_map.SEED, "n_jobs": 1}

    def fit_transform(self, features: np.ndarray) -> np.ndarray:
        warnings.warn(
            "Graph is not fully connected, spectral embedding may not work as expected.", UserWarning, stacklevel=1
        )
        return features[:, :2]


@pytest.fixture
def fake_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUMAP, __spec__=ModuleSpec("umap", None)))


@pytest.mark.usefixtures("fake_umap")
def test_pictures_are_laid_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert picture_map.is_installed()
    table, encodings = made(tmp_path, [f"c{i % 25}" for i in range(75)])
    table.splits = ["train"] * 50 + ["test"] * 25
    found = analyse(table, np.arange(75), encodings, GalleryRule("self"), with_map=True)
    assert found.picture_map is not None and found.picture_map.rows_P.tolist() == list(range(75))
    assert found.picture_map.places_P2 == pytest.approx(encodings.features_ND[:, :2])
    html = page.render(facts(), found, 0)
    text = "".join(checked(html).text)
    for title in ("All classes", "20 random classes", "test against train", "The float features of 75 pictures, laid"):
        assert title in text
    assert html == page.render(facts(), found, 0)
    monkeypatch.setattr(picture_map, "MOST_POINTS", 60)
    found = analyse(table, np.arange(75), encodings, GalleryRule("self"), with_map=True)
    assert found.picture_map is not None and len(set(found.picture_map.rows_P.tolist())) == 60
    assert "60 of 75 pictures, drawn at random," in page.render(facts(), found, 0)


@pytest.mark.usefixtures("fake_umap")
def test_few_pictures_have_no_map(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, ["a", "b"] * 24)
    found = analyse(table, np.arange(48), encodings, GalleryRule("self"), with_map=True)
    assert found.picture_map is None and "fewer than 50 pictures" in page.render(facts(), found, 0)


def test_without_umap_the_page_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_map, "is_installed", lambda: False)
    table, encodings = made(tmp_path, ["a", "b"] * 24)
    text = "".join(checked(page.render(facts(), analysed(table, encodings), 0)).text)
    assert "pip install 'hashret[umap]'" in text


@pytest.mark.slow
def test_classes_are_islands_of_the_map() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("umap", exc_type=ImportError)
    rng = np.random.default_rng(0)
    labels_N = np.repeat(np.arange(4), 30)
    features = unit(rng, 4, 32)[labels_N] + 0.1 * unit(rng, 120, 32)
    found = picture_map.lay_out(features.astype(np.float32), np.arange(120))
    assert found is not None
    apart = np.linalg.norm(found.places_P2[:, None] - found.places_P2[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels_N[apart.argmin(axis=1)] == labels_N).mean() > 0.95
    again = picture_map.lay_out(features.astype(np.float32), np.arange(120))
    assert again is not None and (again.places_P2 == found.places_P2).all()


def test_votes_fit_the_classes() -> None:
    assert analysis.votes_to_ask(np.repeat([0, 1], 50)) == 10
    assert analysis.votes_to_ask(np.repeat([0, 1], 6)) == 5
    assert analysis.votes_to_ask(np.arange(9)) == 3


# ---- the page


class Balanced(HTMLParser):
    """Checks that every element is closed where HTML asks for it, and collects what a page refers to."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: list[str] = []
        self.starts: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags[tag] += 1
        self.starts.append((tag, values))
        self.links += [str(values[name]) for name in ("href", "src", "srcset", "action", "poster") if name in values]
        if "id" in values:
            self.ids[str(values["id"])] += 1
        if tag == "img":
            self.images.append(values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> Balanced:
    parsed = Balanced()
    parsed.feed(html)
    parsed.close()
    assert not parsed.open
    assert html.startswith("<!doctype html>") and page.GENERATOR in html[:4096]
    assert (
        "http:" not in html
        and "https:" not in html
        and "//" not in re.sub(r"data:image/\w+;base64,[\w+/=\n]+", "", html)
    )
    assert parsed.tags["script"] == 1 and parsed.tags["link"] == 0
    script = html[html.rindex("<script>") + 8 : html.rindex("</script>")]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in html[:4096]
    assert all(link.startswith(("#", "data:image/")) for link in parsed.links)
    assert all(image.get("alt") for image in parsed.images)
    assert max(parsed.ids.values()) == 1
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    assert not any(name.startswith("on") for _, values in parsed.starts for name in values)
    return parsed


HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "기아 & 현대", "كيا سبورتاج", "x" * 9000, "2024", "{{ 7*7 }}",
    "a\nb\tc\x00", "\u202eabc",
]  # fmt: skip


def test_hostile_labels_and_ids_are_only_text(tmp_path: Path) -> None:
    names = [f"{label}/{i}" for i in range(4) for label in HOSTILE]
    table, encodings = made(tmp_path / "<b>", [label for _ in range(4) for label in HOSTILE], names)
    document = {**facts().document, "options": {"backbone": "</style><script>", "note": ["<i>", None]}, "data": "<u>"}
    named = replace(table.select(np.arange(9)), attributes={"neighbours": HOSTILE})
    run = facts(
        name="<script>",
        document=document,
        findings=["<script>collapse</script>"],
        suspects=named,
        commands=[("Again", "rm '</pre>'")],
    )
    html = page.render(run, analysed(table, encodings), 12)
    parsed = checked(html)
    text = "".join(parsed.text)
    assert (
        "<script>alert(1)</script>" in text and "기아 & 현대" in text and "كيا سبورتاج" in text and "{{ 7*7 }}" in text
    )
    assert "<script>collapse</script>" in text and "9 training pictures have neighbours" in text
    assert "a\\nb\\tc\\x00" in text and "rm '</pre>'" in text
    assert "x" * 200 not in html and "\x00" not in html
    assert len(parsed.images) > 50


def test_labels_that_the_run_doubted_are_not_doubted_again(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, ["a", "a", "b", "b", "b"])
    thirds = np.full(3, 1 / 3)
    suspects = labels.Suspects(np.array([3, 0, 2]), np.array([0, 1, 0]), thirds, thirds)
    doubted = replace(analysed(table, encodings), suspects=suspects)
    left = doubted.without_suspects({table.ids[0], "of another table"})
    assert left.suspects.queries_S.tolist() == [3, 2] and left.suspects.labels_S.tolist() == [0, 0]


def test_the_same_numbers_give_the_same_page(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 4}" for i in range(40)])
    pages = [page.render(facts(), analysed(table, encodings), 5) for _ in range(2)]
    assert pages[0] == pages[1]


def test_every_section_says_what_it_shows(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 4}" for i in range(40)])
    text = "".join(checked(page.render(facts(), analysed(table, encodings), 12)).text)
    titles = (
        "Curves,Bit health,Float against binary,Precision and recall,At least one right,Worst queries,Best queries,"
        "Confused classes,Class by class,Map of the pictures,Suspected wrong labels,Settings"
    )
    assert all(title in text for title in titles.split(","))
    for name in ("codes: 16 bits", "two-stage", "logits: 16 numbers", "features: 32 numbers"):
        assert name in text
    assert "ties:exact-expectation" in text and "This is epoch 2 of 2. It was the best by validation mAP." in text


@pytest.mark.parametrize("examples", [0, 1])
def test_few_or_no_examples(tmp_path: Path, examples: int) -> None:
    table, encodings = made(tmp_path, ["a", "a", "b", "b"])
    parsed = checked(page.render(facts(history=[{"epoch": 1, "loss": 1.0}]), analysed(table, encodings), examples))
    assert bool(parsed.images) == bool(examples)


def test_an_old_or_bare_run_has_a_page(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, ["a", "a", "b", "b", "b"])
    run = facts(
        document={"status": "running", "source": None, "options": {}}, history=[], model_epoch=None, validated=False
    )
    text = "".join(checked(page.render(run, analysed(table, encodings), 3)).text)
    assert "The run is not finished" in text and "The run has no log with numbers" in text


def test_collapsed_codes(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, ["a", "b"] * 20)
    same = Encodings(
        16, np.zeros_like(encodings.codes_NB), np.zeros_like(encodings.logits_NK) - 1, encodings.features_ND * 0
    )
    text = "".join(checked(page.render(facts(), analysed(table, same), 3)).text)
    assert "16 of 16 bits never change" in text and "400 pairs have two labels and equal codes" in text


def test_many_classes_and_noise_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 classes; pictures of noise, which JPEG cannot shrink."""
    table, encodings = made(tmp_path, [f"class number {i % 2000}" for i in range(4000)], size=24)
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    noise.save(table.paths[0])
    html = page.render(facts(), analysed(table, encodings), 12)
    parsed = checked(html)
    assert len(html.encode()) < 5_000_000 and parsed.tags["tr"] < 900 and len(parsed.images) > 100


def test_beyond_the_limit_pictures_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, encodings = made(tmp_path, [f"c{i % 4}" for i in range(40)])
    monkeypatch.setattr(thumbnails, "BYTE_LIMIT", 20_000)
    html = page.render(facts(), analysed(table, encodings), 12)
    parsed = checked(html)
    assert sum(len(str(image["src"])) for image in parsed.images) <= 20_000
    assert re.search(r"\d+ pictures are not shown, to keep the page small", "".join(parsed.text))


def test_a_picture_that_went_away_is_blank(tmp_path: Path) -> None:
    table, _ = made(tmp_path, ["a"])
    table.paths[0] = str(tmp_path / "gone.png")
    assert thumbnails.Thumbnails(table).uri(0) == ""


def test_readable_text() -> None:
    assert page_text.readable("a\x1bb\ud800") == "a\\x1bb\\ud800"
    assert page_text.readable("x" * 500) == "x" * page_text.LONGEST_TEXT + "…"
    assert page_text.readable("\u1100\u1161") == "가"


def test_the_verdict_warns_when_the_run_scored_otherwise(tmp_path: Path) -> None:
    table, encodings = made(tmp_path, [f"c{i % 4}" for i in range(40)])
    found = analysed(table, encodings)
    score = found.results[CODES].scores["map@all"].expected
    said = " ".join(verdict.sentences(facts(logged={"map": score + 0.1}), found))
    assert f"scored mAP {score + 0.1:.4f}, not {score:.4f}" in said
    assert "scored mAP" not in " ".join(verdict.sentences(facts(logged={"map": score + 1e-4}), found))
    assert "expect a little less" not in " ".join(verdict.sentences(facts(validated=False), found))
