"""ONNX of networks in which branches were removed whole."""

from __future__ import annotations

from collections import Counter

import branches
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoprune.core.candidate import Candidate
from autoprune.export._emptied import without_empty
from autoprune.export._graphs import Mismatch
from autoprune.export.onnx import compare, export_onnx
from autoprune.export.sliced import OnnxSlicer
from autoprune.graph import trace
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply


@pytest.mark.parametrize("name", branches.WITH)
def test_nothing_of_a_removed_branch_is_left(name):
    model, inputs = branches.WITH[name]()
    network = trace(model, inputs)
    slicer = OnnxSlicer(network, apply)
    assert not slicer.reason
    first = sorted(network.kernels.removable)[0]
    selection = select(network, Candidate.of({**network.dense, first: 0}))
    pruned = apply(network, selection).eval()
    dense = Counter(n.op_type for n in onnx.load_from_string(slicer.dense).graph.node)
    for data in (slicer.slice(selection), export_onnx(pruned, inputs)):
        assert compare(pruned, data, inputs, {}) < 1e-5
        graph = onnx.load_from_string(data).graph
        assert not any(0 in tensor.dims for tensor in graph.initializer)
        layers = [n.name + "".join(n.output) for n in graph.node]
        assert not any(first.split(".")[0] + "/" in text for text in layers)
        ops = Counter(n.op_type for n in graph.node)
        heavy = ("Conv", "MatMul", "Gemm")
        gone = 3 if name == "inverted" else 2
        assert sum(ops[op] for op in heavy) == sum(dense[op] for op in heavy) - gone
        assert ops["Add"] < dense["Add"]
        assert ops["Relu"] == dense["Relu"] - 2 * (name == "residual") + (first == "1.conv1")


def _model(nodes, tensors, shape=(1, 2, 4, 4)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(t, np.float32), n) for n, t in tensors.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def _branch(bias):
    """x + conv(relu(conv(x))), the inner convolution without channels."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "bias"], ["c"]),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    tensors = {"w1": np.zeros((0, 2, 1, 1)), "w2": np.zeros((2, 0, 1, 1)), "bias": bias}
    return onnx.load_from_string(without_empty(_model(nodes, tensors))).graph


def test_a_bias_is_added_in_its_place():
    graph = _branch([1.0, -2.0])
    assert [n.op_type for n in graph.node] == ["Add", "Neg"]
    (constant,) = graph.initializer
    assert numpy_helper.to_array(constant).tolist() == [[[[1.0]], [[-2.0]]]]


def test_a_bias_of_zero_leaves_nothing():
    graph = _branch([0.0, 0.0])
    assert [(n.op_type, list(n.input)) for n in graph.node] == [("Neg", ["x"])]
    assert not graph.initializer


def test_what_can_not_do_without_channels_is_told():
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Concat", ["a", "x"], ["y"], axis=1),
    ]
    with pytest.raises(Mismatch, match="Concat"):
        without_empty(_model(nodes, {"w1": np.zeros((0, 2, 1, 1))}))
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2", "b"], ["y"]),
    ]
    tensors = {"w1": np.zeros((0, 2, 1, 1)), "w2": np.zeros((2, 0, 1, 1)), "b": np.ones(2)}
    with pytest.raises(Mismatch, match="would be constant"):
        without_empty(_model(nodes, tensors))
