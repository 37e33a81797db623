"""Layer information in the formats of TensorRT 10 and 11, and names without metadata."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autoprune.core.errors import ProfilerError
from autoprune.profile.onnx_layers import stamp
from autoprune.profile.tensorrt_layers import LayerInfo, by_occurrence, layer_times, read_layers
from autoprune.profile.tensorrt_nodes import OnnxNodes, kernels
from autoprune.profile.tensorrt_sparse import has_sparse_weights, is_sparse
from autoprune.testing.profilers import conv_artifact


def chain(*ops):
    """Nodes in a row, each called by its op and number; only names matter here."""
    nodes, tensor = [], "x"
    for number, op in enumerate(ops):
        nodes.append(helper.make_node(op, [tensor], [f"t{number}"], name=f"{op}_{number}"))
        tensor = f"t{number}"
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [1])], [value(tensor, TensorProto.FLOAT, [1])]
    model = helper.make_model(helper.make_graph(nodes, "chain", *ends))
    stamp(model.graph)
    return OnnxNodes(model.SerializeToString())


NODES = chain("Conv", "Relu", "Conv", "Add", "Relu", "Sigmoid", "Mul", "MatMul", "Softmax")


@pytest.mark.parametrize(
    ("name", "metadata", "covered"),
    [
        ("Conv_0 + Relu_1", "", ["Conv_0", "Relu_1"]),
        ("Conv_2 + Add_3 + Relu_4", "", ["Conv_2", "Add_3", "Relu_4"]),
        ("Conv_0 || Conv_2", "", ["Conv_0", "Conv_2"]),
        ("PWN(PWN(Sigmoid_5), Mul_6)", "", ["Sigmoid_5", "Mul_6"]),
        ("PWN(Sigmoid_5 + Mul_6)", "", ["Sigmoid_5", "Mul_6"]),
        ("{ForeignNode[Add_3...Mul_6]}", "", ["Add_3", "Relu_4", "Sigmoid_5", "Mul_6"]),
        ("MatMul_7_myl0_3", "", ["MatMul_7"]),
        ("Reformatting CopyNode for Input Tensor 0 to Conv_0 + Relu_1", "", []),
        ("__myl_MulAdd_myl0_9", "", []),
        ("__myl_MulAdd_myl0_9", "[ONNX Layer: Mul_6]\x1f[ONNX Layer: Add_3]", ["Add_3", "Mul_6"]),
        ("anything", "[ONNX Layer: Relu_1] [ONNX Layer: Conv_0]", ["Conv_0", "Relu_1"]),
        ("anything", "[ONNX Layer: Relu_1]\x1e[ONNX Layer: gone]", ["Relu_1"]),
        ("Conv_0 + Relu_1", "[ONNX Layer: Conv_0]", ["Conv_0"]),
    ],
)
def test_a_fused_layer_covers_the_nodes_it_is_told_by(name, metadata, covered):
    assert NODES.covered(LayerInfo(name, metadata=metadata)) == covered


def test_names_with_brackets_and_spaces_are_read():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"], name="a[0] + b")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    nodes = OnnxNodes(model.SerializeToString())
    info = LayerInfo("k", metadata="[ONNX Layer: a[0] + b]")
    assert nodes.covered(info) == ["a[0] + b"]


def layer(name, kind, metadata="", **more):
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], **more}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 16, 8, 8], **more}],
        "Metadata": metadata,
    }


@pytest.mark.parametrize(
    "told",
    [
        {  # 10.x
            "Layers": [layer("Conv_0 + Relu_1", "CaskConvolution", **{"Format/Datatype": "Half"})],
            "Bindings": ["x", "y"],
        },
        {  # 11.x: the format and the type stand apart, tensors are objects
            "Layers": [
                layer(
                    "Conv_0 + Relu_1", "CaskConvolution",
                    "[ONNX Layer: Conv_0]\x1f[ONNX Layer: Relu_1]",
                    Format="(NHWC) Channel major format", Datatype="Half",
                )
            ],
            "I/O Tensors": [{"Name": "x", "IOMode": "Input", "Dimensions": [1, 3, 8, 8]}],
        },
    ],
)  # fmt: skip
def test_kernels_join_times_with_layers_of_either_version(told):
    times = layer_times({"Conv_0 + Relu_1": 2.0}, read_layers(json.dumps(told)))
    (found,) = kernels(times, NODES, 0.5)
    assert (found.op, found.latency_ms) == ("Conv", 1.0)
    assert found.layers == ("Conv_0", "Relu_1")
    assert found.input_shapes == ((1, 3, 8, 8),)
    assert found.output_shapes == ((1, 16, 8, 8),)


def test_names_alone_and_unknown_layers_are_taken_too():
    layers = read_layers('{"Layers": ["Conv_0 + Relu_1", "Softmax_8"]}')
    times = by_occurrence([("Softmax_8", 1.0), ("new", 2.0), ("Softmax_8", 3.0)])
    assert times == {"Softmax_8": 1.0, "new": 2.0, "Softmax_8#2": 3.0}
    found = kernels(layer_times(times, layers), NODES, 1.0)
    assert [(k.name, k.op, k.layers) for k in found] == [
        ("Softmax_8", "unknown", ("Softmax_8",)),
        ("new", "unknown", ()),
        ("Softmax_8#2", "unknown", ("Softmax_8",)),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": [{}]}', '{"Layers": 3}', '{"a": 1}'])
def test_other_layer_information_is_refused(text):
    with pytest.raises(ProfilerError, match="must be JSON with Layers"):
        read_layers(text)


def test_two_of_four_along_the_input_channels_are_sparse():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 16, 3, 3)).astype(np.float32)
    assert not is_sparse(weight, 1)
    weight[:, 1::4] = weight[:, 2::4] = 0
    assert is_sparse(weight, 1)
    assert not is_sparse(weight, 0)
    weight[0, 1, 0, 0] = 1
    assert not is_sparse(weight, 1)
    assert not is_sparse(np.zeros((4, 4)), 1)
    assert not is_sparse(np.eye(6), 1)  # six channels are no fours


def test_sparse_weights_are_found_in_a_network():
    artifact = conv_artifact("a", 16)
    assert not has_sparse_weights(artifact.onnx)
    model = onnx.load_from_string(artifact.onnx)
    tensor = next(t for t in model.graph.initializer if t.name == "conv1.weight")
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[:, 2::4] = weight[:, 3::4] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    assert has_sparse_weights(model.SerializeToString())
