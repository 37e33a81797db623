import pytest
import torch
from torch import nn

from autoprune.core.errors import ConfigError
from autoprune.study.config import SearchConfig
from autoprune.study.task import Task
from autoprune.study.training import check_training

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])


def failing():
    raise OSError("no such image")
    yield


class Loader:
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return self.make()


def task(train, loss=None, recover=True):
    config = SearchConfig(budget={"macs": "0.5x"}, recover=recover)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    return Task(config, model, (X,), len, train=train, loss=loss)


def test_batches_that_go_leave_no_trace():
    shuffled = torch.utils.data.DataLoader([(X[0], Y[0]), (X[1], Y[1])], 2, shuffle=True)
    given = task(shuffled)
    state = torch.get_rng_state()
    check_training(given)
    assert torch.equal(torch.get_rng_state(), state)
    assert given.model.training
    assert int(given.model[0].num_batches_tracked) == 0
    check_training(task(None))
    check_training(task(iter([]), recover=None))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter([(X, Y)]), "a list or a loader.*list_iterator.*used up"),
        ([], "at least one training batch"),
        ([{"x": X, "y": Y}], "must be a pair of inputs and targets, got dict; several inputs"),
        ([(X, X, Y)], "got tuple of 3"),
        ([(X, torch.rand(4, 7))], r"compute the loss \(cross-entropy, unless `loss` is given\)"),
        ([(torch.zeros(4, 5), Y)], "RuntimeError"),
        ([(X, [0, 1, 1, 0])], "look at the .inputs, labels. batches"),
        (Loader(failing), r"OSError: no such image \(failing, test_training.py"),
    ],
)
def test_batches_that_do_not(train, message):
    with pytest.raises(ConfigError, match=message):
        check_training(task(train))


def test_a_loss_of_ones_own():
    check_training(task([(X, X[:, :2])], loss=nn.functional.mse_loss))
    with pytest.raises(ConfigError, match=r"compute the loss of a .*KeyError: 'y'"):
        check_training(task([(X, {})], loss=lambda output, targets: targets["y"]))


def test_a_frozen_network_can_not_be_tuned():
    given = task([(X, Y)])
    given.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="unfreeze"):
        check_training(given)
