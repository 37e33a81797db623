from __future__ import annotations

import numpy as np
import pytest

from autoprune.cost.context import FLAGS
from autoprune.cost.landmarks import LANDMARKS, Landmarks


def shapes(*counts: tuple[int, ...]) -> np.ndarray:
    return np.array([[*c, *[0] * FLAGS] for c in counts])


def likeness(x: np.ndarray, measured: np.ndarray) -> np.ndarray:
    features = Landmarks(measured).features(x)
    return features @ features.T


def test_a_measured_shape_is_wholly_like_itself() -> None:
    x = shapes((16, 32), (17, 32), (64, 8))
    np.testing.assert_allclose(np.diag(likeness(x, x)), 1.0, atol=1e-3)


def test_what_divides_a_count_sets_it_apart() -> None:
    x = shapes((64, 64), (63, 64), (65, 64), (72, 64))
    like = likeness(x, x)
    assert like[1, 2] > like[1, 0]  # both odd, though farther apart
    assert like[0, 3] > like[0, 1]


def test_a_shape_between_landmarks_is_like_its_neighbours() -> None:
    measured = shapes(*[(c, 32) for c in range(1, 257)])
    x = shapes((101, 32), (103, 32), (3, 32))
    like = likeness(x, measured)
    assert like[0, 1] > 0.9
    assert like[0, 2] < like[0, 1]


def test_shapes_of_one_block_are_more_alike() -> None:
    x = shapes((9, 32), (15, 32))
    blocks = {}
    for block in (8, 16):
        features = Landmarks(x, block).features(shapes((7, 32), (9, 32)))
        blocks[block] = features @ features.T
    assert blocks[8][0, 1] < blocks[16][0, 1]


def test_surroundings_set_shapes_apart() -> None:
    x = np.array([[20, 20, *[0] * FLAGS], [20, 20, *[1] * FLAGS]])
    assert likeness(x, x)[0, 1] < 0.97


@pytest.mark.parametrize("count", [1, 5, 300])
def test_as_many_features_whatever_was_measured(count: int) -> None:
    measured = shapes(*[(c, c) for c in range(1, count + 1)])
    features = Landmarks(measured).features(shapes((7, 7), (1000, 1)))
    assert features.shape == (2, LANDMARKS)
    assert np.isfinite(features).all()
    assert (np.count_nonzero(features, axis=1) <= count).all()


def test_landmarks_cover_what_was_measured() -> None:
    """None of 200 shapes is unlike all of the 24."""
    rng = np.random.default_rng(0)
    measured = np.unique(shapes(*rng.integers(1, 512, (200, 2)).tolist()), axis=0)
    assert np.diag(likeness(measured, measured)).min() > 0.8
