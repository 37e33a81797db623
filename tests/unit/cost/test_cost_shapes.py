from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.errors import TableError
from autoprune.cost.gaussian import GaussianProcess
from autoprune.cost.shapes import MINIMUM, KernelShapes, ShapeModel


def shapes(count: int, seed: int = 0, kind: str = "conv") -> KernelShapes:
    rng = np.random.default_rng(seed)
    size = rng.choice([8.0, 14.0, 28.0, 56.0], count)
    stride = rng.choice([1.0, 2.0], count)
    return KernelShapes(
        np.full(count, kind),
        rng.integers(4, 300, count).astype(float),
        rng.integers(4, 300, count).astype(float),
        size**2,
        np.ceil(size / stride) ** 2,
        rng.choice([1.0, 9.0, 25.0], count),
        np.zeros(count),
    )


def times(of: KernelShapes) -> np.ndarray:
    """A device that works on tiles of 64 positions by 32 channels."""
    tiles = np.ceil(of.written / 64) * np.ceil(of.outputs / 32)
    return 5.0 + tiles * 0.02 * of.inputs * of.area**0.9


def noisy(of: KernelShapes, seed: int, std: float = 0.02) -> np.ndarray:
    return times(of) * np.exp(np.random.default_rng(seed).normal(0, std, len(of)))


@pytest.fixture(scope="module")
def model() -> ShapeModel:
    train = shapes(300)
    return ShapeModel(train, noisy(train, 1))


def test_shapes_between_are_predicted_with_an_honest_interval(model: ShapeModel) -> None:
    test = shapes(400, seed=7)
    mean, std = model.predict(test)
    error = np.log(mean / noisy(test, 2))
    assert np.median(np.abs(error)) < 0.06
    assert 0.8 <= np.mean(np.abs(error) <= 1.645 * std) <= 0.98


def test_far_outside_it_is_unsure(model: ShapeModel) -> None:
    near = shapes(50, seed=3)
    far = replace(near, read=near.read * 400, written=near.written * 400)
    assert np.median(model.predict(far)[1]) > 2 * np.median(model.predict(near)[1])


def test_a_spike_bends_nothing() -> None:
    train = shapes(200)
    clean = noisy(train, 1)
    spiked = clean.copy()
    spiked[::40] *= 5.0
    test = shapes(200, seed=9)
    ours, theirs = (ShapeModel(train, t).predict(test)[0] for t in (spiked, clean))
    assert np.median(np.abs(ours / times(test) - 1)) < 0.07
    assert np.median(np.abs(theirs / times(test) - 1)) < 0.07


def test_unknown_kinds_are_told(model: ShapeModel) -> None:
    mean, std = model.predict(shapes(3, kind="depthwise"))
    assert np.isnan(mean).all()
    assert np.isinf(std).all()
    assert model.knows("conv")
    assert not model.knows("depthwise")


def test_what_is_chosen_is_new_and_helps_more_than_chance() -> None:
    pool, rng = shapes(600), np.random.default_rng(0)
    labels = noisy(pool, 1)
    first = np.arange(40)
    start = ShapeModel(pool[first], labels[first])
    more = 40 + start.most_telling(pool[np.arange(40, 600)], 80, rng)
    assert len(set(more.tolist())) == 80
    test = shapes(500, seed=11)
    chosen, drawn = (
        ShapeModel(pool[rows], labels[rows]).predict(test)
        for rows in (np.concatenate([first, more]), np.arange(120))
    )
    assert np.mean(chosen[1] ** 2) < np.mean(drawn[1] ** 2)


def test_kinds_never_measured_are_chosen_first(model: ShapeModel) -> None:
    pool = KernelShapes.concatenate([shapes(30, 5), shapes(5, 6, "depthwise")])
    chosen = model.most_telling(pool, 8, np.random.default_rng(0))
    assert set(chosen[:5].tolist()) == set(range(30, 35))
    assert len(set(chosen.tolist())) == 8


def test_narrow_kinds_tell_kernel_size_and_stride() -> None:
    narrow = shapes(100).narrow()
    assert {"conv 9/1", "conv 1/2"} <= set(narrow.kind.tolist())
    assert set(shapes(4, kind="depthwise").narrow().kind.tolist()) == {"depthwise"}


def test_wrong_input_is_refused() -> None:
    few = shapes(MINIMUM - 1)
    with pytest.raises(TableError, match=f"fitted to {MINIMUM} shapes of a kind or more"):
        ShapeModel(few, times(few))
    with pytest.raises(TableError, match="finite time above 0"):
        ShapeModel(shapes(20), np.zeros(20))
    with pytest.raises(TableError, match="one value for each kernel"):
        replace(few, area=np.ones(3))


def test_the_gradient_is_that_of_the_likelihood() -> None:
    from autoprune.cost.gaussian import _likelihood

    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(30, 3)), rng.normal(size=30), rng.uniform(1, 2, 30)
    theta = rng.normal(-1, 0.3, 9)
    _, gradient = _likelihood(theta, x, y, weight)
    for i in range(len(theta)):
        step = np.zeros(9)
        step[i] = 1e-5
        high, low = (_likelihood(theta + s, x, y, weight)[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-6)


def test_a_process_goes_through_what_it_was_told() -> None:
    x = np.linspace(-2, 2, 40)[:, None]
    process = GaussianProcess(x, np.sin(2 * x[:, 0]))
    mean, std = process.predict(np.array([[0.05], [1.3]]))
    np.testing.assert_allclose(mean, np.sin([0.1, 2.6]), atol=0.03)
    assert (std < 0.2).all()
