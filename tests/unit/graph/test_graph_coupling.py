"""Hand-known channel groups, family by family."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from traced import traced

from autoprune.core.errors import UnsupportedOpError
from autoprune.graph import Network, trace

IMAGES = torch.randn(2, 3, 8, 8)


def groups(network: Network) -> dict[str, int]:
    return {group.name: group.units for group in network.groups}


def members(network: Network, name: str) -> dict[tuple[str, int], tuple[str, int]]:
    """(tensor, dim) → (role, channels of a unit) of a group."""
    group = next(group for group in network.groups if group.name == name)
    return {(m.tensor, m.dim): (m.role, m.indices.shape[1]) for m in group.members}


class Net(nn.Module):
    """Modules by name, and a forward that is given."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._call = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args):
        return self._call(self, *args)


def conv(i: int, o: int, k: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


def test_residual_stream_is_coupled_across_blocks_and_inner_convolutions_are_free():
    network = traced("resnet")
    stem = members(network, "conv1")
    assert {name for name, dim in stem if dim == 0 and name.endswith("weight")} >= {
        "conv1.weight",
        "layers.0.conv2.weight",
        "layers.1.conv2.weight",
    }
    assert stem["layers.0.conv1.weight", 1] == ("in", 1)
    inner = members(network, "layers.0.conv1")
    assert inner["layers.0.conv1.weight", 0] == ("out", 1)
    assert inner["layers.0.conv2.weight", 1] == ("in", 1)
    assert inner["layers.0.bn1.running_var", 0] == ("out", 1)
    assert {name.split(".")[0] for name, _ in inner} == {"layers"}
    assert network.frozen == {"linear": "it is an output of the network"}


def test_zero_padded_shortcut_leaves_the_padded_channels_free():
    network = traced("resnet_padded")
    found = groups(network)
    assert found["conv1"] == 8
    assert found["layers.2.conv2"] == 8
    wide = next(g for g in network.groups if g.name == "layers.2.conv2")
    weight = next(m for m in wide.members if m.tensor == "layers.2.conv2.weight")
    assert weight.indices.ravel().tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    stem = next(g for g in network.groups if g.name == "conv1")
    weight = next(m for m in stem.members if m.tensor == "layers.2.conv2.weight")
    assert weight.indices.ravel().tolist() == list(range(4, 12))


def test_flatten_repeats_a_channel_for_every_position():
    model = nn.Sequential(conv(3, 6), nn.Flatten(), nn.Linear(6 * 64, 5))
    network = trace(model, IMAGES)
    group = network.groups[0]
    linear = next(m for m in group.members if m.tensor == "2.weight")
    assert linear.indices.shape == (6, 64)
    assert linear.indices[2].tolist() == list(range(128, 192))


def test_concatenation_keeps_a_group_for_each_producer():
    network = traced("densenet")
    assert groups(network)["0"] == 8
    reader = members(network, "1.conv2")
    assert reader["2.conv1.weight", 1] == ("in", 1)
    first = next(g for g in network.groups if g.name == "0")
    second = next(g for g in network.groups if g.name == "1.conv2")
    read = [
        next(m.indices.ravel() for m in g.members if m.tensor == "2.conv1.weight")
        for g in (first, second)
    ]
    assert sorted(np.concatenate(read).tolist()) == list(range(12))


@pytest.mark.parametrize(("multiplier", "units"), [(1, 8), (2, 8)])
def test_depthwise_channel_goes_with_its_outputs(multiplier, units):
    model = nn.Sequential(conv(3, 8), conv(8, 8 * multiplier, 3, groups=8), conv(8 * multiplier, 4))
    network = trace(model, IMAGES)
    assert groups(network) == {"0": units}
    found = members(network, "0")
    assert found["1.weight", 0] == ("out", multiplier)
    assert found["2.weight", 1] == ("in", multiplier)
    kernel = next(k for k in network.kernels.kernels if k.layer == "1")
    assert network.kernels.instantiate([[3]]).sizes[0][kernel.groups] == 3


def test_many_small_groups_shrink_by_whole_groups():
    model = nn.Sequential(conv(3, 32), conv(32, 32, 3, groups=8), conv(32, 4))
    network = trace(model, IMAGES)
    assert groups(network) == {"0": 8}
    kernel = next(k for k in network.kernels.kernels if k.layer == "1")
    assert network.kernels.instantiate([[5]]).sizes[0][kernel.groups] == 5
    assert members(network, "0")["1.weight", 0] == ("out", 4)


def test_few_large_groups_shrink_at_the_same_position():
    model = nn.Sequential(conv(3, 16), conv(16, 24, 3, groups=2), conv(24, 4))
    network = trace(model, IMAGES)
    assert groups(network) == {"0": 8, "1": 12}
    group = network.groups[0]
    made = next(m for m in group.members if m.tensor == "0.weight")
    assert made.indices[3].tolist() == [3, 11]
    assert members(network, "0")["1.weight", 1] == ("in", 1)
    kernel = next(k for k in network.kernels.kernels if k.layer == "1")
    assert network.kernels.instantiate([[5, 6]]).sizes[0][kernel.groups] == 2


def test_channel_shuffle_ties_what_it_interleaves():
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.c(y).mean((2, 3))

    network = trace(Net(forward, a=conv(3, 6), b=conv(3, 6), c=conv(12, 4)), IMAGES)
    assert groups(network) == {"a": 6}
    read = next(m for m in network.groups[0].members if m.tensor == "c.weight")
    assert read.indices.tolist() == [[2 * i, 2 * i + 1] for i in range(6)]


def test_native_channel_shuffle_is_the_same():
    model = nn.Sequential(conv(3, 12), nn.ChannelShuffle(2), conv(12, 4))
    read = next(m for m in trace(model, IMAGES).groups[0].members if m.tensor == "2.weight")
    assert read.indices.tolist() == [[2 * i, 2 * i + 1] for i in range(6)]


def test_halves_that_are_not_tied_are_two_groups():
    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, 1)
        return self.b(a) + self.c(b)

    network = trace(Net(forward, a=conv(3, 12), b=conv(6, 4), c=conv(6, 4)), IMAGES)
    assert groups(network) == {"a": 6, "a#2": 6}


def test_squeeze_and_excitation_scales_what_it_looks_at():
    network = traced("senet")
    assert groups(network) == {"stem.0": 12, "fc.0": 4}


def test_pixel_shuffle_prunes_whole_output_channels():
    model = nn.Sequential(conv(3, 24), nn.PixelShuffle(2), conv(6, 4))
    network = trace(model, IMAGES)
    assert members(network, "0") == {
        ("0.weight", 0): ("out", 4),
        ("0.bias", 0): ("out", 4),
        ("2.weight", 1): ("in", 1),
    }
    model = nn.Sequential(conv(3, 6), nn.PixelUnshuffle(2), conv(24, 4))
    assert members(trace(model, IMAGES), "0")["2.weight", 1] == ("in", 4)


@pytest.mark.parametrize(("count", "units"), [(1, 12), (12, 12), (3, 4)])
def test_group_norm(count, units):
    model = nn.Sequential(conv(3, 12), nn.GroupNorm(count, 12), conv(12, 4))
    assert groups(trace(model, IMAGES)) == {"0": units}


def test_tied_and_shared_modules_are_one():
    network = traced("tied_conv")
    assert groups(network) == {"stem.0": 8, "last.0": 12}
    network = traced("tied_lm")
    embed = next(g for g in network.groups if g.name == "embed")
    names = {m.tensor for m in embed.members}
    assert {"embed.weight", "head.weight"} <= names
    assert "head" in network.frozen


@pytest.mark.parametrize("name", ["mha", "fused_qkv", "grouped_query", "torch_mha", "hf_gpt2"])
def test_attention_is_pruned_by_whole_heads(name):
    network = traced(name)
    heads = [g for g in network.groups if "att" in g.name]
    assert heads
    for group in heads:
        assert group.units in (2, 4)
        read = [m for m in group.members if m.role == "in"]
        assert len(read) == 1
        width = read[0].indices.shape[1]
        for row in read[0].indices:
            assert row.tolist() == list(range(row[0], row[0] + width))


def test_grouped_query_heads_go_with_their_queries():
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = self.q(x).view(n, t, 4, 3).transpose(1, 2)
        k = self.k(x).view(n, t, 2, 3).transpose(1, 2)
        v = self.v(x).view(n, t, 2, 3).transpose(1, 2)
        k = k[:, :, None].expand(n, 2, 2, t, 3).reshape(n, 4, t, 3)
        v = v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(n, t, 12))

    linear = nn.Linear
    model = Net(forward, q=linear(8, 12), k=linear(8, 6), v=linear(8, 6), o=linear(12, 8))
    network = trace(model, torch.randn(2, 5, 8))
    assert groups(network) == {"q": 2}
    found = members(network, "q")
    assert found["q.weight", 0] == ("out", 6)
    assert found["k.weight", 0] == ("out", 3)
    assert found["o.weight", 1] == ("in", 6)


def test_attention_by_explicit_products_freezes_the_head_width():
    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, 5).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))

    model = Net(forward, qkv=nn.Linear(8, 60), o=nn.Linear(20, 8))
    network = trace(model, torch.randn(2, 6, 8))
    assert groups(network) == {"qkv": 4}
    made = next(m for m in network.groups[0].members if m.tensor == "qkv.weight")
    expected = [20 * part + 5 + i for part in range(3) for i in range(5)]
    assert made.indices[1].tolist() == expected


def test_gated_feed_forward_ties_gate_and_value():
    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    model = Net(forward, gate=nn.Linear(4, 10), up=nn.Linear(4, 10), down=nn.Linear(10, 4))
    assert groups(trace(model, torch.randn(2, 4))) == {"gate": 10}


def test_written_slices_are_tied_to_what_is_written():
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], 10, 8, 8)
        y[:, :4] = self.a(x)
        y[:, 4:] = self.b(x)
        return self.c(y)

    network = trace(Net(forward, a=conv(3, 4), b=conv(3, 6), c=conv(10, 2)), IMAGES)
    assert groups(network) == {"a": 4, "b": 6}


def test_einsum_with_a_parameter_is_a_layer():
    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.einsum("bchw,dc->bdhw", self.a(x), self.w))

    model = Net(forward, a=conv(3, 8), c=conv(6, 2), w=nn.Parameter(torch.randn(6, 8)))
    network = trace(model, IMAGES)
    assert groups(network) == {"a": 8, "w": 6}
    assert members(network, "a")["w", 1] == ("in", 1)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda y: y.softmax(1), "softmax runs along it"),
        (lambda y: y * y.mean(1, keepdim=True).sigmoid(), "mean runs over it"),
        (lambda y: y.amax(1, keepdim=True) * y, "amax runs over it"),
        (lambda y: y.cumsum(1), "cumsum runs along it"),
        (lambda y: y.sort(1).values, "sort runs along it"),
        (lambda y: y.flip(1), "flip runs along it"),
        (lambda y: y + torch.linspace(0, 1, 8)[:, None, None], "can't be pruned"),
        (lambda y: y[:, ::2].repeat(1, 2, 1, 1), "a slice with a stride"),
        (lambda y: torch.fft.rfft(y, n=14).real, "fft_rfft has no coupling rule"),
        (lambda y: y[:, torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])], "picked by a tensor"),
    ],
)
def test_what_looks_along_channels_freezes_them_and_says_why(forward, reason):
    model = Net(lambda self, x: self.c(forward(self.a(x))), a=conv(3, 8), c=conv(8, 2))
    network = trace(model, IMAGES)
    assert network.groups == ()
    assert reason in network.frozen["a"]


def test_reductions_over_other_dimensions_do_not_freeze():
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x).softmax(2).mean((2, 3)))

    model = Net(forward, a=conv(3, 8), c=nn.Linear(8, 2))
    assert groups(trace(model, IMAGES)) == {"a": 8}


def test_an_unknown_op_raises_with_strict():
    model = Net(lambda self, x: self.c(torch.fft.rfft(self.a(x)).real), a=conv(3, 8), c=conv(8, 2))
    with pytest.raises(UnsupportedOpError, match="fft_rfft"):
        trace(model, IMAGES, strict=True)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_layers_are_frozen_with_a_reason(name):
    network = traced(name)
    assert "recurrent" in network.frozen["inp"]
    assert all("rnn" not in m.tensor or m.role == "in" for g in network.groups for m in g.members)


def test_a_computed_weight_is_frozen():
    weighted = nn.utils.parametrizations.weight_norm(conv(3, 8))
    network = trace(nn.Sequential(weighted, conv(8, 2)), IMAGES)
    assert network.groups == ()
    assert any("computed" in reason for reason in network.frozen.values())


def test_a_single_channel_that_is_sliced_out_stays():
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(y * y[:, :1])

    network = trace(Net(forward, a=conv(3, 8), c=conv(8, 2)), IMAGES)
    assert groups(network) == {"a": 7}
    assert network.parameters["a.weight"][0].tolist() == [-1, 0, 1, 2, 3, 4, 5, 6]
    assert network.frozen["a"].startswith("1 of 8 channels")


def test_a_weight_that_is_repeated_can_not_be_summed_over():
    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.linear(self.a(x), self.w.expand(6, 8)))

    model = Net(forward, a=nn.Linear(4, 8), c=nn.Linear(6, 2), w=nn.Parameter(torch.randn(6, 1)))
    network = trace(model, torch.randn(2, 4))
    assert "a" not in groups(network)
    assert "computed, not a parameter" in network.frozen["a"]
