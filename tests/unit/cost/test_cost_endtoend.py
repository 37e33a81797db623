from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoprune.cost.endtoend import EndToEnd, Points


def candidates(count: int, seed: int) -> tuple[Points, np.ndarray]:
    """Profiled sums that hold 0.2 of the reference more than is true, spread over its kernels."""
    rng = np.random.default_rng(seed)
    nodes, time = rng.uniform(0.3, 1.0, count), rng.uniform(0.05, 0.8, count)
    parts = (time + 0.2 * nodes)[:, None] * np.array([0.7, 0.3])
    kept = [rng.random(5) for _ in range(count)]
    network, written = np.zeros(count, dtype=np.intp), np.full(count, 1e6)
    shapes = np.zeros((count, 2))
    return Points(parts.sum(axis=1), parts, shapes, nodes, written, network, kept), time


def test_what_a_profile_adds_to_each_kernel_is_taken_off() -> None:
    points, ratio = candidates(40, 0)
    model = EndToEnd(points, ratio, np.full(40, 0.002))
    unseen, truth = candidates(60, 1)
    mean, std = model.predict(unseen)
    assert np.median(np.abs(mean / truth - 1)) < 0.01
    assert np.abs(mean - truth).max() < 0.02
    assert (np.abs(mean - truth) < 3 * std + 0.002).all()


def test_slower_where_a_cache_is_too_small() -> None:
    points, _ = candidates(60, 3)
    written = np.exp(np.random.default_rng(4).uniform(10, 16, 60))
    points = replace(points, written=written)
    ratio = points.total * (1 + 0.1 / (1 + np.exp(-2 * (np.log(written) - 13))))
    model = EndToEnd(points.at(range(40)), ratio[:40], np.full(40, 0.001))
    mean, _ = model.predict(points.at(range(40, 60)))
    assert np.median(np.abs(mean / ratio[40:] - 1)) < 0.005


def test_shapes_that_take_more_than_their_kernels_say() -> None:
    points, ratio = candidates(120, 8)
    odd = np.random.default_rng(9).random(120) * points.total  # the time of kernels of such shapes
    points = replace(points, shapes=np.stack([odd, points.total - odd], axis=1))
    ratio = ratio + 0.08 * odd
    model = EndToEnd(points.at(range(60)), ratio[:60], np.full(60, 0.001))
    mean, _ = model.predict(points.at(range(60, 120)))
    assert np.median(np.abs(mean / ratio[60:] - 1)) < 0.003
    plain = replace(points, shapes=np.zeros((120, 2)))
    unaware = EndToEnd(plain.at(range(60)), ratio[:60], np.full(60, 0.001))
    mean, _ = unaware.predict(plain.at(range(60, 120)))
    assert np.median(np.abs(mean / ratio[60:] - 1)) > 0.01


def test_what_a_batch_shares_is_not_learned() -> None:
    """One session of the reference was slow in each batch: by itself no candidate's fault."""
    points, ratio = candidates(160, 10)
    batch = np.repeat(np.arange(8), 10)
    slow = np.random.default_rng(11).normal(0, 0.03, 8)
    seen = ratio[:80] * (1 + slow[batch] - slow.mean())
    known = EndToEnd(points.at(range(80)), seen, np.full(80, 0.001), batch)
    unknown = EndToEnd(points.at(range(80)), seen, np.full(80, 0.001))
    rest = points.at(range(80, 160))
    errors = [np.median(np.abs(m.predict(rest)[0] / ratio[80:] - 1)) for m in (known, unknown)]
    assert errors[0] < 0.6 * errors[1]


def test_a_measured_ratio_is_off_from_the_true_one_that_is_predicted() -> None:
    """Its batch's session was slow, and its own rounds scatter; a prediction is of neither."""
    points, truth = candidates(400, 10)
    batch = np.repeat(np.arange(100), 4)
    rng = np.random.default_rng(11)
    measured = truth * (1 + rng.normal(0, 0.02, 100)[batch] + rng.normal(0, 0.005, 400))
    noise = 0.005 * measured
    model = EndToEnd(points.at(range(200)), measured[:200], noise[:200], batch[:200])
    unseen = points.at(range(200, 400))
    truth, measured, noise = (values[200:] for values in (truth, measured, noise))
    mean, std = model.predict(unseen)
    assert (np.abs(mean - truth) < 1.645 * std).mean() > 0.8
    assert np.median(std / mean) < 0.01  # less than one measurement of it is off by
    off = model.measuring_std(unseen, noise)
    assert 0.015 < np.median(off / measured) < 0.03
    assert 0.75 < (np.abs(mean - measured) < 1.645 * np.hypot(std, off)).mean() < 0.98
    assert (np.abs(mean - measured) < 1.645 * std).mean() < 0.5
    assert (model.measuring_std(unseen, noise, batches=2) < 0.8 * off).all()


def test_a_batch_that_is_not_known_is_none() -> None:
    points, ratio = candidates(40, 12)
    unknown = EndToEnd(points, ratio, np.full(40, 0.002), np.full(40, -1))
    none = EndToEnd(points, ratio, np.full(40, 0.002))
    for found, wanted in zip(unknown.predict(points), none.predict(points), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_intervals_are_honest_for_small_candidates_too() -> None:
    """Noise is a time of its own, whatever the candidate's latency."""
    points, ratio = candidates(120, 5)
    ratio = ratio + np.random.default_rng(6).normal(0, 0.004, 120)
    model = EndToEnd(points.at(range(60)), ratio[:60], np.full(60, 0.0005))
    mean, std = model.predict(points.at(range(60, 120)))
    inside = np.abs(mean - ratio[60:]) < 1.645 * std
    small = ratio[60:] < np.median(ratio)
    assert inside[small].mean() > 0.75
    assert inside[~small].mean() > 0.75
    assert np.median((std / ratio[60:])[small]) > 1.5 * np.median((std / ratio[60:])[~small])


def test_another_session_of_the_reference_is_as_noisy_as_any() -> None:
    points, ratio = candidates(60, 7)
    model = EndToEnd(points, ratio, 0.01 * ratio)
    mean, std = model.predict(points)
    assert (std >= 0.01 / np.sqrt(3) * mean).all()
    shared = 0.01 / np.sqrt(3) * mean
    quiet = EndToEnd(points, ratio, 0.001 * ratio)
    assert np.median(quiet.predict(points)[1]) < np.median(shared)


def test_some_of_the_candidates() -> None:
    points, _ = candidates(6, 2)
    some = points.at([4, 1])
    np.testing.assert_array_equal(some.total, points.total[[4, 1]])
    np.testing.assert_array_equal(some.nodes, points.nodes[[4, 1]])
    np.testing.assert_array_equal(some.kept[0], points.kept[4])
    both = Points.concatenate([some, points])
    np.testing.assert_array_equal(both.features[2:], points.features)
    np.testing.assert_array_equal(both.kept[1], points.kept[1])


def test_intervals_hold_nine_in_ten_of_what_is_drawn_as_those_that_were() -> None:
    """A third was chosen for being hard to predict, and is off by three times as much."""
    points, ratio = candidates(400, 20)
    rng = np.random.default_rng(21)
    drawn = np.arange(400) % 3 > 0
    seen = ratio * (1 + rng.normal(0, np.where(drawn, 0.004, 0.012)))
    noise = np.full(400, 0.0005)
    learned = points.at(range(200)), seen[:200], noise[:200] * ratio[:200]
    model = EndToEnd(*learned, drawn=drawn[:200])
    plain = EndToEnd(*learned)

    def inside(by: EndToEnd) -> float:
        later = np.flatnonzero(drawn & (np.arange(400) >= 200))
        mean, std = by.predict(points.at(later.tolist()))
        return float((np.abs(mean - seen[later]) < 1.645 * std).mean())

    assert 0.82 < inside(model) < 0.97
    assert inside(plain) > 0.98
    assert model.widening < 0.8
    assert plain.widening >= 1.0


def test_a_few_that_were_drawn_are_not_believed() -> None:
    points, ratio = candidates(40, 22)
    seen = ratio * (1 + np.random.default_rng(23).normal(0, 0.01, 40))
    few, all_of_them = np.arange(40) < 9, np.ones(40, dtype=bool)
    unaware = EndToEnd(points, seen, np.full(40, 0.001))
    assert EndToEnd(points, seen, np.full(40, 0.001), drawn=few).widening == unaware.widening
    known = EndToEnd(points, seen, np.full(40, 0.001), drawn=all_of_them)
    assert known.widening != unaware.widening
