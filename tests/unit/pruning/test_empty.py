"""Layers that are left without channels."""

from __future__ import annotations

import copy

import branches
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.core.candidate import Candidate
from autoprune.graph import trace
from autoprune.pruning.empty import EmptyConv2d, call, convolve
from autoprune.pruning.mask import mask
from autoprune.pruning.plan import load, save
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply, prune


def _without(network, *names):
    return Candidate.of({**network.dense, **dict.fromkeys(names or network.kernels.removable, 0)})


@pytest.mark.parametrize("name", branches.WITH)
@pytest.mark.parametrize("which", [0, 1, None])
def test_a_removed_branch_is_the_masked_network_s(name, which):
    model, inputs = branches.WITH[name]()
    network = trace(model, inputs)
    names = sorted(network.kernels.removable)
    candidate = _without(network, *(names if which is None else names[which : which + 1]))
    pruned = prune(network, candidate, check=False)
    wanted = mask(network, candidate)(*inputs)
    assert torch.allclose(pruned(*inputs), wanted, atol=1e-6)
    assert torch.allclose(pruned(*inputs), _skipping(model, network, candidate)(*inputs), atol=1e-6)
    assert sum(p.numel() for p in pruned.parameters()) == _counted(network, candidate)
    assert type(pruned) is type(model)


def _skipping(model, network, candidate):
    """The dense network with shortcuts alone in place of the blocks that go."""
    model = copy.deepcopy(model)
    for name in (n for n, count in candidate.items() if not count):
        block = model.get_submodule(name.split(".")[0])
        if isinstance(block, branches.Block):
            block.forward = lambda x, block=block: torch.relu(block.shortcut(x))
        else:
            block.forward = lambda x: x
    return model


def _counted(network, candidate):
    """Parameters as the symbolic kernels count them."""
    work = network.workload(candidate)
    sizes = [work.shape(b.shape).prod() for b in network.kernels.parameters if b.trainable]
    return int(sum(sizes))


def test_it_trains_and_is_copied_and_saved(tmp_path):
    model, inputs = branches.residual()
    network = trace(model, inputs)
    pruned = prune(network, _without(network, "1.conv1"))
    save(pruned, tmp_path)
    loaded = load(tmp_path, branches.residual()[0])
    twin = copy.deepcopy(pruned)
    for other in (loaded, twin):
        assert torch.equal(other.eval()(*inputs), pruned(*inputs))
    twin.train()
    twin(*inputs).sum().backward()
    assert twin[1].bn2.bias.grad is None  # it stays zero
    assert twin[2].conv1.weight.grad.abs().sum() > 0


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(5, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
)
def test_it_has_the_size_of_an_ordinary_convolution(size, kernel, stride, padding, dilation, bias):
    layer = nn.Conv2d(2, 4, kernel, stride, padding, dilation, bias=bias)
    wanted = layer(torch.zeros(3, 2, size, size + 1))
    settings_ = (layer.stride, layer.padding, layer.dilation)
    got = convolve(torch.zeros(3, 0, size, size + 1), layer.weight[:, :0], layer.bias, *settings_)
    assert torch.equal(got, wanted.detach() if not bias else wanted)
    made = convolve(torch.zeros(3, 2, size, size + 1), layer.weight[:0], None, *settings_)
    assert made.shape == (3, 0, *wanted.shape[2:])


@pytest.mark.parametrize("padding", ["same", "valid", [1, 2], 1])
def test_a_traced_op_is_called_with_any_form_of_its_settings(padding):
    x, weight = torch.zeros(2, 3, 7, 8), torch.zeros(4, 3, 3, 3)
    overload = "padding" if isinstance(padding, str) else "default"
    op = getattr(torch.ops.aten.conv2d, overload)
    full = [padding, padding] if isinstance(padding, int) else padding
    wanted = op(x, weight, None, [1, 1], full)
    got = call(op, (x[:, :0], weight[:, :0], None, [1, 1], full), {})
    assert got.shape == wanted.shape
    assert not got.any()


def test_with_channels_it_is_an_ordinary_convolution():
    layer = nn.Conv2d(2, 3, 3)
    x = torch.randn(1, 2, 5, 5)
    wanted = layer(x)
    layer.__class__ = EmptyConv2d
    assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("name", branches.WITH)
def test_the_layers_behind_a_removed_branch_are_refitted(name):
    model, inputs = branches.WITH[name]()
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(32, *inputs[0].shape[1:], generator=generator) for _ in range(4)]
    network = trace(model, inputs)
    first = sorted(network.kernels.removable)[0]
    selection = select(network, _without(network, first))
    pruned = apply(network, selection)
    dense, before = model(batches[-1]), pruned(batches[-1])
    refitted = Reconstructor(network, batches[:-1]).apply(pruned, selection)
    assert any(weight.startswith("2.") for weight in refitted)
    after = pruned(batches[-1])
    assert (after - dense).square().mean() < 0.8 * (before - dense).square().mean()
    # The branch still adds nothing, so that no runtime need run it.
    silenced = network.silenced(selection)
    state = pruned.state_dict()
    assert all(not state[name].any() for name in silenced)
