"""The bound that racing stops by, and the evaluator that is raced."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.core.errors import ConfigError
from autoprune.evaluate import Accuracy
from autoprune.evaluate.racing import FEWEST, Raced, looks, surely_below


def test_looks_grow_to_the_whole():
    assert looks(5000) == [313, 626, 1252, 2504, 5000]
    assert looks(100) == [FEWEST, 100]
    assert looks(10) == [10]


def test_as_good_a_candidate_is_hardly_ever_stopped():
    """All looks together, over random orders: at most `doubt`, and the bound is not idle."""
    rng = np.random.default_rng(0)
    total, doubt = 1000, 0.2
    bar = np.arange(total) % 10 != 0
    equal = np.roll(bar, 1)  # as many right, others of them
    parts = looks(total)
    stopped = 0
    for _ in range(2000):
        order = rng.permutation(total)
        stopped += any(
            surely_below(bar[order[:n]], equal[order[:n]], doubt / (len(parts) - 1))
            for n in parts[:-1]
        )
    assert 0 < stopped / 2000 <= doubt


def test_a_hopeless_candidate_is_stopped_and_a_better_one_never():
    rng = np.random.default_rng(0)
    bar = rng.random(5000) < 0.92
    worse = bar & (rng.random(5000) < 0.9)
    assert surely_below(bar[:313], worse[:313], 0.01 / 4)
    assert not surely_below(worse, bar, 0.5)
    assert not surely_below(bar, bar, 0.5)
    assert surely_below(np.ones(9, bool), np.zeros(9, bool), 0.01)  # 2^-9 < 1 %
    assert not surely_below(np.ones(6, bool), np.zeros(6, bool), 0.01)


def test_accuracy_whole_and_by_samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(23, 4, generator=generator)
    y = torch.randint(0, 3, (23,), generator=generator)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).train()
    evaluate = Accuracy.of([(x[:20], y[:20]), (x[20:], y[20:])], batch=5)
    assert isinstance(evaluate, Raced)
    assert evaluate.samples == 23
    wanted = (model[0](x).argmax(1) == y).numpy()
    assert evaluate(model) == {"accuracy": pytest.approx(wanted.mean())}
    indices = np.array([22, 3, 3, 0, 17, 8, 1])
    assert evaluate.hits(model, indices).tolist() == wanted[indices].tolist()
    assert model.training


def test_wrong_samples():
    with pytest.raises(ConfigError, match="as many"):
        Accuracy(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ConfigError, match="at least one batch"):
        Accuracy.of([])
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        Accuracy(torch.zeros(3, 2), torch.zeros(3), batch=0)
