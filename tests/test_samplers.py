"""PK batches: the right shape, honest epochs, the same plan for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashret.data.samplers import PKSampler, ShuffleSampler


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 30), min_size=3, max_size=12),
    p=st.integers(2, 3),
    k=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
def test_batches_hold_p_classes_of_k_pictures(sizes: list[int], p: int, k: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    sampler = PKSampler(labels, classes_per_batch=p, pictures_per_class=k, seed=seed)
    batches = list(sampler.epoch(3))
    assert len(batches) == len(sampler)
    for batch in batches:
        assert batch.shape == (p * k,)
        by_class = labels[batch].reshape(p, k)
        assert (by_class == by_class[:, :1]).all()
        assert len(set(by_class[:, 0])) == p
        for rows, cls in zip(batch.reshape(p, k), by_class[:, 0], strict=True):
            if sizes[cls] >= k:
                assert len(set(rows)) == k, "a picture beside its own copy"
    again = list(sampler.epoch(3))
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


@settings(deadline=None, max_examples=60)
@given(size=st.integers(2, 40), classes=st.integers(4, 12), k=st.integers(2, 6), seed=st.integers(0, 1000))
def test_an_epoch_shows_every_picture_of_even_classes(size: int, classes: int, k: int, seed: int) -> None:
    labels = np.repeat(np.arange(classes), size)
    sampler = PKSampler(labels, classes_per_batch=4, pictures_per_class=k, seed=seed)
    seen = np.concatenate(list(sampler.epoch(0)))
    assert set(seen) == set(range(len(labels)))


def test_epochs_and_seeds_differ() -> None:
    labels = np.repeat(np.arange(8), 10)
    sampler = PKSampler(labels, classes_per_batch=4, pictures_per_class=5, seed=0)
    other = PKSampler(labels, classes_per_batch=4, pictures_per_class=5, seed=1)
    first = np.concatenate(list(sampler.epoch(0)))
    assert (first != np.concatenate(list(sampler.epoch(1)))).any()
    assert (first != np.concatenate(list(other.epoch(0)))).any()


def test_a_giant_class_is_shown_in_parts_that_change() -> None:
    labels = np.array([0] * 1000 + [1] * 10 + [2] * 10)
    sampler = PKSampler(labels, classes_per_batch=2, pictures_per_class=5)
    assert len(sampler) == 102
    giant = [set(np.concatenate(list(sampler.epoch(e)))) & set(range(1000)) for e in range(2)]
    assert len(giant[0]) == 102 * 5 and giant[0] != giant[1]


def test_too_few_classes() -> None:
    with pytest.raises(ValueError, match="3 classes a batch, but only 2 classes"):
        PKSampler(np.array([0, 0, 1, 1]), classes_per_batch=3, pictures_per_class=2)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 60), size=st.integers(1, 70), views=st.integers(1, 2), seed=st.integers(0, 2**31))
def test_shuffled_batches_show_every_picture_and_are_alike(n: int, size: int, views: int, seed: int) -> None:
    sampler = ShuffleSampler(n, batch_size=size, seed=seed, views=views)
    batches = list(sampler.epoch(3))
    assert len(batches) == len(sampler) == -(-n // min(n, size))
    assert {len(batch) for batch in batches} == {min(n, size) * views}
    assert set(np.concatenate(batches).tolist()) == set(range(n))
    assert all(np.array_equal(one, other) for one, other in zip(batches, sampler.epoch(3), strict=True))
