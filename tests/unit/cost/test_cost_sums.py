"""Sums over kernels, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.cost.landmarks import LANDMARKS
from autoprune.cost.sums import Summing, Timed


def test_what_kernels_add_to_their_part_and_to_the_whole() -> None:
    timed = Timed(
        names=(("conv", "conv"), ("add", "add")),
        factors=np.array([2.0, 1.0]),
        longest=np.array([8.0, np.nan]),  # nothing was measured of the second one
        parts=np.array([[1.0, 0.0], [0.0, 1.0]]),
    )
    sums = Summing(count=2, parts=1)
    features = np.zeros((2, 1, LANDMARKS))
    features[:, 0, 3] = 0.5
    sums.add(
        timed,
        mean=np.array([[2.0, 3.0], [4.0, 0.0]]),
        std=np.array([[3.0, 4.0], [0.0, 0.0]]),
        rank=np.array([[0.0, 2.0], [1.0, 0.0]]),
        ragged=np.array([[True, False], [False, True]]),
        shapes=[(0, np.array([0]), features)],
    )
    found = sums.told(unit=10.0, nodes=4.0)
    assert found.total.tolist() == [0.7, 0.8]
    assert found.nodes.tolist() == [0.5, 0.25]
    assert found.variance.tolist() == [0.25, 0.0]
    assert found.source.tolist() == [2, 1]
    # The part's time, what it takes less than the longest (0.2 an octave), what is ragged (0.1).
    assert found.features[0] == pytest.approx([0.4, -0.08, 0.04, 0.3, 0.0, 0.0])
    assert found.features[1] == pytest.approx([0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert found.shapes[:, 3].tolist() == [0.2, 0.4]
    assert np.count_nonzero(found.shapes) == 2


def test_a_network_without_kernels_takes_no_time() -> None:
    none = np.zeros((3, 0))
    timed = Timed((), none[0], none[0], np.zeros((0, 2)))
    sums = Summing(count=3, parts=1)
    sums.add(timed, none, none, none, none.astype(bool), [])
    assert not sums.told(1.0, 1.0).total.any()
