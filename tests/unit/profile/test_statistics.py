import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.profile import statistics
from autoprune.profile.statistics import autocorrelation, robust_mean


def test_matches_the_published_signed_rank_interval():
    # n = 10, 95 %: the critical value of T is 8, so the 9th smallest of 55 pairwise means.
    values = np.arange(10.0) ** 2
    first, second = np.triu_indices(10)
    walsh = np.sort((values[first] + values[second]) / 2)
    shuffled = np.random.default_rng(0).permutation(values)
    assert robust_mean(shuffled, 0.95, 0.0) == (np.median(walsh), walsh[8], walsh[-9])


def test_six_values_are_the_fewest_for_the_signed_rank_test_at_95_percent():
    values = [1.0, 5.0, 2.0, 4.0, 3.0, 2.5]
    _, low, high = robust_mean(values, 0.95, 0.0)
    assert (low, high) == (1.0, 5.0)
    centre, low, high = robust_mean(values[:5], 0.95, 0.0)
    half = 2.776 * np.std(values[:5], ddof=1) / math.sqrt(5)
    assert (centre - low, high - centre) == pytest.approx((half, half), rel=1e-3)


def test_one_value_tells_nothing_about_its_spread():
    assert robust_mean([2.0]) == (2.0, -math.inf, math.inf)


def test_outliers_do_not_move_it():
    values = np.random.default_rng(1).normal(1.0, 0.01, 20)
    values[[3, 12]] = [50.0, 1e6]
    centre, low, high = robust_mean(values)
    assert abs(centre - 1) < 0.02
    assert high - low < 0.1


@pytest.mark.parametrize("distribution", ["normal", "standard_t", "laplace"])
@pytest.mark.parametrize("count", [6, 15])
def test_the_interval_holds_the_truth_as_often_as_it_says(distribution, count):
    rng = np.random.default_rng(2)
    draw = getattr(rng, distribution)
    sizes = {"df": 2} if distribution == "standard_t" else {}
    held = 0
    for _ in range(600):
        _, low, high = robust_mean(draw(size=count, **sizes), 0.9, 0.0)
        held += low <= 0 <= high
    assert 0.87 <= held / 600 <= 0.985


def dependent(rng, shape, rho):
    """(..., n) values of variance 1, of which each depends on the one before by rho."""
    values = rng.normal(size=shape)
    for i in range(1, shape[-1]):
        values[..., i] = rho * values[..., i - 1] + math.sqrt(1 - rho**2) * values[..., i]
    return values


def test_dependent_rounds_widen_it():
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=40))
    _, low, high = robust_mean(walk)
    shuffled = rng.permutation(walk)
    _, low_shuffled, high_shuffled = robust_mean(shuffled)
    assert autocorrelation([walk]) > 0.5
    assert high - low > 1.5 * (high_shuffled - low_shuffled)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5])
def test_series_together_tell_their_autocorrelation(rho):
    rng = np.random.default_rng(4)
    found = [autocorrelation(dependent(rng, (24, 10), rho)) for _ in range(40)]
    # Half a standard error of 240 values is taken on top; the correction is of first order.
    assert np.mean(found) == pytest.approx(rho + 0.5 / math.sqrt(240), abs=0.12)


def test_what_tells_no_autocorrelation():
    assert autocorrelation([]) == 0.0
    assert autocorrelation([np.ones(9), np.arange(3.0)]) == 0.0
    assert autocorrelation([np.tile([1.0, -1.0], 9)]) == 0.0
    assert autocorrelation([np.arange(99.0)]) == 0.8


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(("networks", "rounds"), [(8, 8), (8, 20), (1, 20)])
def test_intervals_of_dependent_rounds_hold_the_truth(networks, rounds, rho):
    rng = np.random.default_rng(5)
    held = []
    for _ in range(1600 // networks):
        taken = dependent(rng, (networks, rounds), rho)
        together = autocorrelation(taken)
        for values in taken:
            _, low, high = robust_mean(values, 0.95, together)
            held.append(low <= 0 <= high)
    assert 0.93 <= np.mean(held) <= 0.975


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=30),
    st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
def test_the_estimate_lies_in_its_interval_and_moves_with_the_values(values, confidence):
    centre, low, high = robust_mean(values, confidence)
    assert low <= centre <= high
    assert min(values) <= centre <= max(values)
    assert robust_mean([v + 8 for v in values], confidence)[0] == pytest.approx(centre + 8)


@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01])
def test_the_tail_of_many_values_goes_on_from_that_of_few(alpha, monkeypatch):
    counted = statistics._signed_rank_tail(statistics.EXACT, alpha)
    monkeypatch.setattr(statistics, "EXACT", 10)
    statistics._signed_rank_tail.cache_clear()
    assert statistics._signed_rank_tail(100, alpha) == pytest.approx(counted, rel=0.005)
    statistics._signed_rank_tail.cache_clear()


def test_a_reference_that_was_visited_thousands_of_times():
    values = np.random.default_rng(0).normal(1.0, 0.05, 1500)
    mean, low, high = robust_mean(values, 0.95)
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / np.sqrt(1500), rel=0.2)
