"""Biases are corrected by how far pruning moved the mean of a layer's output."""

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from traced import traced

from autoprune.core.candidate import Candidate
from autoprune.graph import trace
from autoprune.graph.network import Network, Selection
from autoprune.pruning._biases import Mean, means
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply


class Normed(nn.Module):
    """A residual block after a LayerNorm; the head has no bias, so the last norm's one serves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.last(x + self.down(F.gelu(self.up(self.norm(x))))))


def normed() -> tuple[Network, list[Tensor]]:
    torch.manual_seed(0)
    batches = [torch.randn(n, 7, 6) for n in (8, 5)]
    return trace(Normed().eval(), (batches[0],)), batches


def half(network: Network, *names: str) -> Selection:
    kept = {g.name: g.units // 2 if g.name in names else g.units for g in network.groups}
    return select(network, Candidate.of(kept), "l1")


def test_the_mean_of_every_batch_counts_by_its_size() -> None:
    x = torch.randn(9, 4, 5)
    mean = Mean("bias", 1)
    for part in x.split([2, 6, 1]):
        mean.add(part)
    kept = np.array([0, 2])
    pruned = mean.new()
    pruned.add(x[:, kept] + 3.0)
    assert torch.allclose(pruned.since(mean, kept), torch.full((2,), 3.0, dtype=torch.float64))


def test_outputs_have_the_dense_mean_again() -> None:
    network, batches = normed()
    selection = half(network, "up")
    cut, fitted = apply(network, selection), apply(network, selection)
    assert Reconstructor(network, batches, scope="bias").apply(fitted, selection) == ()
    before, after = cut.state_dict(), fitted.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"down.bias", "last.bias"}
    with torch.no_grad():
        wanted = torch.cat([network.model(x).flatten(0, 1) for x in batches]).mean(0)
        given = torch.cat([fitted(x).flatten(0, 1) for x in batches]).mean(0)
        uncorrected = torch.cat([cut(x).flatten(0, 1) for x in batches]).mean(0)
    assert torch.allclose(given, wanted, atol=1e-5)
    assert not torch.allclose(uncorrected, wanted, atol=1e-2)


def test_layers_that_are_refitted_are_left_to_the_refit() -> None:
    network, batches = normed()
    selection = half(network, "up")
    fitted = apply(network, selection)
    reconstructor = Reconstructor(network, batches)
    assert reconstructor.apply(fitted, selection) == ("down.weight",)
    corrected = fitted.state_dict()
    without = apply(network, selection)
    reconstructor.means.clear()
    reconstructor.apply(without, selection)
    refitted = without.state_dict()
    changed = {key for key in corrected if not torch.equal(corrected[key], refitted[key])}
    assert changed == {"last.bias"}


def test_nothing_pruned_nothing_changed() -> None:
    network, batches = normed()
    selection = half(network)
    whole = apply(network, selection)
    Reconstructor(network, batches, scope="bias").apply(whole, selection)
    dense = network.model.state_dict()
    assert all(torch.equal(dense[key], value) for key, value in whole.state_dict().items())


def test_biases_that_two_layers_share_are_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 6)
            self.b.bias = self.a.bias
            self.c = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(F.relu(self.a(x))).relu())

    network = trace(Shared().eval(), (torch.randn(2, 4),))
    assert [mean.bias for mean in means(network).values()] == ["c.bias"]


@pytest.mark.parametrize("name", ["resnet", "convnext", "group_norm", "hf_gpt2", "tied_lm", "unet"])
def test_only_biases_and_statistics_of_real_architectures_change(name: str) -> None:
    network = traced(name)
    inputs = network.example_inputs
    batches = [zoo.with_batch(inputs, len(inputs[0])) for _ in range(3)]
    kept = {g.name: max(1, 3 * g.units // 4) for g in network.groups}
    selection = select(network, Candidate.of(kept), "l1")
    fitted = apply(network, selection)
    before = {key: value.clone() for key, value in fitted.state_dict().items()}
    Reconstructor(network, batches, scope="bias").apply(fitted, selection)
    after = fitted.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed
    assert {key.rpartition(".")[2] for key in changed} <= {"bias", "running_mean", "running_var"}
    assert all(bool(torch.isfinite(after[key]).all()) for key in changed)
