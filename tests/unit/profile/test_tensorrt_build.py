"""TensorRT's real parser and builder, of TensorRT for RTX, which needs no GPU for either.

What needs one (running, the inspector's JSON) is tested on a fake, and by tests/gpu.
"""

import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from autoprune.core.device import Artifact
from autoprune.core.errors import ProfilerError
from autoprune.profile.tensorrt import network_converter
from autoprune.profile.tensorrt_build import BuildSettings, build, load_library, strongly_typed
from autoprune.profile.tensorrt_layers import LayerInfo, layer_times
from autoprune.profile.tensorrt_nodes import OnnxNodes, kernels
from autoprune.profile.tensorrt_sparse import has_sparse_weights
from autoprune.testing.profilers import conv_artifact


@pytest.fixture(scope="module")
def rtx():
    for name in ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"):
        pytest.importorskip(name, reason="needs autoprune[tensorrt-rtx]")
    return load_library("tensorrt_rtx")


def typed(artifact, precision):
    return network_converter(precision, True).convert(artifact)


def told_layers(plan):
    """The layers as the builder's log tells them (the inspector, which gives JSON, wants a GPU)."""
    (text,) = [m for _, m in plan.messages if m.startswith("Layers:")]
    return [
        LayerInfo(name, kind, metadata.strip())
        for name, kind, metadata in re.findall(
            r"^Name: (.*?), LayerType: (\w+), .*?Metadata: (.*)$", text, re.M
        )
    ]


@pytest.mark.parametrize("capability", ["SM80", "SM89", "SM120"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_networks_build_in_every_precision(rtx, precision, capability):
    assert strongly_typed(rtx)
    ready = typed(conv_artifact("a", 32, layers=3), precision)
    if (precision, capability) == ("fp8", "SM80"):
        with pytest.raises(ProfilerError, match=r"can't build it: .*fp8"):  # Ampere has none
            build(rtx, ready.onnx, ready.inputs, BuildSettings(precision), capability=capability)
        return
    plan = build(rtx, ready.onnx, ready.inputs, BuildSettings(precision), capability=capability)
    assert len(plan.data) > 1000
    assert plan.cache == b""  # TensorRT for RTX keeps no times


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_engine_layers_map_back_to_the_networks(rtx, precision):
    ready = typed(conv_artifact("a", 32, layers=3), precision)
    plan = build(rtx, ready.onnx, ready.inputs, BuildSettings(precision), capability="SM89")
    layers = told_layers(plan)
    times = {layer.name: 1.0 for layer in layers}
    found = kernels(layer_times(times, layers), OnnxNodes(ready.onnx), 2.0)
    assert [k.latency_ms for k in found] == [2.0] * len(layers)
    for number in range(3):
        own = [k for k in found if f"conv{number}" in k.layers]
        assert any(k.op == "Conv" for k in own)
    named = {layer for k in found for layer in k.layers}
    # Casts and pairs of quantisation are of no layer of the network.
    assert named == {f"{kind}{number}" for kind in ("conv", "relu") for number in range(3)}


def test_a_dimension_that_varies_is_built_for_the_example(rtx):
    fixed = conv_artifact("a", 16, batch=4)
    model = onnx.load_from_string(fixed.onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    data = model.SerializeToString()
    plan = build(rtx, data, fixed.inputs, BuildSettings(), capability="SM89")
    told = " ".join(m for _, m in plan.messages)
    assert "MinShape: [4,3,16,16], OptShape: [4,3,16,16], MaxShape: [4,3,16,16]" in told


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_sparse_weights_are_looked_for_where_there_are_some(rtx, monkeypatch, precision):
    artifact = conv_artifact("a", 32)
    model = onnx.load_from_string(artifact.onnx)
    tensor = next(t for t in model.graph.initializer if t.name == "conv1.weight")
    weight = numpy_helper.to_array(tensor).copy()
    weight[:, 0::4] = weight[:, 2::4] = 0
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    sparse = Artifact("sparse", model.SerializeToString(), artifact.inputs)
    flags = []
    builder = rtx.Builder.build_serialized_network

    def watched(self, network, config):
        flags.append(config.get_flag(rtx.BuilderFlag.SPARSE_WEIGHTS))
        return builder(self, network, config)

    monkeypatch.setattr(rtx.Builder, "build_serialized_network", watched)
    settings = BuildSettings(precision, sparse_weights=True)
    for network in (artifact, sparse):
        ready = typed(network, precision)
        found = has_sparse_weights(ready.onnx)
        given = {"sparse": found, "capability": "SM89"}
        assert build(rtx, ready.onnx, ready.inputs, settings, **given).data
    assert flags == [False, True]


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        (Artifact("rubbish", b"no ONNX", {}), "can't parse it"),
        (Artifact("unfed", conv_artifact("a", 8).onnx, {}), r"its inputs must be \['x'\]"),
        (
            Artifact("shape", conv_artifact("a", 8).onnx, {"x": np.zeros((1, 4, 16, 16))}),
            r"must be of shape \(1, 3, 16, 16\), got \(1, 4, 16, 16\)",
        ),
    ],
)
def test_what_can_not_be_built_says_why(rtx, artifact, said):
    with pytest.raises(ProfilerError, match=said):
        build(rtx, artifact.onnx, artifact.inputs, BuildSettings(), capability="SM89")


def test_a_transformer_layer_builds_in_fp16_and_int8(rtx):
    rng = np.random.default_rng(0)
    node = helper.make_node

    def matrix(*shape):
        return (rng.standard_normal(shape) / 8).astype(np.float32)

    nodes = [
        node("LayerNormalization", ["x", "scale", "shift"], ["n"], name="norm"),
        *(node("MatMul", ["n", f"{k}.weight"], [k], name=f"project_{k}") for k in "qkv"),
        node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"], name="scores"),
        node("Softmax", ["s"], ["p"], name="softmax", axis=-1),
        node("MatMul", ["p", "v"], ["a"], name="attend"),
        node("Add", ["a", "x"], ["y"], name="residual"),
    ]
    weights = {f"{k}.weight": matrix(64, 64) for k in "qkv"}
    weights |= {"scale": np.ones(64, np.float32), "shift": np.zeros(64, np.float32)}
    shape = [2, 16, 64]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layer",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = rng.standard_normal(shape).astype(np.float32)
    artifact = Artifact("layer", model.SerializeToString(), {"x": x})
    for precision in ("fp16", "int8"):
        ready = typed(artifact, precision)
        plan = build(rtx, ready.onnx, ready.inputs, BuildSettings(precision), capability="SM120")
        nodes_of = OnnxNodes(ready.onnx)
        covered = {n for layer in told_layers(plan) for n in nodes_of.covered(layer)}
        assert {"project_q", "scores", "attend", "residual"} <= covered
