"""Codes fitted to features without labels: against plain loops, on what is hard for them, and as stored models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashret import codes
from hashret.data.embeddings import open_embeddings, read_ids
from hashret.errors import DataError, ModelError, UsageError
from hashret.evaluation import neighbours
from hashret.evaluation.neighbours import float_neighbours, recall_of_codes
from hashret.model import Hasher, build
from hashret.model.heads import ProjectionHead
from hashret.model.projection import Projection, codes_of, unit_vectors
from hashret.training import posthoc

GOLDEN = Path(__file__).parent / "golden" / "model-v2"
TINY = "shufflenet_v2_x0_5"


def clustered(n: int = 600, dim: int = 48, clusters: int = 30, seed: int = 0) -> np.ndarray:
    """Vectors around centres, more spread along some axes than others, as features of networks are."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(3, 0.3, dim)
    centres = rng.normal(0, 1, (clusters, dim)) * scale
    return (centres[rng.integers(0, clusters, n)] + rng.normal(0, 0.45, (n, dim)) * scale + 1).astype(np.float32)


# ---- ITQ


def itq_by_loops(values: list[list[float]], rotation: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Gong & Lazebnik's iterations, number by number."""
    n, width = len(values), len(values[0])
    losses = []
    for _ in range(posthoc.ITERATIONS):
        loss = 0.0
        products = np.zeros((width, width))
        for row in values:
            turned = [sum(row[i] * rotation[i, j] for i in range(width)) for j in range(width)]
            signs = [1.0 if value > 0 else -1.0 for value in turned]
            loss += sum((sign - value) ** 2 for sign, value in zip(signs, turned, strict=True))
            for i in range(width):
                for j in range(width):
                    products[i, j] += signs[i] * row[j]
        losses.append(loss)
        # Of C = B'V = S O S^', the rotation is S^ S': their equation 4.
        s, _, s_hat = np.linalg.svd(products)
        rotation = s_hat.T @ s.T
    assert n
    return rotation, losses


@pytest.mark.parametrize(("n", "width", "seed"), [(40, 5, 0), (25, 3, 1), (8, 6, 2), (3, 4, 3), (1, 2, 4)])
def test_itq_is_the_iterations_of_its_source(n: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1, (n, width)).astype(np.float32)
    rotation, losses = posthoc.itq_rotation(values, np.random.default_rng(seed))
    first = posthoc.random_rotation(width, np.random.default_rng(seed))
    expected, expected_losses = itq_by_loops(values.astype(float).tolist(), first)
    assert np.allclose(losses, expected_losses, rtol=1e-4, atol=1e-4)
    if n > width:  # else many rotations are equally good
        assert np.allclose(rotation, expected, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_the_loss_never_rises_and_the_rotation_stays_one(scale: float) -> None:
    values = (np.random.default_rng(0).normal(0, scale, (500, 24)) * np.linspace(2, 0.2, 24)).astype(np.float32)
    reported: list[int] = []
    rotation, losses = posthoc.itq_rotation(values, np.random.default_rng(0), lambda: reported.append(1))
    assert (np.diff(losses) <= 1e-6 * losses[0]).all() and losses[-1] < 0.999 * losses[0]
    assert len(losses) == len(reported) == posthoc.ITERATIONS
    assert np.allclose(rotation @ rotation.T, np.eye(24), atol=1e-12)
    turned = values @ rotation
    last = np.square(np.where(turned > 0, 1, -1) - turned).sum()
    assert last <= losses[-1] * (1 + 1e-6)


def test_random_rotations_are_rotations_and_differ() -> None:
    rng = np.random.default_rng(0)
    one, two = posthoc.random_rotation(7, rng), posthoc.random_rotation(7, rng)
    assert np.allclose(one @ one.T, np.eye(7)) and np.abs(one - two).max() > 0.1


# ---- principal components


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (12, 200), (30, 30)])
def test_components_are_those_of_a_singular_value_decomposition(n: int, dim: int) -> None:
    vectors = np.random.default_rng(n).normal(0, 1, (n, dim)) * np.linspace(3, 1, dim) + 2
    found = posthoc.principal_components(vectors, 5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    _, _, expected = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs((found.components_RD * expected[:5]).sum(axis=1)), 1, atol=1e-4)
    assert np.allclose(found.mean_D, unit.mean(axis=0), atol=1e-6)
    largest = np.abs(found.components_RD).argmax(axis=1)
    assert (found.components_RD[np.arange(5), largest] > 0).all()
    deviations = (found.centred_ND @ found.components_RD.T).std(axis=0)
    assert (np.diff(deviations) <= 1e-6).all()


def test_components_that_are_rounding_are_left_out() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 1, (50, 3)) @ rng.normal(0, 1, (3, 40))
    # Of length 1 they lie on a sphere in those three dimensions.
    assert len(posthoc.principal_components(flat, 99).components_RD) == 3
    assert len(posthoc.principal_components(flat[:2], 99).components_RD) == 1
    for constant in (np.ones((9, 4)), flat[:1], np.repeat(flat[:1].astype(np.float32), 200, axis=0)):
        none = posthoc.principal_components(constant, 99)
        assert len(none.components_RD) == 0 and not none.mean_D.any()


def test_more_vectors_than_the_sample_are_drawn_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posthoc, "SAMPLE", 300)
    vectors = clustered(2000)
    one, same, other = (posthoc.principal_components(vectors, 8, seed) for seed in (0, 0, 1))
    assert len(one.centred_ND) == 300
    assert (one.components_RD == same.components_RD).all() and (one.mean_D != other.mean_D).any()
    whole = clustered(2000)[np.sort(np.random.default_rng(0).choice(2000, 300, replace=False))]
    assert np.allclose(one.mean_D, unit_vectors(whole).mean(axis=0), atol=1e-6)


# ---- codes


def recalls(vectors: np.ndarray, bits: int, within: int = 10) -> dict[str, float]:
    principal = posthoc.principal_components(vectors, bits)
    heads = [method(principal, bits) for method in (posthoc.itq, posthoc.pca_sign, posthoc.lsh)]
    truth = float_neighbours(vectors)
    found = [
        recall_of_codes(made, bits, truth, [within])[f"recall@{within}"].expected for made in codes_of(heads, vectors)
    ]
    return dict(zip(("itq", "pca", "lsh"), found, strict=True))


@pytest.mark.parametrize("bits", [16, 32])
def test_itq_keeps_more_neighbours_than_pca_and_that_more_than_chance(bits: int) -> None:
    found = recalls(clustered(1500, clusters=100), bits)
    assert found["itq"] > found["pca"] + 0.04 > found["lsh"] + 0.08


def test_more_bits_than_components_keep_more() -> None:
    vectors = clustered(1500, dim=20)
    found = {bits: recalls(vectors, bits) for bits in (16, 64, 256)}
    assert found[64]["itq"] > found[16]["itq"] + 0.1 and found[256]["itq"] > found[64]["itq"] + 0.1
    assert found[256]["itq"] > found[256]["lsh"] - 0.01
    assert math.isclose(found[256]["pca"], found[64]["pca"]), "there are 20 principal components"
    few = recalls(clustered(60, dim=512), 256)
    assert few["itq"] > 0.45 and few["itq"] > few["pca"] + 0.1


@pytest.mark.parametrize("bits", [1, 7, 64, 256, 1024])
@pytest.mark.parametrize(
    ("n", "dim"), [(1, 1), (1, 9), (2, 1), (2, 9), (3, 2), (19, 300), (40, 3)], ids=lambda value: str(value)
)
def test_any_number_of_vectors_gives_codes(n: int, dim: int, bits: int) -> None:
    vectors = np.random.default_rng(n).normal(0, 1, (n, dim))
    for method in (posthoc.itq, posthoc.pca_sign, posthoc.lsh):
        head = method(posthoc.principal_components(vectors, bits), bits)
        assert head.directions.shape == (bits, dim) and bool(torch.isfinite(head.directions).all())
        (made,) = codes_of([head], vectors)
        assert made.shape == (n, codes.bytes_per_code(bits))


def test_two_vectors_get_opposite_codes_and_equal_ones_the_same() -> None:
    two = np.array([[1.0, 2, 3], [3, -1, 2]])
    (made,) = codes_of([posthoc.itq(posthoc.principal_components(two, 64), 64)], two)
    assert np.bitwise_count(made[0] ^ made[1]).sum() == 64
    same = np.repeat(two[:1], 5, axis=0)
    head = posthoc.itq(posthoc.principal_components(same, 64), 64)
    (made,) = codes_of([head], same)
    assert (made == made[0]).all()
    # Others are told apart by their angle, though nothing was to be learnt from the first.
    near, far = codes_of([head], np.array([[1.0, 2, 3.3], [-1.0, 2, -3]]))[0]
    assert np.bitwise_count(made[0] ^ near).sum() < 12 < 20 < np.bitwise_count(made[0] ^ far).sum()


def test_the_length_of_vectors_and_their_precision_do_not_matter() -> None:
    vectors = clustered(200)
    head = posthoc.itq(posthoc.principal_components(vectors, 32), 32)
    (made,) = codes_of([head], vectors)
    for other in (vectors.astype(np.float64) * 1e200, vectors / 7, np.asfortranarray(vectors), vectors.astype(">f8")):
        (again,) = codes_of([head], other)
        assert np.unpackbits(made ^ again).sum() <= 2
    for wrong in (np.zeros((1, 48)), np.full((1, 48), np.nan), np.full((1, 48), np.inf)):
        with pytest.raises(UsageError, match="vector 0 is all zeros or holds NaN or infinity"):
            codes_of([head], wrong)


def test_the_same_seed_gives_the_same_head() -> None:
    principal = posthoc.principal_components(clustered(300), 64)
    for method in (posthoc.itq, posthoc.pca_sign, posthoc.lsh):
        one, two = (method(principal, 64, 3).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(posthoc.lsh(principal, 64).directions[:16], posthoc.lsh(principal, 16).directions)


# ---- what is kept of the float neighbours


def test_float_neighbours_are_the_nearest_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "QUERIES", 40)
    vectors = clustered(150)
    found = float_neighbours(vectors)
    assert found.n == 150 and len(found.queries_Q) == 40 and (np.diff(found.queries_Q) > 0).all()
    unit = unit_vectors(vectors).astype(float)
    for row, nearest in zip(found.queries_Q.tolist(), found.nearest_QT.tolist(), strict=True):
        similarities = unit @ unit[row]
        similarities[row] = -np.inf
        assert nearest == np.argsort(-similarities, kind="stable")[:10].tolist()


def test_a_picture_is_not_its_own_neighbour_among_its_copies() -> None:
    vectors = np.repeat(clustered(2), 30, axis=0)
    found = float_neighbours(vectors)
    assert (found.nearest_QT != found.queries_Q[:, None]).all()
    assert (found.nearest_QT // 30 == found.queries_Q[:, None] // 30).all()
    assert all(len(set(row)) == 10 for row in found.nearest_QT.tolist())
    assert float_neighbours(vectors[:4]).nearest_QT.shape == (4, 3)


def test_large_folders_are_measured_on_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_PAIRS", 600 * 300)
    assert len(float_neighbours(clustered(600)).queries_Q) == 300
    monkeypatch.setattr(neighbours, "_PAIRS", 1)
    assert len(float_neighbours(clustered(600)).queries_Q) == neighbours.FEWEST_QUERIES


def test_recall_is_the_expected_share_over_orders_of_equal_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 700)  # several chunks, the last a short one
    vectors = clustered(120)
    (made,) = codes_of([posthoc.itq(posthoc.principal_components(vectors, 6), 6)], vectors)
    truth = float_neighbours(vectors)
    scores = recall_of_codes(made, 6, truth, [10, 30])
    for k in (10, 30):
        expected = []
        for row, nearest in zip(truth.queries_Q.tolist(), truth.nearest_QT.tolist(), strict=True):
            distances = np.bitwise_count(made ^ made[row]).sum(axis=1).astype(int)
            others = np.delete(distances, row)
            shares = [
                min(max(k - int((others < d).sum()), 0) / int((others == d).sum()), 1.0) for d in distances[nearest]
            ]
            expected.append(np.mean(shares))
        assert math.isclose(scores[f"recall@{k}"].expected, np.mean(expected), rel_tol=1e-12)
    assert "denominator:relevant" in scores.signature("recall@10") and "bits:6" in scores.signature("recall@10")


def test_two_stage_recall_is_that_of_the_candidates(tmp_path: Path) -> None:
    from hashret.index import CosineIndex, HammingIndex
    from hashret.index.store import Store

    vectors = clustered(400)
    (made,) = codes_of([posthoc.itq(posthoc.principal_components(vectors, 64), 64)], vectors)
    store = Store.create(tmp_path / "i", code_size=64, dim=48, feature_dtype="float16")
    store.append(made, vectors)
    truth = float_neighbours(vectors, "float16")
    index = HammingIndex.load(tmp_path / "i")
    _, found, _ = index.search_two_stage(made, 11, 51, features=vectors)
    by_float = CosineIndex.load(tmp_path / "i").search(vectors, 11)[1]
    shares = []
    for row, nearest in zip(truth.queries_Q.tolist(), truth.nearest_QT.tolist(), strict=True):
        assert set(nearest) == set(by_float[row].tolist()) - {row}
        shares.append(len(set(nearest) & (set(found[row].tolist()) - {row})) / 10)
    # The search takes codes at equal distance in the order of rows, the score all orders.
    assert abs(recall_of_codes(made, 64, truth, [50])["recall@50"].expected - np.mean(shares)) < 0.02


# ---- as stored models


@pytest.fixture
def projection() -> Projection:
    return Projection(posthoc.itq(posthoc.principal_components(clustered(100, dim=9), 12), 12))


def test_a_projection_comes_back_as_it_was_saved(projection: Projection, tmp_path: Path) -> None:
    vectors = clustered(50, dim=9, seed=1)
    projection.protocol, projection.scores = {"data": "차"}, {"recall": 0.25}
    folder = projection.save_pretrained(tmp_path / "모델")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = Projection.from_pretrained(folder)
    assert (again.code_size, again.feature_size) == (12, 9)
    assert again.fingerprint() == projection.fingerprint() and again.config == projection.config
    assert (again.embed(vectors) == projection.embed(vectors)).all()
    (made,) = codes_of([projection.head], vectors)
    assert (codes.binarize(again.embed(vectors)) == made).all() and (again.encode(vectors) == made).all()
    again.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert sorted(first) == ["config.json", "model.safetensors"]
    with pytest.raises(ModelError, match="plain JSON"):
        again.scores = {"recall": math.nan}
        again.save_pretrained(folder)
    with torch.no_grad():
        again.head.mean[0] += 1e-6
    assert again.fingerprint() != projection.fingerprint()
    with pytest.raises(UsageError, match=r"shape \(3, 8\), expected \(N, 9\)"):
        projection.embed(np.ones((3, 8), np.float32))


def with_projection(code_size: int = 20) -> Hasher:
    torch.manual_seed(0)
    made = build(TINY, 1, image_size=32, head="projection")
    rng = np.random.default_rng(0)
    principal = posthoc.principal_components(rng.random((64, made.feature_size)), code_size)
    made.network.use_head(posthoc.itq(principal, code_size))
    return made


def test_a_network_with_a_projection_is_an_ordinary_model(tmp_path: Path) -> None:
    made = with_projection()
    made.save_pretrained(tmp_path / "m")
    again = Hasher.from_pretrained(tmp_path / "m", device="cpu")
    assert again.config == made.config and again.fingerprint() == made.fingerprint()
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert (again.embed(pictures) == made.embed(pictures)).all() and again.encode(pictures).shape == (3, 3)
    logits, features = again.run(pictures)
    expected = (features - made.network.head.mean.numpy()) @ made.network.head.directions.numpy().T
    assert np.allclose(logits, expected, atol=1e-6)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["format_version"], config["head"]) == (2, {"kind": "projection"}) and "activation" not in config


def test_trained_models_stay_in_version_1_and_keep_their_fingerprints(tmp_path: Path) -> None:
    made = build(TINY, 8, image_size=32)
    with torch.no_grad():
        for tensor in made.network.state_dict().values():
            tensor.fill_(1)
    # As version 0.1.0 computed it before there were other heads.
    assert made.fingerprint() == FINGERPRINT_OF_ONES
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format_version"] == 1 and "head" not in config


FINGERPRINT_OF_ONES = "eb6e1140c5d37039e9d43c6330c48f83ded427c44bd32150fd8b2c4cd9bfb0d1"


def test_training_starts_from_the_network_of_fitted_codes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = with_projection(20)
    made.save_pretrained(tmp_path / "m")
    with caplog.at_level("INFO", logger="hashret.model"):
        started = build(TINY, 20, weights=tmp_path / "m", image_size=32)
    assert "were fitted to features; a new hash head starts at random" in caplog.text
    own, theirs = started.network.backbone.state_dict(), made.network.backbone.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    # And codes are fitted anew to the network of a trained model, whatever its code size.
    trained = build(TINY, 1, image_size=32)
    trained.save_pretrained(tmp_path / "t")
    fitted = build(TINY, 1, weights=tmp_path / "t", image_size=32, head="projection")
    assert isinstance(fitted.network.head, ProjectionHead) and not fitted.network.head.directions.any()
    with pytest.raises(UsageError, match="hash or projection"):
        build(TINY, 8, image_size=32, head="linear")


def test_pictures_and_embeddings_do_not_take_each_others_models(projection: Projection, tmp_path: Path) -> None:
    projection.save_pretrained(tmp_path / "p")
    with_projection().save_pretrained(tmp_path / "n")
    with pytest.raises(ModelError, match="makes codes of embeddings and has no network that takes pictures"):
        Hasher.from_pretrained(tmp_path / "p", device="cpu")
    with pytest.raises(ModelError, match="makes codes of pictures by a network, not of embeddings"):
        Projection.from_pretrained(tmp_path / "n")


def _edited(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_edited(format_version=4), "install a newer hashret"),
        (_edited(format_version=1, architecture={"backbone": None}), "cannot be used"),
        (
            _edited(architecture={"backbone": None, "feature_size": 8}),
            "head.mean of shape (9,), but config.json means (8,)",
        ),
        (_edited(architecture={"backbone": None, "feature_size": -3}), "cannot be used"),
        (_edited(architecture=None), "cannot be used"),
        (_edited(code_size=4096), "1 to 1024"),
        (_edited(code_size=13), "shape"),
        (_edited(head={"kind": "hash"}), "its head is no projection"),
        (_edited(thresholds=[0.5] * 12), "without thresholds"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage"), "damaged"),
    ],
    ids=[
        "newer",
        "version 1",
        "other width",
        "negative width",
        "no architecture",
        "huge code",
        "other size",
        "other head",
        "thresholds",
        "garbage",
    ],
)
def test_a_damaged_projection_is_named(
    damage: Callable[[Path], Any], words: str, projection: Projection, tmp_path: Path
) -> None:
    projection.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        Projection.from_pretrained(tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"head": {"kind": "cubic"}}, {"head": None}, {"head": "projection"}])
def test_an_unknown_head_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with_projection().save_pretrained(tmp_path)
    _edited(**changes)(tmp_path)
    with pytest.raises(ModelError, match="cannot be used"):
        Hasher.from_pretrained(tmp_path, device="cpu")


def golden_head() -> ProjectionHead:
    """What the golden model holds: a mean of sixteenths and directions of small whole numbers."""
    head = ProjectionHead(5, 12)
    numbers = torch.arange(60, dtype=torch.float32)
    directions = (numbers * 7 % 11 - 5).reshape(12, 5)
    head.load_state_dict({"mean": torch.arange(5) / 16, "directions": directions})
    return head


def write_golden(folder: Path) -> None:
    """How tests/golden/model-v2 was made; never run again for that version, whose bytes stay as they are."""
    Projection(golden_head()).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["golden", "fresh"])
def test_the_golden_model_of_version_2_is_read(tmp_path: Path, kind: str) -> None:
    folder = GOLDEN
    if kind == "fresh":
        folder = tmp_path / "m"
        write_golden(folder)
    read, expected = Projection.from_pretrained(folder).head, golden_head()
    assert torch.equal(read.mean, expected.mean) and torch.equal(read.directions, expected.directions)
    assert Projection(read).fingerprint() == GOLDEN_FINGERPRINT


GOLDEN_FINGERPRINT = "1f68448ab8028a20c3dc764f153b7359c3d3ae469efd4ec37b6f4d0ca4e2be10"


# ---- embeddings in a file


def saved(file: Path, array: Any, **how: Any) -> Path:
    np.save(file, array, **how)
    return file


def test_embeddings_are_mapped_whatever_their_precision(tmp_path: Path) -> None:
    vectors = clustered(7, dim=5)
    for kind in ("<f2", "<f4", ">f4", "<f8"):
        found = open_embeddings(saved(tmp_path / "벡터.npy", vectors.astype(kind)))
        assert np.allclose(found, vectors, rtol=1e-2) and isinstance(found.base, np.memmap)
    found = open_embeddings(saved(tmp_path / "f.npy", np.asfortranarray(vectors)))
    assert (found == vectors).all()
    assert open_embeddings(saved(tmp_path / "one.npy", vectors[0]), one_is_a_row=True).shape == (1, 5)


def test_what_is_no_file_of_embeddings_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npy"
    bad = clustered(9, dim=5)
    bad[6, 2] = np.nan
    zero = clustered(9, dim=5)
    zero[8] = 0
    infinite = clustered(9, dim=5)
    infinite[0, 0] = -np.inf
    np.savez(tmp_path / "x.npz", bad)
    (tmp_path / "text.npy").write_text("1,2,3")
    (tmp_path / "empty.npy").touch()
    saved(tmp_path / "cut.npy", clustered(9, dim=5))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    monkeypatch.setattr("hashret.data.embeddings._NUMBERS_AT_ONCE", 15)  # three rows at a time
    for given, words in (
        (tmp_path / "none.npy", "there is no file"),
        (tmp_path, "there is no file"),
        (tmp_path / "x.npz", "is no .npy array of numbers"),
        (tmp_path / "text.npy", "is no .npy array of numbers"),
        (tmp_path / "empty.npy", "is no .npy array of numbers"),
        (tmp_path / "cut.npy", "is no .npy array of numbers"),
        (np.array([{"code": "run"}], object), "is no .npy array of numbers"),
        (np.arange(6).reshape(2, 3), "int64 of shape (2, 3), expected floats of shape (N, D)"),
        (np.ones((2, 3), complex), "complex128"),
        (np.ones(5), "shape (5,), expected floats"),
        (np.ones((2, 3, 4)), "(2, 3, 4)"),
        (np.ones(()), "()"),
        (np.ones((3, 0)), "(3, 0)"),
        (np.ones((0, 3)), "holds no vectors"),
        (bad, "row 6 of"),
        (zero, "row 8 of"),
        (infinite, "row 0 of"),
    ):
        path = given if isinstance(given, Path) else saved(file, given, allow_pickle=True)
        with pytest.raises(DataError) as caught:
            open_embeddings(path)
        assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_ids_are_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeff하나\r\ntwo words\r\n  3 ".encode())
    assert read_ids(file, 3) == ["하나", "two words", "3"]
    for text, n, words in (
        ("a\nb\n", 3, "2 ids for 3 rows"),
        ("a\n\nb\n", 3, "line 2 of"),
        ("a\nb\na\n", 3, "'a' stands twice"),
        ("", 1, "line 1 of"),
    ):
        file.write_text(text)
        with pytest.raises(DataError) as caught:
            read_ids(file, n)
        assert words in str(caught.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        read_ids(file, 1)
    with pytest.raises(DataError, match="there is no file"):
        read_ids(tmp_path / "none", 1)
