"""The noise of measured ratios."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.device import Measurement
from autoprune.cost.noise import halves_apart, ratio_noise


def measured(
    rng: np.random.Generator, rounds: int, noise: float, *, ratio: float = 0.5, width: float = 0.1
) -> Measurement:
    """A candidate whose rounds scatter, and whose interval is far wider than that."""
    reference = rng.uniform(1.0, 1.1, rounds)
    samples = ratio * reference * np.exp(rng.normal(0.0, noise, rounds))
    return Measurement(
        "0",
        latency_ms=ratio,
        ratio=ratio,
        ratio_interval=(ratio - width, ratio + width),
        samples_ms=tuple(samples),
        reference_ms=tuple(reference),
    )


@pytest.mark.parametrize("rounds", [3, 5, 20])
def test_it_is_what_the_rounds_of_all_scatter_by_whatever_their_intervals_say(rounds):
    rng = np.random.default_rng(0)

    found = ratio_noise([measured(rng, rounds, 0.02) for _ in range(60)])

    assert np.median(found) == pytest.approx(0.5 * 0.02 / np.sqrt(rounds), rel=0.15)
    assert found.max() < 2.5 * found.min()  # three rounds that happen to agree tell little


def test_more_rounds_tell_more():
    rng = np.random.default_rng(1)

    found = ratio_noise([measured(rng, n, 0.01) for n in (4, 64) for _ in range(20)])

    assert found[:20].min() > 2 * found[20:].max()


def test_one_that_scatters_more_in_many_rounds_is_noisier():
    rng = np.random.default_rng(2)

    found = ratio_noise([*(measured(rng, 30, 0.01) for _ in range(20)), measured(rng, 30, 0.03)])

    assert found[-1] > 1.8 * np.median(found[:-1])


def test_a_round_far_off_does_not_make_a_candidate_as_noisy_as_it_is_far():
    rng = np.random.default_rng(3)
    every = [measured(rng, 9, 0.01) for _ in range(20)]
    before = ratio_noise(every)[0]
    slow = list(every[0].samples_ms)
    slow[4] *= 3.0
    every[0] = Measurement(
        "0", latency_ms=0.5, ratio=0.5, ratio_interval=(0.4, 0.6), samples_ms=tuple(slow),
        reference_ms=every[0].reference_ms,
    )  # fmt: skip

    assert ratio_noise(every)[0] < 3 * before


def test_one_round_has_what_its_interval_tells():
    rng = np.random.default_rng(4)
    several = [measured(rng, 9, 0.01) for _ in range(5)]
    once = measured(rng, 1, 0.0, width=0.05)

    found = ratio_noise([*several, once])

    assert found[-1] == pytest.approx(0.05 / 1.96)
    assert found[:-1] == pytest.approx(ratio_noise(several))
    assert ratio_noise([once]) == pytest.approx([0.05 / 1.96])


def test_none_is_below_a_thousandth():
    rng = np.random.default_rng(5)

    assert ratio_noise([measured(rng, 5, 0.0) for _ in range(3)]) == pytest.approx([0.0005] * 3)


def test_what_rounds_have_in_common_is_noise_that_they_do_not_show():
    rng = np.random.default_rng(4)
    every = [measured(rng, 30, 0.01) for _ in range(20)]
    before = ratio_noise(every)
    every[0] = replace(every[0], common_std=0.05)

    found = ratio_noise(every)

    assert found[0] == pytest.approx(np.hypot(before[0], 0.05 * 0.5))
    np.testing.assert_array_equal(found[1:], before[1:])


def test_halves_of_a_measurement_differ_by_what_its_even_and_odd_rounds_do() -> None:
    apart = Measurement("0", samples_ms=(0.9, 1.1, 0.9, 1.1), reference_ms=(2.0,) * 4)
    alike = replace(apart, samples_ms=(1.0,) * 4)
    short = replace(apart, samples_ms=(1.0,))
    assert halves_apart([apart]) == pytest.approx(0.2)
    assert halves_apart([apart, alike, short]) == pytest.approx(0.1)
    assert np.isnan(halves_apart([short]))
