"""Random changes that the evolutions share."""

import numpy as np
import pytest

from autoprune.searchers.mutation import mutated, reach
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import SyntheticProblem


def test_every_row_moves_within_its_bounds_and_the_parents_stay():
    space = SearchSpace.from_network(SyntheticProblem.resnet(blocks=2))
    parents = np.tile(space.counts - 1, (200, 1))
    before = parents.copy()
    rows, touched = mutated(space, parents, np.random.default_rng(0), reach=3.0, changes=(2.0,))
    np.testing.assert_array_equal(parents, before)
    assert touched.any(axis=1).all()
    assert touched.shape == (200, len(space.free))
    assert (rows >= 0).all()
    assert (rows < space.counts).all()
    moved = rows[:, space.free] != before[:, space.free]
    assert not moved[~touched].any()
    assert moved.any()
    # Two of the decisions on average, and the one that always moves, where it is none of them.
    assert touched.sum(axis=1).mean() == pytest.approx(2.6, abs=0.5)


def test_steps_shrink_as_trials_are_used_up_and_grow_with_misses():
    assert reach(0, 100, 0) == 4.0
    assert reach(50, 100, 0) == 2.0
    assert reach(100, 100, 0) == 1.0
    assert reach(0, None, 0) == 4.0
    assert reach(100, 100, 4) == 2.0
    assert reach(100, 100, 1000) == 16.0
