"""The graph form: inputs, outputs and training mode of the original."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn
from traced import random_selection, traced

from autoprune.core.errors import SurgeryError
from autoprune.graph.trace import trace
from autoprune.pruning import GraphNetwork, apply, save
from autoprune.pruning.surgery import _made


class Net(nn.Module):
    """Keyword input, dictionary output, dropout in three ways, a constant, written-out width."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.bn = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.b = nn.Linear(6, 3)

    def forward(self, x, scale=None, *, shift):
        x = self.drop(self.bn(self.a(x)))
        x = F.dropout(x, 0.5, self.training).reshape(-1, 2, 3).reshape(-1, 6)
        x = self.b(x) + shift + torch.tensor([1.0, 2.0, 3.0])
        return {"y": x if scale is None else x * scale, "list": [x.sum(1)]}


def make(seed=0):
    torch.manual_seed(seed)
    model = zoo.randomise(Net()).eval()
    network = trace(model, (torch.randn(3, 4),), {"shift": torch.ones(1)})
    selection = {g.name: np.ones(g.units, dtype=bool) for g in network.groups}
    return model, _made(network, selection, as_graph=True)


def test_same_inputs_and_output_structure():
    model, graph = make()
    assert isinstance(graph, GraphNetwork)
    x, shift = torch.randn(5, 4), torch.ones(1)
    expected = model(x, shift=shift)
    for got in (graph(x, shift=shift), graph(shift=shift, x=x), graph(x, None, shift=shift)):
        assert list(got) == ["y", "list"]
        assert isinstance(got["list"], list)
        torch.testing.assert_close(got, expected)


def test_refuses_inputs_it_was_not_traced_with():
    _, graph = make()
    x = torch.randn(5, 4)
    with pytest.raises(TypeError, match="'scale' was not among the example inputs"):
        graph(x, x, shift=torch.ones(1))
    with pytest.raises(TypeError, match="shift"):
        graph(x)
    with pytest.raises(TypeError, match="structure of the example inputs"):
        graph([x], shift=torch.ones(1))


def test_same_state_dict_and_modules():
    model, graph = make()
    assert list(graph.state_dict()) == list(model.state_dict())
    graph.load_state_dict({k: torch.zeros_like(v) for k, v in model.state_dict().items()})
    assert isinstance(graph.bn, nn.BatchNorm1d)
    assert "self.bn(" in graph.code


def test_training_mode_switches_batch_norm_and_dropout():
    model, graph = make()
    x, shift = torch.randn(64, 4) + 3, torch.ones(1)
    quiet = graph(x, shift=shift)["y"]
    assert torch.equal(quiet, graph(x, shift=shift)["y"])
    graph.train()
    before = graph.bn.running_mean.clone()
    first, second = graph(x, shift=shift)["y"], graph(x, shift=shift)["y"]
    assert not torch.equal(first, second)
    assert not torch.equal(before, graph.bn.running_mean)
    assert graph.bn.num_batches_tracked == 2
    model.train()
    model(x, shift=shift)
    model(x, shift=shift)
    torch.testing.assert_close(model.bn.running_mean, graph.bn.running_mean)
    graph.eval()
    assert torch.equal(graph(x, shift=shift)["y"], graph(x, shift=shift)["y"])


def test_functional_dropout_and_module_dropout_apart():
    """One submodule's mode rules its own dropout only."""
    _, graph = make()
    x, shift = torch.randn(64, 4), torch.ones(1)
    graph.drop.train()
    zeros = (graph(x, shift=shift)["y"] != graph(x, shift=shift)["y"]).any()
    assert zeros
    graph.drop.eval()
    graph.training = True  # the root's own mode: F.dropout alone
    assert not torch.equal(graph(x, shift=shift)["y"], graph(x, shift=shift)["y"])


def test_hooks_of_leaf_modules_run():
    _, graph = make()
    seen = []
    graph.a.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    graph(torch.randn(5, 4), shift=torch.ones(1))
    assert seen == [(5, 6)]


def test_moves_to_another_dtype():
    model, graph = make()
    x, shift = torch.randn(5, 4).double(), torch.ones(1).double()
    torch.testing.assert_close(graph.double()(x, shift=shift), model.double()(x, shift=shift))


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_every_architecture_runs_as_a_graph(name):
    network = traced(name)
    selection = random_selection(network, np.random.default_rng(4))
    graph, pruned = _made(network, selection, as_graph=True), apply(network, selection)
    inputs = zoo.with_batch(network.example_inputs, 3)
    with torch.no_grad():
        torch.testing.assert_close(graph(*inputs), pruned(*inputs), rtol=1e-4, atol=1e-4)
    assert list(graph.state_dict()) == list(pruned.state_dict())


def test_an_unpruned_module_has_no_record(tmp_path):
    with pytest.raises(SurgeryError, match="autoprune pruned"):
        save(nn.Linear(2, 2), tmp_path)
