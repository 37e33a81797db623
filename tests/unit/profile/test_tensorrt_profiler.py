"""The flow from networks to measurements, on a small TensorRT without a GPU (`fake_tensorrt`)."""

import sys

import fake_tensorrt
import numpy as np
import onnx
import pytest
from fake_cuda import Runtime

from autoprune.core.device import Artifact, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import tensorrt_build, tensorrt_engines
from autoprune.profile.registry import devices, make_profiler
from autoprune.profile.tensorrt import TensorRTProfiler
from autoprune.profile.tensorrt_cuda import RuntimeCuda
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact

KERNELS = MeasuringProtocol(runs=1, min_rounds=2, max_rounds=3, warmup=1, kernels=True)


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """A GPU that is none, TensorRT 10, and a cache folder of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime = Runtime()
    monkeypatch.setattr(tensorrt_engines, "open_cuda", lambda index: RuntimeCuda(runtime, index))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.library())
    return runtime


@pytest.fixture
def plans(monkeypatch):
    """What was built, in order, as the fake's plans."""
    import json

    found = []
    build = tensorrt_build.build

    def spy(*args, **options):
        plan = build(*args, **options)
        found.append((onnx.load_from_string(args[1]), json.loads(plan.data)))
        return plan

    monkeypatch.setattr(tensorrt_engines, "build", spy)
    return found


def test_keeps_the_contract(cuda):
    check_profiler(TensorRTProfiler())
    assert cuda.captured


def test_the_device_is_told_in_full(cuda):
    device = make_profiler("tensorrt?precision=fp16&sparse_weights=true").device
    assert (device.name, device.runtime, device.runtime_version) == (
        "NVIDIA Formula",
        "tensorrt",
        "10.13.0",
    )
    assert (device.precision, device.provider, device.threads) == ("fp16", "cuda", 0)
    assert device.settings == {"sparse_weights": "true"}
    assert (device.details["compute_capability"], device.details["gpu"]) == ("9.0", "0")
    quantised = TensorRTProfiler(precision="int8").device
    assert quantised.details["calibrated_on"] == "the example inputs"
    assert quantised.details["not_quantised"] == "fp16"  # by the builder's flags


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp32", set()),
        ("tf32", {"TF32"}),
        ("fp16", {"TF32", "FP16"}),
        ("bf16", {"TF32", "BF16"}),
        ("int8", {"TF32", "INT8", "FP16"}),
        ("fp8", {"TF32", "FP8", "FP16"}),
    ],
)
def test_version_10_is_told_the_precision_by_flags(cuda, plans, precision, flags):
    TensorRTProfiler(precision=precision).measure([conv_artifact("a", 16)], QUICK)
    (model, plan) = plans[0]
    assert set(plan["flags"]) == flags
    assert plan["typed"] == 0
    quantised = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    assert quantised == (precision in ("int8", "fp8"))
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["conv1.weight"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_version_11_takes_the_precision_from_the_network(cuda, plans, monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.library("11.4.0"))
    # The checker of ONNX has no bf16 convolutions at this opset; TensorRT's parser takes them.
    monkeypatch.setattr(onnx.checker, "check_model", lambda model: None)
    profiler = TensorRTProfiler(precision=precision)
    assert profiler.device.details["networks"] == "strongly typed"
    (measured,) = profiler.measure([conv_artifact("a", 16)], QUICK)
    assert measured.ok
    (model, plan) = plans[0]
    assert plan["typed"] == 1 << 1
    assert not {"FP16", "INT8", "BF16", "FP8"} & set(plan["flags"])
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    half = {"fp32": onnx.TensorProto.FLOAT, "bf16": onnx.TensorProto.BFLOAT16}
    assert kinds["conv1.weight"] == half.get(precision, onnx.TensorProto.FLOAT16)


def test_kernels_tell_their_layers_and_add_up_to_the_reference(cuda):
    artifacts = [conv_artifact("dense", 64, 3), conv_artifact("pruned", 16, 3)]
    dense, pruned = TensorRTProfiler(precision="int8").measure(artifacts, KERNELS)
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    for measurement, channels in ((dense, 64), (pruned, 16)):
        convolutions = [k for k in measurement.kernels if k.op == "Conv"]
        assert [k.layers for k in convolutions] == [(f"conv{i}", f"relu{i}") for i in range(3)]
        assert convolutions[1].output_shapes == ((1, channels, 16, 16),)
    ratio = sum(k.latency_ms for k in pruned.kernels) / dense.latency_ms
    assert ratio == pytest.approx(pruned.ratio, rel=0.02)


def test_a_dimension_that_varies_is_built_for_the_example(cuda):
    fixed = conv_artifact("a", 16, batch=2)
    model = onnx.load_from_string(fixed.onnx)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    varying = Artifact("varying", model.SerializeToString(), fixed.inputs)
    results = TensorRTProfiler().measure([fixed, varying], QUICK)
    assert [r.ok for r in results] == [True, True]
    assert results[1].ratio == pytest.approx(1, rel=0.02)


def test_sparse_kernels_are_allowed_where_weights_are_sparse(cuda, plans):
    dense = conv_artifact("dense", 16)
    model = onnx.load_from_string(dense.onnx)
    weight = next(t for t in model.graph.initializer if t.name == "conv1.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:, 0::4] = array[:, 1::4] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    sparse = Artifact("sparse", model.SerializeToString(), dense.inputs)
    TensorRTProfiler(precision="int8", sparse_weights=True).measure([dense, sparse], QUICK)
    assert ["SPARSE_WEIGHTS" in plan["flags"] for _, plan in plans] == [False, True]


def test_the_timing_cache_is_kept_for_the_next_profiler(cuda, tmp_path):
    TensorRTProfiler().measure([conv_artifact("a", 16)], QUICK)
    (path,) = (tmp_path / "autoprune" / "tensorrt").glob("*.cache")
    assert path.name == "nvidia-formula-sm9.0-10.13.0.cache"
    before = path.read_bytes()
    assert b"conv1" in before
    TensorRTProfiler().measure([conv_artifact("b", 16, layers=3)], QUICK)
    assert set(before.decode().split('"')) < set(path.read_text().split('"'))
    path.write_bytes(b"other device's")  # is left alone, and replaced
    assert TensorRTProfiler().measure([conv_artifact("a", 16)], QUICK)[0].ok
    assert path.read_bytes() == before


def test_a_network_without_a_graph_is_run_without_and_it_is_noted(cuda):
    cuda.refuse = "work depends on data"
    (measured,) = TensorRTProfiler().measure([conv_artifact("a", 16)], QUICK)
    assert measured.ok
    assert "without a CUDA graph" in measured.notes[-1]
    assert "work depends on data" in measured.notes[-1]


def test_what_can_not_be_built_is_an_error_of_its_own(cuda):
    good = conv_artifact("good", 8)
    model = onnx.load_from_string(good.onnx)
    model.graph.node[-1].op_type = "Erf"
    other = {"x": np.zeros((1, 4, 16, 16), np.float32)}
    results = TensorRTProfiler().measure(
        [
            good,
            Artifact("unbuilt", model.SerializeToString(), good.inputs),
            Artifact("shape", good.onnx, other),
            Artifact("type", good.onnx, {"x": np.zeros((1, 3, 16, 16), np.float64)}),
        ],
        QUICK,
    )
    assert results[0].ok
    for result, said in zip(
        results[1:],
        ("no implementation of Erf", "must be of shape", "of type float32"),
        strict=True,
    ):
        assert said in result.error


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int4"}, "fp32, tf32, fp16, bf16, int8, fp8; got 'int4'"),
        ({"optimization_level": 6}, "between 0 and 5, got 6"),
        ({"library": "trt"}, "tensorrt, tensorrt_rtx; got 'trt'"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ProfilerError, match=said):
        TensorRTProfiler(**settings)


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorrt"):
        TensorRTProfiler()
    (row,) = [row for row in devices() if row.name == "tensorrt"]
    assert not row.available
    assert "JetPack" in row.missing


def test_an_old_version_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.library("8.6.1"))
    with pytest.raises(ProfilerError, match="version 10 or later, got 8"):
        TensorRTProfiler()
