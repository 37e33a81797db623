import math

import pytest

from autoprune.profile.series import Reference
from autoprune.profile.slopes import Slope
from autoprune.profile.visits import Visit


def test_the_reference_s_levels_follow_its_visits_and_its_slope():
    reference = Reference(slope=Slope(0.0, 0.1))
    assert reference.levels.tolist() == reference.throttled().tolist() == []
    reference.add(Visit(2.0, slowed=0.5, watched=True))
    assert reference.levels == pytest.approx([math.log(2.0)])
    reference.add(Visit(3.0))
    assert reference.levels == pytest.approx([math.log(2.0), math.log(3.0)])
    reference.slope = Slope(0.8, 0.1)
    assert reference.levels == pytest.approx([math.log(2.0) - 0.4, math.log(3.0)])


def test_which_visits_are_throttled_follows_them_too():
    reference = Reference()
    for _ in range(9):
        reference.add(Visit(2.0))
    assert not reference.throttled().any()
    reference.add(Visit(9.0))
    assert reference.throttled().tolist() == [False] * 9 + [True]
