"""What must hold of every architecture: the pruned network is the zero-masked dense one."""

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.utils import _pytree as pytree
from traced import random_candidate, random_selection, traced

from autoprune.pruning import apply, load, mask, prune, save, verify

NAMES = sorted(zoo.ZOO)


def leaves(output):
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def run(model, inputs):
    with torch.no_grad():
        return leaves(model(*inputs))


def apart(a, b):
    """The largest difference relative to the scale of `a`, worked out here on its own."""
    assert [x.shape for x in a] == [y.shape for y in b]
    return max(
        float((x - y).abs().max() / x.abs().max().clamp(min=1e-12))
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_pruned_equals_masked(name, dtype, limit):
    network = traced(name, dtype)
    if name == "hf_llama":  # its norms compute in float32, whatever the network is in
        limit = 1e-4
    rng = np.random.default_rng(1)
    for _ in range(3 if dtype == torch.float64 else 1):
        selection = random_selection(network, rng)
        pruned, masked = apply(network, selection), mask(network, selection)
        expected = run(masked, network.example_inputs)
        assert apart(expected, run(pruned, network.example_inputs)) <= limit
        assert verify(network, selection, pruned) <= limit


@pytest.mark.parametrize("name", NAMES)
def test_pruning_makes_a_difference(name):
    """Otherwise the equality above would say nothing."""
    network = traced(name, torch.float64)
    assert network.groups
    for group in network.groups:
        dense = run(network.model, network.example_inputs)
        differences = []
        for half in (slice(None, group.units // 2), slice(group.units // 2, None)):
            selection = {g.name: np.ones(g.units, dtype=bool) for g in network.groups}
            selection[group.name][half] = False
            masked = mask(network, selection)
            differences.append(apart(dense, run(masked, network.example_inputs)))
        assert max(differences) > 1e-6, group.name
        assert size(apply(network, selection)) < size(network.model)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_original_untouched_and_dense_candidate_changes_nothing(name):
    network = traced(name)
    model = network.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {path: str(vars(m).keys()) + repr(m) for path, m in model.named_modules()}
    prune(network, random_candidate(network, np.random.default_rng(2)))
    dense = prune(network, network.dense)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert attributes == {p: str(vars(m).keys()) + repr(m) for p, m in model.named_modules()}
    assert type(dense) is type(model)
    assert dense.autoprune_note == ""
    assert dense.autoprune_record.indices == {}
    assert dense.autoprune_record.patches == ()
    expected = run(model, network.example_inputs)
    assert apart(expected, run(dense, network.example_inputs)) == 0.0
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in dense.parameters()}
    assert not shared


@pytest.mark.parametrize("name", NAMES)
def test_pruned_network_trains_saves_loads_and_takes_another_batch(name, tmp_path):
    network = traced(name)
    selection = random_selection(network, np.random.default_rng(3))
    pruned = apply(network, selection)
    inputs = zoo.with_batch(network.example_inputs, 5)
    expected = run(mask(network, selection), inputs)
    assert apart(expected, run(pruned, inputs)) <= 1e-4

    pruned.train()
    assert all(module.training for module in pruned.modules())
    trained_before = without_gradient(network.model, inputs)
    loss = sum(out.float().square().mean() for out in leaves(pruned(*inputs)))
    loss.backward()
    assert torch.isfinite(loss)
    got = {n for n, p in pruned.named_parameters() if p.grad is None}
    assert got == trained_before
    assert all(p.grad.isfinite().all() for p in pruned.parameters() if p.grad is not None)
    torch.optim.SGD(pruned.parameters(), lr=1e-3).step()
    pruned.eval()
    assert apart(expected, run(pruned, inputs)) > 0

    save(pruned, tmp_path)
    other, _ = zoo.build(name)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
    loaded = load(tmp_path, other)
    assert list(loaded.state_dict()) == list(pruned.state_dict())
    assert apart(run(pruned, inputs), run(loaded, inputs)) <= 1e-6
    assert loaded.autoprune_record == pruned.autoprune_record
    assert tied(loaded) == tied(pruned) == tied(network.model)


def without_gradient(model, inputs):
    """Names of parameters that the model's output does not depend on."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    total = sum(out.float().sum() for out in leaves(model(*inputs)))
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return {n for n, g in zip(names, gradients, strict=True) if g is None}


def tied(model):
    """Sets of names that stand for one parameter."""
    sets = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        sets.setdefault(id(parameter), set()).add(name)
    return sorted(map(sorted, (s for s in sets.values() if len(s) > 1)))
