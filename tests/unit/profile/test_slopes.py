import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.profile.slopes import (
    FLATTEST,
    LESS_SURE,
    LINE,
    STEEPEST,
    UNKNOWN,
    UNSURE,
    USUALLY,
    slopes,
)

SLOPES = st.lists(st.floats(FLATTEST, STEEPEST), min_size=1, max_size=8)


def visits(rng, slope, count, noise, share=0.5, level=2.0):
    """Levels of a network, and how slow its core was."""
    slowed = np.where(rng.random(count) < share, rng.uniform(0.2, 0.5, count), 0.0)
    return level + slope * slowed + noise * rng.normal(size=count), slowed


def beside_its_own(rng, slope, count, noise, level):
    """As `visits`, beside neighbours not quite like the others' (see `LESS_SURE`)."""
    levels, slowed = visits(rng, slope, count, noise, level=level)
    spread = max(((slowed - slowed.mean()) ** 2).sum(), 1e-12)
    more = noise * np.sqrt((LESS_SURE**2 - 1) / spread)
    return levels + min(more, 1.0) * rng.normal() * slowed, slowed


@given(SLOPES, st.integers(0, 100))
def test_many_visits_tell_the_slope(true, seed):
    rng = np.random.default_rng(seed)
    both = [visits(rng, slope, 200, 0.01) for slope in true]
    found = slopes(*zip(*both, strict=True))
    for slope, each in zip(true, found, strict=True):
        assert each.value == pytest.approx(slope, abs=0.05)
        assert each.std < 0.02


@given(SLOPES, st.integers(0, 100))
def test_networks_that_nothing_slowed_down_have_the_usual_slope(true, seed):
    rng = np.random.default_rng(seed)
    both = [visits(rng, slope, 5, 0.01, share=0.0) for slope in true]
    assert slopes(*zip(*both, strict=True)) == [UNKNOWN] * len(true)
    assert UNKNOWN.value == LINE[0]
    assert UNKNOWN.std > USUALLY


def test_few_visits_are_drawn_towards_the_mean_of_all():
    rng = np.random.default_rng(0)
    steep = [visits(rng, 1.5, 100, 0.01) for _ in range(8)]
    few = visits(rng, 0.5, 4, 0.5)
    drawn = slopes(*zip(*steep, few, strict=True))[-1]
    own = np.polyfit(few[1], few[0], 1)[0]
    assert abs(drawn.value - 1.4) < abs(own - 1.4)
    many = slopes(*zip(*steep, visits(rng, 0.5, 400, 0.05), strict=True))[-1]
    assert many.std < drawn.std
    assert many.value == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("steepness", [0.0, -0.3])
def test_few_visits_are_drawn_towards_those_of_networks_as_large(steepness):
    """Large ones slow down less than small ones; or all alike."""
    rng = np.random.default_rng(2)
    levels = np.linspace(-1.0, 1.0, 9)
    off, alone = [], []
    for _ in range(40):
        true = 0.6 + steepness * levels + rng.normal(0, 0.05, 9)
        both = [
            beside_its_own(rng, slope, 8, 0.1, level)
            for slope, level in zip(true, levels, strict=True)
        ]
        found = slopes(*zip(*both, strict=True))
        off += [f.value - t for f, t in zip(found, true, strict=True)]
        alone += [np.polyfit(x, y, 1)[0] - t for (y, x), t in zip(both, true, strict=True)]
    assert np.std(off) < 0.6 * np.std(alone)
    assert abs(np.mean(off)) < 0.05


def test_stated_deviations_are_those_of_the_estimates():
    rng = np.random.default_rng(1)
    off = []
    for _ in range(300):
        middle, along = rng.normal(LINE, UNSURE)
        levels = rng.normal(0.0, 0.7, size=6)
        true = middle + along * (levels - levels.mean()) + rng.normal(0, USUALLY, size=6)
        true = np.clip(true, FLATTEST, STEEPEST)
        both = [
            beside_its_own(rng, slope, 6, 0.05, level)
            for slope, level in zip(true, levels, strict=True)
        ]
        found = slopes(*zip(*both, strict=True))
        off += [(f.value - t) / f.std for f, t in zip(found, true, strict=True)]
    assert 0.8 < np.std(off) < 1.25
    assert abs(np.mean(off)) < 0.1


def test_a_single_visit_is_no_slope_of_its_own():
    found = slopes([np.array([1.0])], [np.array([0.3])])
    assert found == [UNKNOWN]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-2.0, 2.0), st.floats(0.0, 0.53)), min_size=2, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_no_visits_whatsoever_tell_of_a_slope_that_nothing_can_have(networks):
    levels = [np.array([level for level, _ in visits]) for visits in networks]
    slowed = [np.array([beside for _, beside in visits]) for visits in networks]
    for slope in slopes(levels, slowed):
        assert FLATTEST <= slope.value <= STEEPEST
        assert 0.0 < slope.std < 1.0


@pytest.mark.parametrize("count", [1, 4])
def test_two_visits_that_differ_by_what_no_core_explains_tell_little(count):
    """Two lie on a line, however much they scatter."""
    levels, slowed = np.log([8.55, 6.33]), np.array([0.52, 0.50])
    for slope in slopes([levels] * count, [slowed] * count):
        assert slope.value == pytest.approx(UNKNOWN.value, abs=0.15)
        assert slope.std > USUALLY
