"""Activations beyond a limit wait in a temporary file; nothing else changes."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, SurgeryError
from autoprune.graph import trace
from autoprune.graph.network import Network
from autoprune.pruning._activations import Activations, _storages
from autoprune.pruning._batches import as_calls
from autoprune.pruning._walk import Walk, lookup
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply

#: Residual adds with ReLU in place; attention with splits and views; dense concatenations.
NAMES = ["resnet", "fused_qkv", "densenet"]


class InPlace(nn.Module):
    """Values that share a storage: written in place, flattened, transposed, split."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.c = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.a(x))
        z = self.b(y).relu_().add_(y)
        left, right = z.flatten(2).transpose(1, 2).chunk(2, dim=1)
        return self.c(left * right + left)


def walk(network: Network, batches: list[Tensor], limit: int | None) -> tuple[Walk, list[Tensor]]:
    """Run the dense network; its output on each batch, and the accounts checked on the way."""
    nodes = list(network.program.graph.nodes)
    runner = Walk(
        network.program, nodes, lookup(network.model), as_calls(batches), None, None, limit
    )
    (result,) = nodes[-1].args[0]
    found: list[Tensor] = []

    def after(node: fx.Node) -> None:
        held = runner._values
        blocks = held._blocks.values()
        assert held.held == sum(block.storage.nbytes() for block in blocks)
        assert all(block.storage.nbytes() in (0, block.size) for block in blocks)
        if node is result:
            found.extend(value.clone() for value in runner.values(node))

    with torch.no_grad():
        runner.run(after=after)
    return runner, found


@pytest.fixture(scope="module")
def in_place() -> Network:
    return trace(InPlace().eval(), (torch.randn(3, 3, 8, 8),))


@settings(max_examples=20, deadline=None)
@given(limit=st.integers(0, 60_000), seed=st.integers(0, 9))
def test_values_are_the_same_whatever_the_limit(in_place: Network, limit: int, seed: int) -> None:
    torch.manual_seed(seed)
    batches = [torch.randn(3, 3, 8, 8) for _ in range(4)]
    _, found = walk(in_place, batches, limit)
    for batch, value in zip(batches, found, strict=True):
        assert torch.equal(value, in_place.model(batch))


def test_memory_is_bounded() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 1) for _ in range(5)]
    batches = [torch.randn(2, 4, 8, 8) for _ in range(8)]
    network = trace(nn.Sequential(*layers).eval(), (batches[0],))
    size = 4 * batches[0].numel()
    whole, expected = walk(network, batches, 2**40)
    assert whole.peak >= 8 * size
    bounded, found = walk(network, batches, 3 * size)
    assert bounded.peak <= 5 * size
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_refitted_weights_and_scores_are_the_same(name: str) -> None:
    model, inputs = zoo.build(name)
    network = trace(model, inputs)
    batches = [zoo.with_batch(inputs, len(inputs[0])) for _ in range(4)]
    candidate = Candidate.of({g.name: max(1, g.units // 2) for g in network.groups})
    selection = select(network, candidate, "l1")
    states, scores = [], []
    for limit in (2**40, 0):
        pruned = apply(network, selection)
        fitted = Reconstructor(
            network, batches, positions=16, scope="all", max_live_bytes=limit
        ).apply(pruned, selection)
        assert fitted
        states.append(pruned.state_dict())
        importance = ReconstructionImportance(batches, positions=8, max_live_bytes=limit)
        scores.append(importance.scores(network))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert all(np.array_equal(scores[0][key], scores[1][key]) for key in scores[0])


def test_the_value_read_last_is_moved() -> None:
    values = Activations({"soon": [1], "late": [2]}, limit=80)
    soon, late = torch.randn(10), torch.randn(10)
    kept = soon.clone(), late.clone()
    values.put("late", 0, late)
    values.put("soon", 0, soon)
    assert values.held == 80
    values.put("more", 0, torch.randn(5))
    assert late.untyped_storage().nbytes() == 0
    assert soon.untyped_storage().nbytes() == 40
    assert torch.equal(values.get([("late", 0)])[0], kept[1])
    values.get([("soon", 0)])
    assert torch.equal(soon, kept[0])
    values.close()
    assert values.held == 0


def test_what_is_read_together_is_there_together() -> None:
    values = Activations({"a": [1], "b": [1]}, limit=0)
    a, b = torch.randn(4), torch.randn(4)
    kept = a.clone(), b.clone()
    values.put("a", 0, a)
    values.put("b", 0, b)
    found = values.get([("a", 0), ("b", 0)])
    assert torch.equal(found[0], kept[0])
    assert torch.equal(found[1], kept[1])


def test_inputs_and_parameters_are_never_moved() -> None:
    model, x = nn.Conv2d(3, 4, 1).eval(), torch.randn(2, 3, 4, 4)
    values = Activations({}, limit=0)
    values.give("x", [x])
    values.give("weight", [model.weight])
    values.put("view", 0, x.flatten(1))
    assert values.held == 0
    assert all(s.nbytes() for s in _storages([x, model.weight]))


class Opened:
    """Temporary files as they are made, or other ones in their place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str | None = None) -> None:
        self.files: list[Any] = []
        make = tempfile.TemporaryFile

        def opened(*args: Any, **kwargs: Any) -> Any:
            file = make(*args, **kwargs) if path is None else Path(path).open("r+b", 0)  # noqa: SIM115
            self.files.append(file)
            return file

        monkeypatch.setattr(tempfile, "TemporaryFile", opened)


def network() -> tuple[Network, list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    batches = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    return trace(model, (batches[0],)), batches


def test_no_file_is_made_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    walk(*network(), 2**40)
    assert not opened.files


def test_the_file_is_removed_at_the_end_and_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    traced, batches = network()
    walk(traced, batches, 0)
    with pytest.raises(SurgeryError, match="shaped like"):
        walk(traced, [batches[0], batches[1][:, :2]], 0)
    with pytest.raises(SurgeryError, match="finite"):
        Reconstructor(traced, [batches[0], batches[1] * torch.nan], max_live_bytes=0)
    assert len(opened.files) >= 2
    assert all(file.closed for file in opened.files)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, "/dev/full")
    traced, batches = network()
    with pytest.raises(SurgeryError, match=r"No space left on device.*TMPDIR"):
        Reconstructor(traced, batches, max_live_bytes=0)
    assert opened.files
    assert all(file.closed for file in opened.files)


def test_bad_input() -> None:
    traced, batches = network()
    with pytest.raises(ConfigError, match="max_live_bytes"):
        Reconstructor(traced, batches, max_live_bytes=-1)
    with pytest.raises(ConfigError, match="max_live_bytes"):
        ReconstructionImportance(batches, max_live_bytes=-1)
