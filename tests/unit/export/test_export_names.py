"""What the inputs and outputs of exported networks are called; what exports share."""

import numpy as np
import onnx
import pytest
import torch
import zoo
from torch import nn

from autoprune.export import _torchlib
from autoprune.export.onnx import compare, export_onnx
from autoprune.graph import trace
from autoprune.pruning.surgery import _made


def names(data):
    onnx.checker.check_model(onnx.load_from_string(data))
    graph = onnx.load_from_string(data).graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


@pytest.mark.parametrize("name", ["resnet_padded", "multi_output"])
def test_a_graph_module_has_the_dense_networks_names(name):
    model, inputs = zoo.build(name)
    network = trace(model, inputs)
    selection = {group.name: np.arange(group.units) % 2 == 0 for group in network.groups}
    graph = _made(network, selection, as_graph=True).eval()
    data = export_onnx(graph, inputs)
    assert names(data) == names(export_onnx(model, inputs))
    assert compare(graph, data, inputs) < 1e-4


class Named(nn.Module):
    """An inner value has the name that an input is given."""

    autoprune_inputs = ("linear",)

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, *args):
        return self.b(self.a(args[0]).relu())


def test_a_name_that_is_taken_is_given_up():
    torch.manual_seed(0)
    model, inputs = Named().eval(), (torch.randn(2, 4),)
    data = export_onnx(model, inputs)
    assert names(data) == (["linear"], ["linear_1"])
    assert compare(model, data, inputs) < 1e-4


def test_the_table_of_functions_is_built_once_and_gives_the_same_file(monkeypatch):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    before = ONNXRegistry.__dict__["from_torchlib"]
    model, inputs = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), (torch.randn(2, 4),)
    monkeypatch.setattr(_torchlib, "_BUILT", {})
    first = export_onnx(model, inputs)
    assert len(_torchlib._BUILT) == 1
    assert export_onnx(model, inputs) == first
    assert ONNXRegistry.__dict__["from_torchlib"] is before
    monkeypatch.setattr(_torchlib, "_MAKE", "from_elsewhere")
    assert export_onnx(model, inputs) == first


def test_what_an_export_registers_does_not_reach_the_next(monkeypatch):
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with _torchlib.shared_registry():
        one = ONNXRegistry.from_torchlib()
        one.functions["aten::relu"].clear()
        assert ONNXRegistry.from_torchlib().functions["aten::relu"]
