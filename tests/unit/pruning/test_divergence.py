"""How far the output moves when one group alone is pruned."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, SurgeryError
from autoprune.graph import trace
from autoprune.graph.network import Network
from autoprune.pruning.divergence import _curve, divergence_losses
from autoprune.pruning.importance import scores

KEPT = {"0": (1, 2, 4, 8), "2": (1, 2, 4, 8)}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Half(nn.Module):
    """Its first group feeds the output by `share` only, besides a path that bypasses it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.add_module("0", nn.Conv2d(3, 8, 3, padding=1))
        self.add_module("1", nn.Conv2d(8, 8, 3, padding=1))
        self.add_module("2", nn.Conv2d(3, 8, 3, padding=1))
        self.add_module("3", nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = (self.get_submodule(str(i)) for i in range(4))
        y = self.share * two(one(x).relu()) + four(three(x).relu())
        return 10 * self.head(y.mean((2, 3)))


def traced(share: float = 1.0) -> tuple[Network, list[Tensor]]:
    model = Half(share).eval()
    x = torch.randn(64, 3, 6, 6)
    return trace(model, (x[:2],)), [x[:32], x[32:]]


@pytest.mark.parametrize("classifies", [True, False])
def test_the_group_that_the_output_depends_on_loses_more(classifies: bool) -> None:
    network, batches = traced(share=0.1)
    losses = divergence_losses(network, batches, KEPT, scores(network, "l1"), classifies=classifies)
    assert losses.keys() == KEPT.keys()
    for values in losses.values():
        assert values.shape == (4,)
        assert values[-1] == 0
        assert (np.diff(values) <= 0).all()
        assert values[0] > 0
    # The error's share of the output falls with the square of what the group has of it.
    assert losses["0"][1] < 0.1 * losses["2"][1]


def test_the_network_is_left_as_it_was() -> None:
    network, batches = traced()
    before = {k: v.clone() for k, v in network.model.state_dict().items()}
    divergence_losses(network, batches, KEPT, scores(network, "l1"))
    assert not network.model.training
    assert all(torch.equal(before[k], v) for k, v in network.model.state_dict().items())


def test_one_batch_serves_for_both_halves() -> None:
    network, batches = traced()
    losses = divergence_losses(network, batches[:1], {"0": (4, 8)}, scores(network, "l1"))
    assert losses["0"][0] > 0


def test_wrong_batches() -> None:
    network, batches = traced()
    with pytest.raises(ConfigError, match="at least one batch"):
        divergence_losses(network, [], KEPT, scores(network, "l1"))
    with pytest.raises(SurgeryError, match="finite"):
        divergence_losses(network, [batches[0] * torch.nan], KEPT, scores(network, "l1"))


def test_the_curve_goes_through_the_points_and_grows_past_them() -> None:
    lost = np.array([0.64, 0.36, 0.16, 0.04, 0.0])  # of 1 to 5 units
    curve = _curve({4: 0.01, 3: 0.04}, lost)
    np.testing.assert_allclose(curve[3:], [0.04, 0.01, 0.0])
    # The amplitude 0.2 at 0.16 grows with the error: 0.36 is 2.25 times as much.
    np.testing.assert_allclose(curve[2], (0.2 * 2.25) ** 2)
    assert curve[1] > curve[2]
    # None left: ten times one, where it could not be measured.
    np.testing.assert_allclose(curve[0], 10 * curve[1])
    np.testing.assert_allclose(_curve({4: 0.01, 3: 0.04, 0: 99.0}, lost)[0], 99.0)
    # A narrower one that came out better by chance counts as much as the wider one.
    assert _curve({4: 0.01, 3: 0.0}, lost)[3] == pytest.approx(0.01)


@pytest.mark.parametrize("several", [False, True])
def test_what_is_no_distribution_is_compared_by_its_values(several: bool) -> None:
    """A softmax over one output is always 1; of several outputs the first is not all."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other, self.net = nn.Linear(4, 3), model

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.other(x), self.net(x)]

    x = torch.randn(64, 4)
    network = trace(Two().eval() if several else model, x[:2])
    (group,) = network.groups
    losses = divergence_losses(network, [x], {group.name: (1, 4, 8)}, scores(network, "l1"))
    assert losses[group.name][0] > 0
