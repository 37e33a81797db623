from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.cost.plateaus import right_edges, thin
from autoprune.cost.staircase import Staircase
from autoprune.cost.steps import basis_by_regime, merge_regimes


def blocks(c: np.ndarray, size: int) -> np.ndarray:
    return -(-c // size) * size


@pytest.mark.parametrize("block", [8, 16, 32])
def test_a_staircase_is_found_from_some_of_its_counts(block: int) -> None:
    rng = np.random.default_rng(0)
    everything = np.arange(1, 129)
    truth = 1.0 + 0.1 * blocks(everything, block)
    some = np.sort(rng.choice(everything, 40, replace=False))
    noisy = truth[some - 1] * np.exp(rng.normal(0, 0.005, len(some)))
    curve = Staircase(some[:, None], noisy, 0.005 * noisy)
    mean, _ = curve.predict(everything[:, None])
    inside = (everything >= some[0]) & (everything <= some[-1])
    error = np.abs(mean / truth - 1)[inside]
    assert np.median(error) < 0.01
    assert np.quantile(error, 0.95) < 0.05


def test_two_dimensions_and_intervals_are_honest() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(1, 65, (260, 2))
    x = np.unique(x, axis=0)
    rng.shuffle(x)
    truth = 5.0 + 0.02 * x[:, 0] * blocks(x[:, 1], 16) * (1 + 0.05 * np.sin(x[:, 0]))
    fit, check = slice(0, 150), slice(150, None)
    curve = Staircase(x[fit], truth[fit] * np.exp(rng.normal(0, 0.01, 150)), 0.01 * truth[fit])
    mean, std = curve.predict(x[check])
    assert np.median(np.abs(mean / truth[check] - 1)) < 0.04
    covered = np.mean(np.abs(mean - truth[check]) < 1.645 * std)
    assert 0.78 <= covered <= 1.0
    # Honest and useful: an interval is not simply wide.
    assert np.median(std / mean) < 0.15


def test_a_device_where_fewer_channels_are_slower_is_followed() -> None:
    c = np.arange(1, 65)
    truth = np.where((c > 16) & (c % 4 != 0), 1.6, 1.0) * (2 + 0.1 * blocks(c, 16))
    curve = Staircase(c[::2, None], truth[::2], 0.002 * truth[::2])
    assert np.abs(curve.predict(c[::2, None])[0] / truth[::2] - 1).max() < 0.03
    all_of_them = Staircase(c[:, None], truth, 0.002 * truth)
    mean, _ = all_of_them.predict(c[:, None])
    assert right_edges(c, mean, 0.05, 32)[-3:] == [32, 48, 64]


def test_one_point_is_proportional_elsewhere_and_says_it_is_unsure() -> None:
    curve = Staircase(np.array([[8, 8]]), np.array([2.0]), np.array([0.02]))
    (at, twice), std = curve.predict(np.array([[8, 8], [16, 8]]))
    assert at == pytest.approx(2.0, rel=0.02)
    assert 2.0 < twice < 5.0
    assert std[1] > 0.05 * twice > std[0]


def two_algorithms(x: np.ndarray, block: int = 16) -> np.ndarray:
    """Blocks both ways, but exact counts, and dearer, where many ragged ones are read."""
    read, written = x.T
    blocked = 0.01 * blocks(read, block) * blocks(written, block)
    plain = 1.0 + 0.012 * read * written
    return 2.0 + np.where((read > block) & (read % 4 != 0), plain, blocked)


def test_another_algorithm_for_ragged_counts_is_told_apart() -> None:
    rng = np.random.default_rng(2)
    x = np.unique(rng.integers(1, 65, (400, 2)), axis=0)
    rng.shuffle(x)
    y = two_algorithms(x)
    curve = Staircase(x[:150], y[:150] * np.exp(rng.normal(0, 0.005, 150)), 0.005 * y[:150])
    mean, _ = curve.predict(x[150:])
    assert np.median(np.abs(mean / y[150:] - 1)) < 0.01  # 0.03 by one for all


def test_the_runtime_s_own_block_tells_algorithms_apart_better() -> None:
    rng = np.random.default_rng(4)
    x = np.unique(rng.integers(1, 33, (300, 2)), axis=0)
    rng.shuffle(x)
    y = two_algorithms(x, 8)
    noisy = y[:120] * np.exp(rng.normal(0, 0.005, 120))
    error = {}
    for block in (8, 16):
        mean, _ = Staircase(x[:120], noisy, 0.005 * y[:120], block=block).predict(x[120:])
        error[block] = float(np.median(np.abs(mean / y[120:] - 1)))
    assert error[8] < 0.8 * error[16]


def test_the_end_of_a_regime_that_was_not_measured_is_plausible() -> None:
    rng = np.random.default_rng(3)
    x = np.unique(rng.integers(1, 49, (300, 2)), axis=0)
    x = x[x[:, 0] != 16]  # the least count in blocks
    y = two_algorithms(x)
    asked = np.stack([np.full(48, 16), np.arange(1, 49)], axis=1)
    mean, _ = Staircase(x, y, 0.005 * y).predict(asked)
    # That of 32 would be up to 1.9 times as much.
    assert np.abs(mean / two_algorithms(asked) - 1).max() < 0.2


def test_regimes_of_few_shapes_count_as_the_commonest() -> None:
    x = np.array([[3, 1], [4, 1], [20, 1], [24, 1], [28, 1], [32, 1], [17, 1]])
    assert merge_regimes(x, 2, 16) == (0, 1, 1)
    assert merge_regimes(x, 1, 16) == (0, 1, 2)
    assert merge_regimes(x, 1, 4) == (0, 1, 2)
    assert merge_regimes(x, 2, 4) == (1, 1, 1)
    features = basis_by_regime(x, merge_regimes(x, 2, 16), 16)
    ordinary = basis_by_regime(x, (0, 0, 0), 16)
    assert features.shape[1] == 2 * ordinary.shape[1]
    assert (features >= 0).all()


def test_measured_and_inside() -> None:
    curve = Staircase(np.array([[4], [8], [16]]), np.array([1.0, 2.0, 4.0]), np.full(3, 0.01))
    asked = np.array([[2], [4], [5], [16], [17]])
    assert curve.measured(asked).tolist() == [False, True, False, True, False]
    assert curve.inside(asked).tolist() == [False, True, True, True, False]


def test_more_points_than_the_process_takes_are_still_fitted() -> None:
    x = np.stack(np.meshgrid(np.arange(1, 22), np.arange(1, 22)), axis=-1).reshape(-1, 2)
    truth = 1.0 + 0.05 * x[:, 0] * blocks(x[:, 1], 8)
    mean, _ = Staircase(x, truth, 0.01 * truth).predict(x)
    assert np.quantile(np.abs(mean / truth - 1), 0.95) < 0.03


def test_right_edges_of_a_known_staircase() -> None:
    counts = np.arange(1, 65)
    assert right_edges(counts, blocks(counts, 16) * 1.0, 0.5, 32) == [1, 16, 32, 48, 64]
    slope = np.where(counts <= 16, counts, blocks(counts, 16)) * 1.0
    assert right_edges(counts, slope, 0.5, 32) == [*range(1, 17), 32, 48, 64]


def test_levels_within_noise_are_one_and_slopes_are_thinned_evenly() -> None:
    counts = np.arange(1, 101)
    assert right_edges(counts, np.ones(100) + 1e-4 * counts, 0.1, 32) == [1, 100]
    kept = right_edges(counts, counts * 1.0, 0.0, 10)
    assert kept[0] == 1
    assert kept[-1] == 100
    assert len(kept) == 10
    assert max(np.diff(kept)) <= 30


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=40),
    st.floats(0, 1),
    st.integers(2, 12),
)
def test_edges_rise_keep_the_ends_and_are_never_wasteful(
    costs: list[float], tolerance: float, choices: int
) -> None:
    counts, cost = np.arange(1, len(costs) + 1), np.array(costs)
    kept = right_edges(counts, cost, tolerance, choices)
    assert kept == sorted(set(kept))
    assert kept[0] == 1
    assert kept[-1] == len(costs)
    assert len(kept) <= choices
    inner = [c for c in kept if c not in (1, len(costs))]
    for count in inner:  # cheaper than everything larger that is offered
        larger = [cost[c - 1] for c in kept if c > count]
        assert cost[count - 1] <= min(larger)


def test_thin_leaves_few_alone() -> None:
    assert thin(np.array([1, 5, 9]), np.array([1.0, 2.0, 3.0]), 5) == [1, 5, 9]


def test_many_shapes_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    x = np.unique(rng.integers(1, 513, (300, 2)), axis=0)
    y = x.prod(axis=1).astype(np.float64)
    curve = Staircase(x, y, 0.01 * y, choose=False)
    many = rng.integers(1, 513, (20_000, 2))
    tracemalloc.start()
    try:
        mean, std = curve.predict(many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150e6
    one_by_one = [curve.predict(row[None]) for row in many[::2000]]
    np.testing.assert_allclose(mean[::2000], [float(m[0]) for m, _ in one_by_one])
    np.testing.assert_allclose(std[::2000], [float(s[0]) for _, s in one_by_one])
