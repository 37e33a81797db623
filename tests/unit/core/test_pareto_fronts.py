"""Fronts and their hypervolume, against the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.pareto import contributions, hypervolume, nondominated, ranks, spread


@st.composite
def grids(draw, most=7):
    """Points on the integers 0 to 5 in two to four dimensions."""
    dimension = draw(st.integers(2, 4))
    point = st.lists(st.integers(0, 5), min_size=dimension, max_size=dimension)
    return np.array(draw(st.lists(point, min_size=1, max_size=most)), dtype=float)


def counted(points, top=5):
    """How many unit cells below `top` are dominated."""
    cells = np.stack(np.meshgrid(*[np.arange(top)] * points.shape[1]), axis=-1)
    cells = cells.reshape(-1, points.shape[1])
    return int((points[None] <= cells[:, None]).all(axis=2).any(axis=1).sum())


@given(grids())
def test_the_hypervolume_is_what_is_dominated(points):
    assert hypervolume(points, np.full(points.shape[1], 5.0)) == pytest.approx(counted(points))


@given(grids())
def test_contributions_are_differences_of_hypervolumes(points):
    reference = np.full(points.shape[1], 5.0)
    new, others = points[:2], points[2:]
    expected = [
        hypervolume(np.vstack([others, p[None]]), reference) - hypervolume(others, reference)
        for p in new
    ]
    assert contributions(new, others, reference) == pytest.approx(np.array(expected))


@given(grids())
def test_nothing_on_a_front_is_dominated_and_all_else_is(points):
    front = nondominated(points)
    for index, point in enumerate(points):
        better = (points <= point).all(axis=1) & (points < point).any(axis=1)
        equal = (points[:index] == point).all(axis=1).any()
        assert front[index] == (not better.any() and not equal)


@given(grids())
def test_ranks_go_front_by_front(points):
    order = ranks(points)
    assert ((order == 0) == nondominated(points)).all()
    for rank in range(1, int(order.max()) + 1):
        before = points[order == rank - 1]
        for point in points[order == rank]:
            assert (before <= point).all(axis=1).any()


def test_unknown_figures_are_never_on_a_front():
    points = np.array([[np.nan, 0.0], [1.0, 1.0]])
    assert nondominated(points).tolist() == [False, True]
    assert ranks(points).tolist() == [2, 0]


@settings(max_examples=30)
@given(grids(most=12), st.integers(2, 6))
def test_a_spread_is_on_the_front_and_holds_its_ends(points, count):
    chosen = spread(points, count)
    front = np.flatnonzero(nondominated(points))
    assert len(chosen) == min(count, len(front))
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(front.tolist())
    if count >= points.shape[1]:
        assert points[chosen].min(axis=0) == pytest.approx(points[front].min(axis=0))


def test_a_spread_leaves_no_gap():
    x = np.linspace(0, 1, 101)
    chosen = spread(np.stack([x, (1 - np.sqrt(x)) ** 2], axis=1), 6)
    assert np.diff(np.sort(x[chosen])).max() < 0.5
    assert {0, 100} <= set(chosen)
