"""Networks in other precisions: run by onnxruntime on the CPU and compared with 32 bits."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autoprune.core.device import Artifact
from autoprune.core.errors import ProfilerError
from autoprune.profile.onnx_floats import tensor_types, to_half
from autoprune.profile.onnx_layers import layer_of, stamp
from autoprune.profile.onnx_precision import Converter, converted
from autoprune.profile.onnx_quantize import quantize
from autoprune.testing.profilers import conv_artifact

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]


def run(model, inputs, *, fused=True):
    """By onnxruntime; `fused` in its own 8-bit kernels, else node by node in floats."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def network(nodes, weights, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
    return onnx.shape_inference.infer_shapes(model)  # for the outputs' shapes


def residual(width=32, size=8, seed=0):
    """Two convolutions with a residual addition, a mean and a product, as an artifact."""
    rng = np.random.default_rng(seed)

    def weight(*shape):
        fan = np.prod(shape[1:])
        return (rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    node = helper.make_node
    pads = {"pads": [1, 1, 1, 1]}
    model = network(
        [
            node("Conv", ["x", "stem.weight"], ["a"], name="stem", **pads),
            node("Relu", ["a"], ["b"], name="relu"),
            node("Conv", ["b", "body.weight", "body.bias"], ["c"], name="body", **pads),
            node("Add", ["c", "b"], ["d"], name="add"),
            node("ReduceMean", ["d", "axes"], ["e"], name="mean", keepdims=0),
            node("Gemm", ["e", "head.weight"], ["y"], name="head", transB=1),
        ],
        {
            "stem.weight": weight(width, 16, 3, 3),
            "body.weight": weight(width, width, 3, 3),
            "body.bias": weight(width),
            "head.weight": weight(10, width),
            "axes": np.array([2, 3]),
        },
        [("x", FLOAT, [2, 16, size, size])],
        ["y"],
    )
    onnx.checker.check_model(model)
    x = rng.standard_normal((2, 16, size, size)).astype(np.float32)
    return Artifact("residual", model.SerializeToString(), {"x": x})


@pytest.mark.parametrize(
    ("precision", "options", "tolerance"),
    [
        ("fp16", {}, 0.005),
        ("int8", {}, 0.05),
        ("int8", {"rest": "fp16"}, 0.05),
        ("int8", {"quantizer": "onnxruntime"}, 0.05),
        ("fp8", {"rest": "fp16"}, 0.15),
    ],
)
def test_a_converted_network_gives_nearly_the_same(precision, options, tolerance):
    artifact = residual()
    (wanted,) = run(artifact.onnx, artifact.inputs)
    ready = Converter(precision, **options).convert(artifact)
    # What is made for TensorRT is no guide to what onnxruntime's 8-bit kernels do on this CPU.
    (found,) = run(ready.onnx, artifact.inputs, fused="quantizer" in options)
    assert found.dtype == np.float32
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error < tolerance


@pytest.mark.parametrize(("reduced", "largest"), [(True, 64), (False, 127)])
def test_onnxruntime_gets_weights_whose_products_do_not_overflow(reduced, largest):
    made = Converter("int8", quantizer="onnxruntime", reduce_range=reduced).convert(residual())
    weights = [
        numpy_helper.to_array(t)
        for t in onnx.load_from_string(made.onnx).graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) > 1
    ]
    assert len(weights) == 3
    assert [np.abs(w.astype(int)).max() for w in weights] == [largest] * 3


def test_bf16_halves_what_fp16_does():
    # onnxruntime has no bf16 convolution on the CPU; the weights are looked at.
    model = onnx.load_from_string(Converter("bf16").convert(residual()).onnx)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds.pop("axes") == TensorProto.INT64
    assert set(kinds.values()) == {TensorProto.BFLOAT16}
    assert tensor_types(model)["x"] == FLOAT


def test_fp32_is_left_alone():
    artifact = residual()
    assert Converter("fp32").convert(artifact) is artifact


def test_ops_that_take_no_half_stay_in_32_bits_between_casts():
    rng = np.random.default_rng(0)
    node = helper.make_node
    weights = {
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "start": np.float32(0),
        "limit": np.float32(4),
        "step": np.float32(1),
        "shape": np.array([4, 1, 1]),
    }
    model = network(
        [
            node("Conv", ["x", "w"], ["a"], name="conv"),
            node("Resize", ["a", "", "scales"], ["b"], name="resize"),
            node("Range", ["start", "limit", "step"], ["r"], name="range"),
            node("Reshape", ["r", "shape"], ["s"], name="reshape"),
            node("Constant", [], ["k"], name="constant", value_float=0.5),
            node("Mul", ["s", "k"], ["m"], name="mul"),
            node("Cast", ["i"], ["f"], name="cast", to=FLOAT),
            node("Add", ["b", "m"], ["n"], name="add"),
            node("Add", ["n", "f"], ["y"], name="add again"),
            node("Relu", ["n"], ["z"], name="relu"),
            node("Add", ["y", "z"], ["o"], name="last"),
        ],
        weights,
        [("x", FLOAT, [1, 3, 2, 2]), ("i", TensorProto.INT64, [1])],
        ["y", "o"],  # y is an output, and read too
    )
    onnx.checker.check_model(model)
    inputs = {"x": rng.standard_normal((1, 3, 2, 2)).astype(np.float32), "i": np.array([2])}
    wanted = run(model, inputs)
    to_half(model, "fp16")
    onnx.checker.check_model(model)
    for found, expected in zip(run(model, inputs), wanted, strict=True):
        np.testing.assert_allclose(found, expected, atol=0.01)
    types = tensor_types(model)
    resize = next(n for n in model.graph.node if n.op_type == "Resize")
    assert types[resize.input[0]] == TensorProto.FLOAT16
    assert types[resize.input[2]] == FLOAT


def test_large_weights_do_not_become_infinite():
    model = network(
        [helper.make_node("Mul", ["x", "w"], ["y"], name="mul")],
        {"w": np.array([1e6, -1e6, 1.0], np.float32)},
        [("x", FLOAT, [3])],
        ["y"],
    )
    to_half(model, "fp16")
    (found,) = run(model, {"x": np.full(3, 0.5, np.float32)})
    np.testing.assert_allclose(found, [32752, -32752, 0.5])


def pairs(model):
    """Which tensors are quantised, with their zero points' types."""
    types = {t.name: t for t in model.graph.initializer}
    return {
        n.input[0]: numpy_helper.to_array(types[n.input[1]])
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }


def test_int8_is_symmetric_with_a_scale_for_each_channel_and_leaves_biases():
    artifact = residual(width=8)
    model = onnx.load_from_string(artifact.onnx)
    ranges = {"x": (-2.0, 1.0), "b": (0.0, 3.0), "c": (-1.0, 1.0), "d": (0.0, 4.0), "e": (0.0, 1.0)}
    quantize(model, ranges, "int8")
    onnx.checker.check_model(model)
    found = pairs(model)
    # The addition's other operand, b, is behind the pair that the convolution reads.
    assert set(found) == {"x", "b", "e", "stem.weight", "body.weight", "head.weight"}
    assert found["x"] == pytest.approx(2 / 127)
    weight = numpy_helper.to_array(
        next(t for t in model.graph.initializer if t.name == "stem.weight")
    )
    np.testing.assert_allclose(
        found["stem.weight"], np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6
    )
    assert found["head.weight"].shape == (10,)
    zeros = [t for t in model.graph.initializer if t.name.endswith("_zero")]
    assert zeros
    for zero in zeros:
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
    add = next(n for n in model.graph.node if n.name == "add")
    body = next(n for n in model.graph.node if n.name == "body")
    assert add.input[1] == body.input[0] != "b"
    assert body.input[2] == "body.bias"


def test_fp8_leaves_convolutions_without_a_kernel_alone():
    model = onnx.load_from_string(residual(width=8).onnx)
    quantize(model, dict.fromkeys("xabcde", (-1.0, 1.0)), "fp8")
    assert set(pairs(model)) == {"e", "head.weight"}  # 8 channels are too few
    model = onnx.load_from_string(residual(width=32).onnx)
    quantize(model, dict.fromkeys("xabcde", (-1.0, 1.0)), "fp8")
    assert {"stem.weight", "body.weight"} < set(pairs(model))
    assert pairs(model)["body.weight"].shape == ()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_quantised_weight_is_off_by_half_a_step_at_most(values, rows):
    weight = np.resize(np.array(values, np.float32), (rows, len(values)))
    model = network(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)],
        {"w": weight},
        [("x", FLOAT, [1, len(values)])],
        ["y"],
    )
    quantize(model, {"x": (-1.0, 1.0)}, "int8")
    del model.graph.output[:]
    dequantized = next(n for n in model.graph.node if n.name == "gemm").input[1]
    model.graph.output.append(helper.make_tensor_value_info(dequantized, FLOAT, None))
    (found,) = run(model, {"x": np.zeros((1, len(values)), np.float32)})
    step = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - weight) <= 0.501 * step + 1e-30).all()


def test_the_reference_is_calibrated_and_the_others_take_its_ranges():
    converter = Converter("int8", calibration=[np.zeros((2, 16, 8, 8), np.float32) + 3])
    dense = residual()
    first = pairs(onnx.load_from_string(converter.convert(dense).onnx))
    assert first["x"] == pytest.approx(3 / 127)
    assert converter.details["calibrated_on"] == "batches that were given"
    other = pairs(onnx.load_from_string(converter.convert(residual(seed=5)).onnx))
    assert other["b"] == first["b"]
    assert not np.allclose(other["stem.weight"], first["stem.weight"])
    renamed = conv_artifact("another", 16)
    alone = pairs(onnx.load_from_string(converter.convert(renamed_batch(renamed)).onnx))
    assert set(alone) >= {"x", "r0"}


def renamed_batch(artifact):
    """The artifact with an input that the calibration batch fits."""
    model = onnx.load_from_string(artifact.onnx)
    weight = next(t for t in model.graph.initializer if t.name == "conv0.weight")
    rng = np.random.default_rng(0)
    weight.CopyFrom(numpy_helper.from_array(rng.random((16, 16, 3, 3), np.float32), "conv0.weight"))
    for value in (*model.graph.input, *model.graph.output):
        for dimension, size in zip(value.type.tensor_type.shape.dim, (2, 16, 8, 8), strict=True):
            dimension.dim_value = size
    x = np.zeros((2, 16, 8, 8), np.float32)
    return Artifact("renamed", model.SerializeToString(), {"x": x})


def test_without_batches_it_says_so(caplog):
    Converter("int8").convert(residual())
    assert "no calibration batches were given" in caplog.text


def test_an_older_opset_is_brought_up_and_layers_are_kept():
    ready = Converter("int8", rest="fp16").convert(conv_artifact("old", 16))
    model = onnx.load_from_string(ready.onnx)
    assert model.opset_import[0].version >= 19
    layers = {n.name: layer_of(n) for n in model.graph.node if n.op_type in ("Conv", "Relu")}
    assert layers == {n: n for n in ("conv0", "relu0", "conv1", "relu1")}


def test_stamps_give_each_node_a_name_and_keep_its_layer():
    node = helper.make_node
    model = network(
        [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"]),
         node("Relu", ["b"], ["c"], name="Relu_1"), node("Relu", ["c"], ["y"], name="Relu_1")],
        {}, [("x", FLOAT, [1])], ["y"],
    )  # fmt: skip
    stamp(model.graph)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == 4
    assert all(names)
    assert [layer_of(n) for n in model.graph.node] == ["a", "b", "Relu_1", "Relu_1"]


def control_flow():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"], name="then")],
        "branch", [], [helper.make_tensor_value_info("t", FLOAT, [1])],
    )  # fmt: skip
    model = network(
        [helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)],
        {},
        [("x", FLOAT, [1]), ("c", TensorProto.BOOL, [])],
        ["y"],
    )
    x = {"x": np.zeros(1, np.float32), "c": np.array(True)}
    return Artifact("if", model.SerializeToString(), x)


def unknown_op():
    model = network(
        [helper.make_node("Mystery", ["x"], ["y"], name="mystery", domain="my.ops")],
        {}, [("x", FLOAT, [1])], ["y"],
    )  # fmt: skip
    return Artifact("mystery", model.SerializeToString(), {"x": np.zeros(1, np.float32)})


def unknown_domain():
    model = onnx.load_from_string(unknown_op().onnx)
    del model.opset_import[1:]
    return Artifact("domain", model.SerializeToString(), {"x": np.zeros(1, np.float32)})


def not_finite():
    artifact = residual()
    return Artifact("nan", artifact.onnx, {"x": np.full((2, 16, 8, 8), np.nan, np.float32)})


@pytest.mark.parametrize(
    ("precision", "artifact", "said"),
    [
        ("fp16", Artifact("rubbish", b"no ONNX", {}), "must be an ONNX model"),
        ("int8", Artifact("empty", b"", {}), "with nodes, has none"),
        ("fp16", control_flow(), "control flow"),
        ("bf16", unknown_op(), "types are not known"),
        ("fp16", unknown_domain(), "types of its tensors can't be found"),
        ("int8", unknown_op(), "can't be run to calibrate it"),
        ("int8", not_finite(), "not finite"),
    ],
)
def test_what_can_not_be_converted_says_why(precision, artifact, said):
    with pytest.raises(ProfilerError, match=said):
        Converter(precision).convert(artifact)


def test_one_that_can_not_be_converted_does_not_end_the_batch():
    good, rubbish = residual(), Artifact("rubbish", b"no ONNX", {})
    found, errors = converted(Converter("int8"), [good, rubbish])
    assert list(errors) == [1]
    assert "not turned into int8: it must be an ONNX model" in errors[1]
    assert found[1] is rubbish
    assert found[0].onnx != good.onnx
