from __future__ import annotations

import numpy as np

from autoprune.cost.endtoend import EndToEnd, Points


def candidates(count: int, seed: int) -> tuple[Points, np.ndarray]:
    """Profiled sums that hold 0.2 of the reference more than is true, spread over its kernels."""
    rng = np.random.default_rng(seed)
    nodes, time = rng.uniform(0.3, 1.0, count), rng.uniform(0.05, 0.8, count)
    parts = (time + 0.2 * nodes)[:, None] * np.array([0.7, 0.3])
    kept = [rng.random(5) for _ in range(count)]
    return Points(parts, nodes, np.zeros(count, dtype=np.intp), kept), time


def test_what_a_profile_adds_to_each_kernel_is_taken_off() -> None:
    points, ratio = candidates(40, 0)
    model = EndToEnd(points, ratio, np.full(40, 0.002))
    unseen, truth = candidates(60, 1)
    mean, std = model.predict(unseen)
    assert np.median(np.abs(mean / truth - 1)) < 0.01
    assert np.abs(mean - truth).max() < 0.02
    assert (np.abs(mean - truth) < 3 * std + 0.002).all()


def test_some_of_the_candidates() -> None:
    points, _ = candidates(6, 2)
    some = points.at([4, 1])
    np.testing.assert_array_equal(some.total, points.total[[4, 1]])
    np.testing.assert_array_equal(some.nodes, points.nodes[[4, 1]])
    np.testing.assert_array_equal(some.kept[0], points.kept[4])
