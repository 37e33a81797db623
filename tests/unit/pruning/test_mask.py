"""Masked networks: zeros where surgery cuts, norms over what is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from traced import random_selection, traced

from autoprune.pruning import GraphNetwork, mask
from autoprune.pruning._statistics import masked_statistic
from autoprune.pruning.mask import masked_group_norm, masked_layer_norm, masked_rms_norm


@pytest.mark.parametrize("name", ["resnet_padded", "mlp_layer_norm", "group_norm", "fused_qkv"])
def test_exactly_what_surgery_removes_is_zero(name):
    network = traced(name)
    selection = random_selection(network, np.random.default_rng(5))
    masked, kept = mask(network, selection), network.kept_indices(selection)
    dense = dict(network.model.named_parameters())
    assert kept
    for name_, parameter in masked.named_parameters():
        expected = torch.zeros_like(parameter)
        where = [torch.arange(n) for n in parameter.shape]
        for dim, indices in kept.get(name_, {}).items():
            where[dim] = torch.from_numpy(indices)
        index = torch.meshgrid(*where, indexing="ij")
        expected[index] = dense[name_].detach()[index]
        assert torch.equal(parameter, expected)


def test_is_of_the_users_class_without_norms_over_pruned_channels():
    assert type(mask(traced("resnet"), traced("resnet").dense)) is type(traced("resnet").model)
    network = traced("mlp_rms_norm")
    selection = {g.name: np.arange(g.units) > 0 for g in network.groups}
    masked = mask(network, selection)
    assert isinstance(masked, GraphNetwork)
    assert "statistics" in masked.autoprune_note


def where_and_rest():
    where = torch.tensor([1.0, 0, 1, 1, 0, 1])
    return where, where.bool()


def test_masked_layer_norm():
    x, w, b = torch.randn(4, 6), torch.randn(6), torch.randn(6)
    where, keep = where_and_rest()
    y = masked_layer_norm(x, w, b, where, 1, 1e-5)
    torch.testing.assert_close(y[:, keep], F.layer_norm(x[:, keep], (4,), w[keep], b[keep]))
    assert (y[:, ~keep] == 0).all()


def test_masked_layer_norm_over_two_dimensions():
    x = torch.randn(3, 2, 6)
    where, keep = where_and_rest()
    y = masked_layer_norm(x, None, None, where.expand(2, 6), 2, 1e-5)
    torch.testing.assert_close(y[..., keep], F.layer_norm(x[..., keep], (2, 4)))


@pytest.mark.parametrize("eps", [None, 0.1])
def test_masked_rms_norm(eps):
    x, w = torch.randn(4, 6), torch.randn(6)
    where, keep = where_and_rest()
    y = masked_rms_norm(x, w, where, 1, eps)
    torch.testing.assert_close(y[:, keep], F.rms_norm(x[:, keep], (4,), w[keep], eps))
    assert (y[:, ~keep] == 0).all()


def test_masked_group_norm():
    x, w, b = torch.randn(2, 6, 3, 3), torch.randn(6), torch.randn(6)
    where = torch.tensor([1.0, 0, 1, 1, 0, 1])  # two of three channels in both groups
    keep = where.bool()
    y = masked_group_norm(x, w, b, where, 2, 1e-5)
    torch.testing.assert_close(y[:, keep], F.group_norm(x[:, keep], 2, w[keep], b[keep]))
    assert (y[:, ~keep] == 0).all()
    where = torch.tensor([0.0, 0, 0, 1, 1, 1])  # a whole group gone
    y = masked_group_norm(x, w, b, where, 2, 1e-5)
    torch.testing.assert_close(y[:, 3:], F.group_norm(x[:, 3:], 1, w[3:], b[3:]))
    assert (y[:, :3] == 0).all()


def test_works_at_another_batch_size():
    network = traced("fused_qkv")
    masked = mask(network, random_selection(network, np.random.default_rng(0)))
    inputs = zoo.with_batch(network.example_inputs, 7)
    assert masked(*inputs).shape == (7, 5)


@pytest.mark.parametrize("keepdim", [True, False])
def test_masked_statistics(keepdim):
    x = torch.randn(3, 5, 6)
    where, keep = where_and_rest()
    where = where.view(1, 1, 6)
    for dims in ((2,), (1, 2)):
        given = (x, where, dims, keepdim)
        kept = x[..., keep]
        torch.testing.assert_close(masked_statistic(*given, None, False), kept.mean(dims, keepdim))
        for correction in (0, 1):
            variance = kept.var(dims, correction=correction, keepdim=keepdim)
            torch.testing.assert_close(masked_statistic(*given, correction, False), variance)
            torch.testing.assert_close(masked_statistic(*given, correction, True), variance.sqrt())
