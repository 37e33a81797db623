"""Losses of pruning each group alone, estimated without evaluating anything."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.graph import trace
from autoprune.graph.network import Network
from autoprune.pruning import fisher
from autoprune.pruning._consumers import consumers
from autoprune.pruning.fisher import output_power
from autoprune.pruning.importance import scores
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.sensitivity import fisher_losses, reconstruction_losses
from autoprune.pruning.surgery import apply


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def net() -> tuple[Network, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    x = torch.randn(64, 3, 6, 6)
    return trace(model, (x[:2],)), x


def test_the_loss_is_the_relative_error_that_refitting_leaves() -> None:
    network, x = net()
    order = scores(network, "l1")
    kept = {"0": (1, 3, 5, 6), "2": (2, 8)}
    losses = reconstruction_losses(network, [x], kept, order, positions=36, ridge=1e-6)
    reconstructor = Reconstructor(network, [x], positions=36, ridge=1e-6)
    for count, loss in zip(kept["0"], losses["0"], strict=True):
        chosen = select(network, Candidate.of({"0": count, "2": 8}), scores=order)
        pruned = apply(network, chosen)
        reconstructor.apply(pruned, chosen)
        with torch.no_grad():
            own, wanted = pruned[:3](x), network.model[:3](x)  # type: ignore[index]
            # Relative to the centred output: a bias makes up for the mean.
            power = wanted - wanted.mean((0, 2, 3), keepdim=True)
            expected = float((own - wanted).square().sum() / power.square().sum())
        assert loss == pytest.approx(expected, rel=2e-2, abs=1e-6)
    assert losses["0"][-1] == 0 == losses["2"][-1]
    assert (np.diff(losses["0"]) <= 0).all()
    assert losses["2"].shape == (2,)


def test_units_go_in_the_order_of_the_scores() -> None:
    network, x = net()
    best = ReconstructionImportance([x], positions=36).scores(network)
    worst = {name: -values for name, values in best.items()}
    kept = {"0": (3, 6)}
    good = reconstruction_losses(network, [x], kept, best)["0"][0]
    assert good < 0.9 * reconstruction_losses(network, [x], kept, worst)["0"][0]


def test_output_power_is_the_gradients_second_moment() -> None:
    network, x = net()
    y = torch.randint(0, 4, (64,))
    layers = {c.weight: c for c in consumers(network)}
    layer = layers["2.weight"]
    found = output_power(
        network, [(x[:60], y[:60]), (x[60:], y[60:])], [layer.end], channels=[1],
        loss=F.cross_entropy,
    )[layer.end]  # fmt: skip
    model = network.model
    assert all(p.grad is None for p in model.parameters())
    hidden = model[:3](x).detach().requires_grad_()  # type: ignore[index]
    F.cross_entropy(model[3:](hidden), y, reduction="sum").backward()  # type: ignore[index]
    assert hidden.grad is not None
    wanted = hidden.grad.square().sum((0, 2, 3)) / 64
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-9)


def test_labels_are_drawn_from_the_networks_own_predictions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fisher, "TEMPERATURE", 1.0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(4000, 5)
    network = trace(model, (x[:2],))
    last = next(c for c in consumers(network) if c.weight == "2.weight")
    found = output_power(network, [x], [last.end], channels=[1])[last.end]
    with torch.no_grad():
        p = model(x).softmax(1)
    # E (p - onehot(y))² with y ~ p is the variance of each class.
    torch.testing.assert_close(found.float(), (p * (1 - p)).mean(0), rtol=0.1, atol=0)
    again = output_power(network, [x], [last.end], channels=[1])[last.end]
    assert torch.equal(found, again)


def test_fisher_losses_weigh_errors_by_what_the_loss_feels() -> None:
    class Two(nn.Module):
        """Two branches; the second one hardly reaches the output."""

        def __init__(self) -> None:
            super().__init__()
            self.a1, self.a2 = nn.Linear(5, 8), nn.Linear(8, 4)
            self.b1, self.b2 = nn.Linear(5, 8), nn.Linear(8, 4)
            self.b1.load_state_dict(self.a1.state_dict())
            self.b2.load_state_dict(self.a2.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            a = self.a2(torch.relu(self.a1(x)))
            b = self.b2(torch.relu(self.b1(x)))
            return a.tanh() + 0.1 * b.tanh()

    x = torch.randn(200, 5)
    network = trace(Two().eval(), (x[:2],))
    kept = {"a1": (2, 4, 8), "b1": (2, 4, 8)}
    order = scores(network, "l1")
    plain = reconstruction_losses(network, [x], kept, order)
    np.testing.assert_allclose(plain["a1"], plain["b1"], rtol=1e-3)
    weighed = fisher_losses(network, [x], kept, order)
    np.testing.assert_allclose(weighed["b1"], 0.01 * weighed["a1"], rtol=1e-3)
    given = fisher_losses(
        network, iter([x]), kept, order, labelled=[(x, torch.zeros(200, dtype=torch.long))],
        loss=F.cross_entropy,
    )  # fmt: skip
    np.testing.assert_allclose(given["b1"], 0.01 * given["a1"], rtol=1e-3)


def test_networks_of_tokens_have_gradients_too() -> None:
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 11)).eval()
    tokens = torch.randint(0, 11, (8, 5))
    network = trace(model, (tokens[:2],))
    kept = {group.name: (group.units // 2, group.units) for group in network.groups}
    losses = fisher_losses(network, [tokens], kept, scores(network, "l1"))
    assert losses["1"][0] > 0
    assert all(p.grad is None for p in model.parameters())


def test_bad_input() -> None:
    network, x = net()
    order = scores(network, "l1")
    with pytest.raises(ConfigError, match="at least one batch"):
        reconstruction_losses(network, [], {"0": (3, 6)}, order)

    def broken(output: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no such target")

    labelled = [(x, torch.zeros(64))]
    with pytest.raises(EvaluationError, match="no such target"):
        fisher_losses(network, [x], {"0": (3, 6)}, order, labelled=labelled, loss=broken)
    with pytest.raises(ConfigError, match="pair"):
        fisher_losses(network, [x], {"0": (3, 6)}, order, labelled=[x], loss=F.cross_entropy)
    scalar = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)).eval()
    small = trace(scalar, (torch.randn(2, 5),))
    with pytest.raises(ConfigError, match="gives logits"):
        fisher_losses(small, [torch.randn(8, 5)], {"0": (3, 6)}, scores(small, "l1"))
