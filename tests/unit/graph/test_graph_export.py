"""What trace takes, refuses, and leaves as it was."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

from autoprune.core.errors import TraceError
from autoprune.cost.analytic import AnalyticCost
from autoprune.graph import describe, trace


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def test_the_model_is_left_as_it_was():
    model = small().train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    network = trace(model, torch.randn(4, 3, 4, 4))
    assert network.model is model
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_that_of_the_example_inputs(batch):
    network = trace(small(), (torch.randn(batch, 3, 4, 4),))
    assert network.kernels.batch == batch
    work = network.workload(network.dense)
    kernel = network.kernels.kernels[0]
    assert work.shape(kernel.output)[0].tolist() == [batch, 8, 4, 4]


def test_a_batch_that_the_model_fixes_counts_as_one():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.a(x).reshape(2, 5, 8))

    network = trace(Fixed(), torch.randn(10, 6))
    assert network.kernels.batch == 1
    assert [g.name for g in network.groups] == ["a"]


@pytest.mark.parametrize("batch", [1, 3])
def test_inputs_that_forward_does_not_name(batch):
    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, *args, scale):
            return self.b(self.a(args[0]) * scale)

    network = trace(Any(), torch.randn(batch, 6), {"scale": torch.randn(batch, 1)})
    assert network.kernels.batch == batch
    assert [(g.name, g.units) for g in network.groups] == [("a", 8)]


def test_keyword_inputs_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, other=None, *, scale):
            return {"y": self.c(self.a(x) + self.b(other)) * scale}

    model = Two()
    kwargs = {"other": torch.randn(3, 4), "scale": 2.0}
    network = trace(model, torch.randn(3, 6), kwargs)
    assert network.example_kwargs == kwargs
    assert network.kernels.batch == 3
    assert [(g.name, g.units) for g in network.groups] == [("a", 8)]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_input_of_another_size_has_no_batch(batch):
    class Anchors(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x, anchors):
            return self.c(self.a(x)[:, None] + self.b(anchors))

    network = trace(Anchors(), (torch.randn(batch, 6), torch.randn(5, 4)))
    assert network.kernels.batch == batch
    last = network.kernels.kernels[-1]
    assert network.workload(network.dense).shape(last.output)[0].tolist() == [batch, 5, 3]
    assert [(g.name, g.units) for g in network.groups] == [("a", 8)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    network = trace(small().to(dtype), torch.randn(2, 3, 4, 4, dtype=dtype))
    assert network.groups[0].units == 8
    weight = next(b for b in network.kernels.parameters if b.name == "0.weight")
    assert weight.itemsize == dtype.itemsize


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("no such thing")


@pytest.mark.parametrize("model", [Branches(), Broken()])
def test_what_export_refuses_is_a_trace_error_that_says_what_to_do(model):
    with pytest.raises(TraceError, match=r"torch\.export must be able to export") as caught:
        trace(model, torch.randn(2, 4))
    assert "data-dependent" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_wrong_arguments_are_trace_errors():
    with pytest.raises(TraceError, match=r"must be an nn\.Module; got function"):
        trace(lambda x: x, torch.randn(2, 4))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="got set"):
        trace(small(), {torch.randn(2, 3, 4, 4)})


def test_regions_without_gradient_are_inlined():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            y = self.a(x)
            with torch.no_grad():
                scale, shift = y.new_ones(8) * 2, torch.ones(8)
            return self.b(y * scale + shift)

    network = trace(Rotary(), torch.randn(2, 4))
    assert [g.name for g in network.groups] == ["a"]
    assert {k.op for k in network.kernels.kernels} >= {"linear", "mul", "add"}


def test_what_is_never_used_is_not_run():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            y = self.a(x)
            y.softmax(-1)
            return self.b(y)

    network = trace(Unused(), torch.randn(2, 4))
    assert [g.name for g in network.groups] == ["a"]


def test_a_learned_query_may_feed_a_layer():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Parameter(torch.randn(6, 4))
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(torch.relu(self.a(self.q)) * x)

    network = trace(Queries(), torch.randn(2, 1, 1))
    assert [(g.name, g.units) for g in network.groups] == [("a", 8)]


def test_describe_fits_80_columns_and_names_groups_and_reasons():
    network = trace(small(), torch.randn(2, 3, 4, 4))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(describe(network))
    text = console.export_text()
    assert "1 channel group with 8 units" in text
    assert "4 (x16)" in text
    assert "it is an output of the network" in text
    assert max(map(len, text.splitlines())) <= 80


def test_networks_without_anything_to_prune():
    network = trace(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4))
    assert network.groups == ()
    assert network.frozen == {"0": "it is an output of the network"}
    assert len(network.workload(network.dense)) == 1


class CountsSamples(nn.Module):
    """Makes a number of its batch, so that the graph takes no other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.ones(1, 1, 6))

    def forward(self, x):
        x = torch.cat([self.token.expand(int(x.shape[0]), -1, -1), x], 1)
        return self.b(self.a(x).relu().mean(1))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_the_graph_fixes_is_still_one(batch):
    network = trace(CountsSamples(), torch.randn(batch, 5, 6))
    assert (network.fixed_batch, network.kernels.batch) == (batch, batch)
    macs = AnalyticCost().predict(network.workload(network.dense))[0].macs
    assert macs == 6 * (6 * 8) + 8 * 3
    assert trace(small(), torch.randn(4, 3, 4, 4)).fixed_batch is None


def test_len_does_not_fix_the_batch():
    class Len(CountsSamples):
        def forward(self, x):
            return self.b(self.a(x).reshape(len(x), -1, 8).relu().mean(1))

    network = trace(Len(), torch.randn(4, 5, 6))
    assert (network.fixed_batch, network.kernels.batch) == (None, 4)
    assert len([0, 1]) == 2


def test_torch_compile_knows_len_after_the_first_trace():
    program = """
import torch
from autoprune.graph import trace

trace(torch.nn.Linear(4, 8), torch.randn(2, 4))
counted = torch.compile(lambda x: x * len({1, 2}), fullgraph=True, backend="eager")
print(counted(torch.ones(1)).item())
"""
    # What torch.compile knows it finds out once in a process.
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.strip() == "2.0", told.stderr


def test_an_output_of_an_unknown_class_is_told_with_what_to_do():
    class Cache:
        def __init__(self, x):
            self.x = x

    class Cached(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x), "cache": Cache(x)}

    with pytest.raises(TraceError, match=r"Cache.* Give back tensors.*use_cache = False\)\. See"):
        trace(Cached(4, 8), torch.randn(2, 4))
