"""Norms that a forward writes out, and what only looks like one."""

import pytest
import torch
from torch import Tensor, nn
from traced import traced

from autoprune.graph import trace
from autoprune.graph.statistics import normalising


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.first, self.last, self.call = nn.Linear(4, 8), nn.Linear(8, 3), call
        self.other = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.first(x), self.other(x)))


def found(call):
    network = trace(Net(call).eval(), torch.randn(2, 4))
    return sorted(normalising(network.program.graph)), "first" in {g.name for g in network.groups}


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda x, _: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), ["mean"]),
        (lambda x, _: x / (x * x).mean(-1, keepdim=True).clamp(min=1e-6).sqrt(), ["mean"]),
        (lambda x, _: x / x.abs().mean(1)[:, None], ["mean"]),
        (lambda x, _: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True), ["mean", "std"]),
        (lambda x, _: x * torch.exp(x).mean(-1, keepdim=True), []),  # a log-sum-exp, say
        (lambda x, _: x * torch.sigmoid(x.mean(-1, keepdim=True)), []),  # a gate
        (lambda x, y: y * x.mean(-1, keepdim=True), []),  # of another tensor
        (lambda x, _: x / x.square().sum(-1, keepdim=True), []),  # grows with the width
    ],
)
def test_a_statistic_normalises_where_all_it_does_is_scale_or_shift_its_source(call, names):
    statistics, prunable = found(call)
    assert statistics == names
    assert prunable == bool(names)


def test_one_use_of_another_kind_keeps_the_width():
    def call(x, _):
        return x / x.mean(-1, keepdim=True) + x.mean(-1, keepdim=True)

    assert found(call) == (["mean"], False)


@pytest.mark.parametrize("name", ["written_rms_norm", "written_layer_norm_std", "response_norm"])
def test_widths_behind_written_norms_are_free(name):
    network = traced(name)
    assert all("output of the network" in reason for reason in network.frozen.values())
