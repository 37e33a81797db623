from __future__ import annotations

import math

import pytest

from autoprune.cost.pace import Pace


def paced(*took: tuple[int, float], profiled: bool = False) -> Pace:
    pace = Pace()
    for size, seconds in took:
        pace.add(size, seconds, profiled=profiled)
    return pace


def test_candidates_are_measured_roughly_until_they_are_no_closer_than_the_table() -> None:
    pace = paced((8, 8.0))
    for error, noise in ((0.05, 0.02), (0.05, math.nan), (math.nan, 0.02)):
        pace.closer(error, noise)
        assert pace.care == "rough"
    pace.add(12, 12.0, profiled=False)
    pace.closer(0.02, 0.02)
    assert pace.care == "usual"
    pace.add(16, 48.0, profiled=False)
    pace.closer(0.05, 0.02)
    assert pace.care == "usual"
    assert (pace.rough, pace.batches) == (20, 3)


def test_no_more_candidates_are_measured_than_fit() -> None:
    # A batch of n takes n + 3 s: the dense network's sessions beside it take as long.
    assert paced((8, 11.0), (16, 19.0)).fits(100.0, profiled=False) == pytest.approx(84, abs=1)
    assert paced((8, 11.0), (16, 19.0)).fits(5.0, profiled=False) == 2
    assert paced((8, 11.0), (16, 19.0)).fits(0.0, profiled=False) == 0
    assert paced((8, 11.0), (16, 19.0)).fits(-1.0, profiled=False) == 0


def test_the_first_batch_tells_nothing_once_there_is_another() -> None:
    """The network was exported in it."""
    assert paced((2, 50.0), (6, 9.0)).fits(9.0, profiled=False) == 6
    assert paced((2, 50.0)).fits(9.0, profiled=False) == 0


def test_profiling_takes_its_own_time() -> None:
    pace = paced((8, 88.0), profiled=True)
    pace.add(8, 11.0, profiled=False)
    assert pace.fits(22.0, profiled=False) == 16
    assert pace.fits(22.0, profiled=True) == 0
    assert paced((8, 11.0), profiled=True).fits(11.0, profiled=False) == 8, "all that is known"


def test_closer_batches_are_expected_to_take_longer_until_one_has() -> None:
    pace = paced((2, 3.0), (16, 19.0))
    before = pace.fits(60.0, profiled=False)
    pace.closer(0.01, 0.02)
    assert pace.fits(60.0, profiled=False) <= before / 3 + 1
    pace.add(8, 11.0, profiled=False)
    pace.add(8, 11.0, profiled=False)
    assert pace.fits(60.0, profiled=False) == pytest.approx(43, abs=1)
