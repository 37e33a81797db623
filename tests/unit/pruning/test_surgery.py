"""Surgery's finer points: forms, modes, hooks, devices and types, what it refuses."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from traced import random_selection, traced

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError, SurgeryError
from autoprune.graph.trace import trace
from autoprune.pruning import GraphNetwork, apply, prune, select, verify


def half(network):
    return Candidate.of({g.name: max(1, g.units // 2) for g in network.groups})


@settings(deadline=None, max_examples=8)
@given(st.sampled_from(["resnet_padded", "shufflenet_v2", "mha", "group_norm", "dpn"]), st.data())
def test_any_selection_equals_its_masked_network(name, data):
    network = traced(name, torch.float64)
    selection = {}
    for group in network.groups:
        bits = data.draw(st.lists(st.booleans(), min_size=group.units, max_size=group.units))
        selection[group.name] = np.array(bits) if any(bits) else np.ones(group.units, dtype=bool)
    assert verify(network, selection, apply(network, selection)) <= 1e-9


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("resnet", False),
        ("resnet_padded", True),
        ("hard_coded", True),
        ("mha", False),
        ("grouped_query", False),
        ("senet", False),
        ("hf_llama", False),
        ("hf_bert", False),
        ("hf_gpt2", False),
        ("hf_vit", False),
    ],
)
def test_form(name, graph):
    if name in zoo.NEEDS_TRANSFORMERS:
        pytest.importorskip("transformers")
    network = traced(name)
    pruned = prune(network, half(network))
    assert isinstance(pruned, GraphNetwork) == graph
    assert isinstance(pruned, type(network.model)) != graph
    assert bool(pruned.autoprune_note) == graph
    assert pruned.autoprune_record.form == ("graph" if graph else "module")


def test_fused_heads_alone_make_a_graph_and_with_the_stream_they_need_not():
    """`c // self.num_heads` is right only while both shrink alike."""
    network = traced("fused_qkv")
    kept = {**dict(network.dense.kept), "blocks.0.attention.qkv": 2}
    assert isinstance(prune(network, Candidate.of(kept)), GraphNetwork)
    alike = {**kept, "blocks.1.attention.qkv": 2, "embed": 8}
    assert type(prune(network, Candidate.of(alike))) is type(network.model)


def test_note_says_which_width_is_hard_coded():
    network = traced("hard_coded")
    note = prune(network, half(network)).autoprune_note
    assert "view [-1, 256], now [-1, 128], in the network (HardCoded)" in note


def test_hard_coded_width_that_is_not_pruned_leaves_the_class():
    network = traced("hard_coded")
    pruned = prune(network, Candidate.of({**dict(network.dense.kept), "fc1": 5, "conv1.0": 3}))
    assert type(pruned) is type(network.model)
    assert pruned.fc1.out_features == 5


def test_attribute_that_holds_the_number_of_heads():
    network = traced("mha")
    kept = {**dict(network.dense.kept), "blocks.0.attention.q": 3}
    pruned = prune(network, Candidate.of(kept))
    assert pruned.blocks[0].attention.num_heads == 3
    assert pruned.blocks[0].attention.head_dim == 4
    assert pruned.blocks[1].attention.num_heads == 2
    assert network.model.blocks[0].attention.num_heads == 4


class SplitSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.sizes = [6, 4]
        self.a, self.b = nn.Linear(3, 10), nn.Linear(6, 2)
        self.c = nn.Linear(4, 2)

    def forward(self, x):
        left, right = self.a(x).split(self.sizes, dim=-1)
        return self.b(F.relu(left)) + self.c(torch.tanh(right))


def test_attribute_that_is_a_list():
    network = trace(SplitSizes().eval(), (torch.randn(2, 3),))
    selection = {g.name: np.arange(g.units) < g.units - 1 for g in network.groups}
    pruned = prune(network, selection)
    assert isinstance(pruned, SplitSizes)
    assert pruned.sizes == [5, 3]
    assert network.model.sizes == [6, 4]


def test_module_attributes_agree_with_the_weights():
    network = traced("mobilenet_v2")
    pruned = prune(network, half(network))
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[0] == module.out_channels
            assert module.weight.shape[1] * module.groups == module.in_channels
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)
        if isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)


def test_keeps_mode_hooks_requires_grad_and_buffers():
    model, inputs = zoo.build("resnet")
    network = trace(model, inputs)
    model.train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.register_buffer("scratch", torch.arange(3), persistent=False)
    model.extra = {"note": [1, 2]}
    calls = []
    model.linear.register_forward_hook(lambda *_: calls.append(1))
    pruned = prune(network, half(network))
    assert pruned.training
    assert not pruned.bn1.training
    assert not pruned.conv1.weight.requires_grad
    assert pruned.bn1.weight.requires_grad
    assert torch.equal(pruned.scratch, torch.arange(3))
    assert pruned.extra == model.extra
    assert pruned.extra is not model.extra
    before = len(calls)
    pruned(*inputs)
    assert len(calls) == before + 1
    assert model.training
    assert not model.bn1.training


def test_takes_weights_as_they_are_now():
    """Not as they were when the model was traced."""
    model, inputs = zoo.build("hard_coded")
    network = trace(model, inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    pruned = prune(network, network.dense)
    assert torch.equal(pruned(*inputs), model(*inputs))
    assert verify(network, select(network, half(network)), prune(network, half(network))) <= 1e-4


def test_keeps_channels_last():
    model, inputs = zoo.build("resnet")
    network = trace(model, inputs)
    model.to(memory_format=torch.channels_last)
    pruned = prune(network, half(network))
    weight = pruned.layers[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_tied_modules_stay_one():
    network = traced("tied_weight")
    pruned = prune(network, half(network))
    assert pruned.a.weight is pruned.b.weight
    model, inputs = zoo.build("tied_conv")
    model.alias = model.shared
    pruned = prune(trace(model, inputs), half(trace(model, inputs)))
    assert pruned.alias is pruned.shared


def test_check_finds_a_wrong_label():
    """A network whose labels are made wrong on purpose: the check must say so."""
    network = traced("vgg")
    labels = network.parameters["4.weight"][1].copy()
    wrong = {**network.parameters, "4.weight": (network.parameters["4.weight"][0], labels[::-1])}
    broken = dataclasses.replace(network, parameters=wrong)
    selection = {g.name: np.ones(g.units, dtype=bool) for g in network.groups}
    selection["0"][:2] = False
    pruned = apply(broken, selection)
    with pytest.raises(SurgeryError, match="mistake in a coupling rule; groups kept in part: 0"):
        verify(network, selection, pruned)  # masked by the right labels


def test_refuses_selections_that_do_not_fit():
    network = traced("vgg")
    selection = random_selection(network, np.random.default_rng(0))
    with pytest.raises(CandidateError, match="name this network's groups"):
        prune(network, {**selection, "nothing": np.ones(2, dtype=bool)})
    with pytest.raises(CandidateError, match="at least 1 of the 8 units"):
        prune(network, {**selection, "0": np.zeros(8, dtype=bool)})
    with pytest.raises(CandidateError, match="missing"):
        prune(network, Candidate.of({"0": 4}))


class Hidden(nn.Module):
    """Works a width out of an attribute of a layer: nothing that the graph could tell."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 12)
        self.c = nn.Linear(6, 2)

    def forward(self, x):
        y = self.b(torch.relu(self.a(x)))
        return self.c(y.view(-1, 2, self.a.out_features - 2).sum(1))


def test_falls_back_to_the_graph_when_the_check_fails():
    network = trace(Hidden().eval(), (torch.randn(2, 3),))
    candidate = Candidate.of(
        {g.name: g.units - 1 if g.name == "a" else g.units for g in network.groups}
    )
    pruned = prune(network, candidate)
    assert isinstance(pruned, GraphNetwork)
    assert pruned.a.out_features == 7


def test_pruned_network_can_be_copied():
    for name in ("resnet", "hard_coded"):
        network = traced(name)
        pruned = prune(network, half(network))
        other = copy.deepcopy(pruned)
        assert torch.equal(other(*network.example_inputs), pruned(*network.example_inputs))
        assert other.autoprune_record == pruned.autoprune_record
        with torch.no_grad():
            next(other.parameters()).mul_(2)
        assert not torch.equal(other(*network.example_inputs), pruned(*network.example_inputs))


class Repeats(nn.Module):
    """Two key-value heads, each with two queries: twice the same number, of which one stays."""

    def __init__(self):
        super().__init__()
        self.width, self.repeats = 12, 2
        self.inp, self.out = nn.Linear(3, 12), nn.Linear(16, 2)
        self.q, self.k, self.v = nn.Linear(12, 16), nn.Linear(12, 8), nn.Linear(12, 8)

    def forward(self, x):
        x = F.layer_norm(self.inp(x), (self.width,))

        def heads(y, repeats):
            y = y.unflatten(-1, (-1, 4)).transpose(1, 2)
            if repeats == 1:
                return y
            b, h, t, w = y.shape
            return y[:, :, None].expand(b, h, repeats, t, w).reshape(b, h * repeats, t, w)

        q, k, v = (
            heads(self.q(x), 1),
            heads(self.k(x), self.repeats),
            heads(self.v(x), self.repeats),
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def test_an_attribute_that_may_stay_is_not_changed_for_nothing():
    """With one key the product would broadcast it: `repeats` at 1 gives the same output."""
    network = trace(Repeats().eval(), (torch.randn(2, 5, 3),))
    pruned = prune(network, {g.name: np.arange(g.units) < g.units // 2 for g in network.groups})
    assert isinstance(pruned, Repeats)
    assert (pruned.width, pruned.repeats) == (6, 2)
    assert pruned.k.out_features == 4
