"""Importance scores against figures worked out by hand."""

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from traced import traced

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.graph.trace import trace
from autoprune.pruning import BatchNormScale, Importance, Norm, Taylor, scores


class Two(nn.Module):
    """conv → BatchNorm → conv, mean: one group of three channels."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1, 1))
            self.bn.weight.copy_(torch.tensor([-4.0, 1.0, 1.0]))
            self.b.weight.copy_(torch.tensor([[3.0, 0.0, 1.0], [-4.0, 1.0, 0.0]]).view(2, 3, 1, 1))

    def forward(self, x):
        return self.b(torch.relu(self.bn(self.a(x)))).mean((2, 3))


@pytest.fixture
def network():
    return trace(Two().eval(), (torch.randn(2, 1, 4, 4),))


def normal(*values):
    return np.array(values) / np.mean(values)


def test_norms_are_means_of_normalised_members(network):
    one = (normal(1, 2, 3) + normal(4, 1, 1) + normal(7, 1, 1)) / 3
    two = (normal(1, 2, 3) + normal(4, 1, 1) + normal(5, 1, 1)) / 3
    (name,) = scores(network, "l1")
    np.testing.assert_allclose(scores(network, "l1")[name], one, rtol=1e-6)
    np.testing.assert_allclose(scores(network, "l2")[name], two, rtol=1e-6)
    np.testing.assert_allclose(scores(network, Norm(2))[name], two, rtol=1e-6)


def test_batch_norm_scale(network):
    (found,) = scores(network, "bn_scale").values()
    np.testing.assert_allclose(found, normal(4, 1, 1), rtol=1e-6)


def test_batch_norm_scale_falls_back_to_l2_or_refuses():
    network = traced("vgg")  # its third convolution has no BatchNorm
    expected, found = scores(network, "l2"), scores(network, "bn_scale")
    without = [name for name in found if np.array_equal(found[name], expected[name])]
    assert without == ["8", "11"]
    with pytest.raises(ConfigError, match="8, 11"):
        scores(network, BatchNormScale(fallback=None))


def test_taylor_is_weight_times_gradient(network):
    """Against gradients taken here, on two batches, and the model left as it was."""
    model = network.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = [torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]

    def loss(m, x):
        return m(x).square().sum()

    (found,) = scores(network, Taylor(batches, loss)).values()
    expected = np.zeros(3)
    for batch in batches:
        gradient = dict(
            zip(
                ("a.weight", "a.bias", "bn.weight", "bn.bias", "b.weight"),
                torch.autograd.grad(
                    loss(model, batch),
                    [model.a.weight, model.a.bias, model.bn.weight, model.bn.bias, model.b.weight],
                ),
                strict=True,
            )
        )
        for name, g in gradient.items():
            product = (model.get_parameter(name) * g).detach()
            dim = 1 if name == "b.weight" else 0
            expected += product.movedim(dim, 0).reshape(3, -1).sum(1).abs().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("batches", "loss", "message"),
    [
        ([], lambda m, x: m(x).sum(), "at least one batch"),
        ([0], lambda m, x: float("nan"), "finite scalar"),
        ([0], lambda m, x: torch.tensor(float("nan")), "finite scalar"),
        ([0], lambda m, x: torch.ones(2), "finite scalar"),
        ([0], lambda m, x: torch.tensor(1.0), "without gradients"),
    ],
)
def test_taylor_refuses(network, batches, loss, message):
    with pytest.raises(EvaluationError, match=message):
        scores(network, Taylor(batches, loss))


def test_names(network):
    with pytest.raises(ConfigError, match="needs data"):
        scores(network, "taylor")
    with pytest.raises(ConfigError, match="l1, l2, bn_scale"):
        scores(network, "l3")
    with pytest.raises(ConfigError, match="1 or 2"):
        Norm(3)


def test_own_importance(network):
    class Index(Importance):
        def scores(self, network):
            return {g.name: np.arange(g.units, dtype=float) for g in network.groups}

    (found,) = scores(network, Index()).values()
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["resnet_padded", "shufflenet_v2", "fused_qkv", "tied_lm", "unet"])
def test_every_group_is_scored(name):
    """Every group gets finite scores, one a unit, above zero, from all its weights."""
    network = traced(name)
    for importance in ("l1", "l2", "bn_scale"):
        found = scores(network, importance)
        assert list(found) == [g.name for g in network.groups]
        for group in network.groups:
            assert found[group.name].shape == (group.units,)
            assert np.isfinite(found[group.name]).all()
            np.testing.assert_allclose(found[group.name].mean(), 1.0, rtol=1e-6)


def test_a_unit_of_zeros_scores_least():
    model, inputs = zoo.build("resnet")
    with torch.no_grad():
        model.layers[0].conv1.weight[3] = 0
        model.layers[0].bn1.weight[3] = 0
        model.layers[0].conv2.weight[:, 3] = 0
    network = trace(model, inputs)
    for importance in ("l1", "l2", "bn_scale"):
        found = scores(network, importance)["layers.0.conv1"]
        assert found[3] == 0
        assert found.argmin() == 3
