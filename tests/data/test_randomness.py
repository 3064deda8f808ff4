"""Order and draws are pure functions, uniform, and independent of how they are computed."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from accelkit.data.randomness import SampleRandom, epoch_order, sample_randoms
from accelkit.random import philox4x32_block, subkey


@given(st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 300))
def test_order_is_a_permutation_and_pure(seed: int, epoch: int, count: int) -> None:
    order = epoch_order(seed, epoch, count)
    assert sorted(order.tolist()) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, count))


def test_order_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(epoch_order(42, 7, 1001).astype("<i8").tobytes()).hexdigest()
    assert digest == "4b6ae0ef5e1698875b9f93a55a829175c769d4209bb62de93dcf845d3d77e03d"


def test_orders_of_epochs_and_seeds_differ() -> None:
    orders = [epoch_order(seed, epoch, 500) for seed in range(3) for epoch in range(3)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).sum() < 20


def test_order_is_uniform() -> None:
    # Where element 0 of 8 ends up over 4000 orders: chi-square with 7 degrees of freedom.
    places = [int(np.flatnonzero(epoch_order(1, epoch, 8) == 0)[0]) for epoch in range(4000)]
    counts = np.bincount(places, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # 0.1 %


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 99),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
)
def test_draws_computed_together_equal_draws_alone(
    seed: int, epoch: int, indices: list[int]
) -> None:
    key = subkey(seed, epoch, "accelkit.data.sample", 0)
    together = sample_randoms(seed, epoch, np.array(indices))
    for random, index in zip(together, indices, strict=True):
        alone = SampleRandom(key, index)
        words = [random.word() for _ in range(24)]  # beyond those computed together
        assert words == [alone.word() for _ in range(24)]
        block = philox4x32_block((index & 0xFFFFFFFF, index >> 32, 1, 0), key)
        assert tuple(words[4:8]) == block


def test_distributions() -> None:
    random = SampleRandom((1, 2), 0)
    uniform = [random.uniform(2.0, 4.0) for _ in range(20_000)]
    assert 2.0 <= min(uniform) < 2.001
    assert 3.999 < max(uniform) < 4.0
    assert np.mean(uniform) == pytest.approx(3.0, abs=0.02)
    whole = np.bincount([random.integer(5) for _ in range(20_000)])
    assert len(whole) == 5
    assert whole.min() > 3700
    normal = np.array([random.normal() for _ in range(20_000)])
    assert normal.mean() == pytest.approx(0, abs=0.04)
    assert normal.std() == pytest.approx(1, abs=0.03)
    assert (np.abs(normal) < 1.96).mean() == pytest.approx(0.95, abs=0.01)
