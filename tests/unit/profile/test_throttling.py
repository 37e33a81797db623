import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.profile.throttling import throttled, unsteady, usual

LEVELS = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


@given(LEVELS)
def test_the_usual_time_is_one_that_was_taken_and_not_off(levels):
    found = np.array(levels)
    assert usual(found) in found
    assert not throttled(found)[found == usual(found)].any()


def test_a_device_that_takes_two_speeds_in_turns_has_one_of_them_as_its_usual():
    fast, slow = 0.0, math.log(5.0)
    found = np.array([slow, slow, fast, slow, slow, fast, slow, slow, slow])
    assert throttled(found).tolist() in [(found == fast).tolist(), (found == slow).tolist()]


def test_only_what_is_far_from_the_usual_time_is_off():
    assert throttled(np.array([0.0])).tolist() == [False]
    assert not throttled(np.log([1.0, 1.1, 0.95, 1.05, 1.2])).any()
    off = throttled(np.log([1.0, 1.01, 1.02, 1.8, 1.0, 1.01, 0.5, 0.99]))
    assert np.flatnonzero(off).tolist() == [3, 6]


def test_only_a_device_that_changes_its_speed_all_the_time_is_not_steady():
    assert unsteady(np.log([10.0, 12.0] * 4)) == ""  # too few to tell
    assert unsteady(np.log([10.0] * 19 + [14.0])) == ""  # once
    assert unsteady(np.log(np.linspace(10.0, 11.0, 30))) == ""
    told = unsteady(np.log([10.0, 12.0] * 6))
    assert "12 visits took 10 to 12 ms" in told


@given(LEVELS)
def test_a_device_that_holds_its_speed_is_steady(levels):
    assert unsteady(np.full(len(levels), levels[0])) == ""
