"""TensorRT on another machine: a real agent in another process, with stand-ins for a GPU there.

The connection is a program that takes ssh's options and runs what is to be run here; over a real
OpenSSH server see tests/integration. What runs on the GPU is `fake_tensorrt` and `fake_cuda`.
"""

import json
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import fake_tensorrt
import numpy as np
import onnx
import pytest
from fake_cuda import Runtime
from few_rounds import FEW
from hypothesis import given
from hypothesis import strategies as st
from ssh_program import ssh_program

from autoprune.core.device import Artifact
from autoprune.core.errors import ProfilerError
from autoprune.profile import agent_file, agent_tensorrt, replies, ssh_session, tensorrt_engines
from autoprune.profile.registry import make_profiler
from autoprune.profile.ssh_tensorrt import BUILD_S, layer_info
from autoprune.profile.tensorrt import TensorRTProfiler, network_converter
from autoprune.profile.tensorrt_cuda import RuntimeCuda
from autoprune.profile.tensorrt_layers import LayerInfo, LayerTime
from autoprune.testing.profilers import check_profiler, conv_artifact

KERNELS = replace(FEW, kernels=True)


class There:
    """Another machine, as far as ssh and Python tell."""

    def __init__(self, folder):
        self.home = folder / "home"
        self.home.mkdir()
        self.ssh = ssh_program(folder)
        self.path = ""
        self.variables = ""

    def profiler(self, runtime="tensorrt", **options):
        path = f"PYTHONPATH={self.path}" if self.path else ""
        python = f"HOME={self.home} {path} {self.variables} {sys.executable}"
        given = {"runtime": runtime, "ssh": self.ssh, "python": python, "timeout_s": 300}
        return make_profiler("ssh://me@there", **{**given, **options})


@pytest.fixture
def there(tmp_path):
    found = There(tmp_path)
    found.path = fake_tensorrt.install(tmp_path / "modules")
    return found


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Makes the profiler of this machine, with the same stand-ins."""

    def make(version="10.13.0", library="tensorrt", **options):
        monkeypatch.setitem(sys.modules, library, fake_tensorrt.library(version, library))
        return TensorRTProfiler(library=library, **options)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt_engines, "open_cuda", lambda gpu: RuntimeCuda(Runtime(), gpu))
    return make


@pytest.fixture
def asked(monkeypatch):
    """What agents are asked: each request, the bytes behind it, and what it may take."""
    found = []
    real = ssh_session.Session._asked

    def spy(session, request, data, timeout_s):
        found.append((request, data, timeout_s))
        return real(session, request, data, timeout_s)

    monkeypatch.setattr(ssh_session.Session, "_asked", spy)
    return found


def networks_sent(asked):
    """Each with what is told of it, and as ONNX."""
    found = []
    for request, data, _ in asked:
        if request["do"] == "put" and data.startswith(b"{"):
            line, _, model = data.partition(b"\n")
            found.append((json.loads(line), onnx.load_from_string(model)))
    return found


def sparse(artifact):
    model = onnx.load_from_string(artifact.onnx)
    weight = next(t for t in model.graph.initializer if t.name == "conv1.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:, 0::4] = array[:, 1::4] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    return Artifact("sparse", model.SerializeToString(), artifact.inputs)


def test_keeps_the_contract(there):
    check_profiler(there.profiler())


@pytest.mark.parametrize("version", ["10.13.0", "11.4.0"])
def test_it_is_the_device_that_the_profiler_there_measures_on(there, here, tmp_path, version):
    options = {"precision": "int8", "sparse_weights": True, "optimization_level": 1}
    there.path = fake_tensorrt.install(tmp_path / "modules", version)
    far, near = there.profiler(**options).device, here(version, **options).device
    assert far == near
    assert far.differences(near) == {}
    assert near.details.items() <= far.details.items()
    assert far.details["over"] == "ssh to me@there"
    assert there.profiler(precision="fp16").device != near


def test_tensorrt_for_rtx_is_a_runtime_of_its_own(there, here, tmp_path):
    there.path = fake_tensorrt.install(tmp_path / "rtx", "1.4.0", "tensorrt_rtx")
    profiler = there.profiler("tensorrt_rtx", precision="fp16")
    assert profiler.device == here("1.4.0", "tensorrt_rtx", precision="fp16").device
    assert profiler.device.runtime == "tensorrt_rtx"
    assert profiler.measure([conv_artifact("a", 16)], FEW)[0].ok


def test_kernels_are_those_of_the_profiler_there(there, here):
    artifacts = [conv_artifact("dense", 64, 3), conv_artifact("pruned", 16, 3)]
    far = there.profiler(precision="int8").measure(artifacts, KERNELS)
    near = here(precision="int8").measure(artifacts, KERNELS)
    for own, other in zip(far, near, strict=True):
        assert own.ok
        for field in ("name", "layers", "op", "input_shapes", "output_shapes"):
            assert [getattr(k, field) for k in own.kernels] == [
                getattr(k, field) for k in other.kernels
            ]
    dense, pruned = far
    assert [k.layers for k in dense.kernels if k.op == "Conv"] == [
        (f"conv{i}", f"relu{i}") for i in range(3)
    ]
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    ratio = sum(k.latency_ms for k in pruned.kernels) / dense.latency_ms
    assert ratio == pytest.approx(pruned.ratio, rel=0.02)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("version", ["10.13.0", "11.4.0"])
def test_networks_are_converted_as_the_version_there_wants_them(
    there, asked, tmp_path, version, precision
):
    there.path = fake_tensorrt.install(tmp_path / "modules", version)
    artifacts = [conv_artifact("a", 16), conv_artifact("b", 8)]
    profiler = there.profiler(precision=precision)  # whose device is not asked for before
    assert all(m.ok for m in profiler.measure(artifacts, FEW))
    converter = network_converter(precision, version.startswith("11"))
    expected = [onnx.load_from_string(converter.convert(a).onnx) for a in artifacts]
    assert [model for _, model in networks_sent(asked)] == expected


def test_it_is_calibrated_on_the_batches_that_are_given(there, asked):
    artifact = conv_artifact("a", 8)
    batches = [{"x": 3 * artifact.inputs["x"]}]
    for own, told in ((iter(batches), "batches that were given"), (None, "the example inputs")):
        profiler = there.profiler(precision="int8", calibration=own)
        assert profiler.device.details["calibrated_on"] == told
        assert profiler.measure([artifact], FEW)[0].ok
    calibrated, plain = (model for _, model in networks_sent(asked))
    assert calibrated == onnx.load_from_string(
        network_converter("int8", False, batches).convert(artifact).onnx
    )
    assert calibrated != plain


def test_what_is_sparse_is_told(there, asked):
    dense = conv_artifact("dense", 16)
    both = [dense, sparse(dense)]
    for allowed in (True, False):
        asked.clear()
        profiler = there.profiler(precision="int8", sparse_weights=allowed)
        assert all(m.ok for m in profiler.measure(both, FEW))
        # A network that was sent already, with the same told of it, is not sent again.
        told = [about["sparse"] for about, _ in networks_sent(asked)]
        assert told == ([False, True] if allowed else [False])


def test_building_has_a_limit_of_its_own(there, asked):
    profiler = there.profiler(timeout_s=60)
    assert profiler.measure([conv_artifact("a", 8)], KERNELS)[0].ok
    limits = {do: {t for r, _, t in asked if r["do"] == do} for do in ("load", "run", "kernels")}
    assert limits == {"load": {BUILD_S}, "run": {60}, "kernels": {60}}
    (request,) = {r["limit_s"] for r, _, _ in asked if r["do"] == "load"}
    assert request < BUILD_S  # the agent ends itself before the connection gives up
    asked.clear()
    patient = there.profiler(timeout_s=2 * BUILD_S)
    assert patient.measure([conv_artifact("a", 8)], FEW)[0].ok
    assert {t for r, _, t in asked if r["do"] == "load"} == {2 * BUILD_S}


def test_the_timing_cache_is_kept_there(there):
    profiler = there.profiler(cache_mb=1)
    assert profiler.measure([conv_artifact("a", 16)], FEW)[0].ok
    (path,) = (there.home / ".cache" / "autoprune" / "tensorrt").iterdir()
    assert path.name == "nvidia-formula-sm9.0-10.13.0.cache"
    before = path.read_bytes()
    assert b"conv1" in before
    large = conv_artifact("large", 200, layers=3)  # makes room among the files there
    assert profiler.measure([large], FEW)[0].ok
    assert set(before.decode().split('"')) < set(path.read_text().split('"'))


def test_a_network_without_a_graph_is_noted(there):
    there.variables = "FAKE_CUDA_REFUSES='work depends on data'"
    good, other = there.profiler().measure([conv_artifact("a", 16), conv_artifact("b", 8)], FEW)
    for found in (good, other):
        assert found.ok
        assert "without a CUDA graph" in found.notes[-1]
        assert "work depends on data" in found.notes[-1]


def test_what_can_not_be_built_is_an_error_of_its_own(there):
    good = conv_artifact("good", 8)
    model = onnx.load_from_string(good.onnx)
    model.graph.node[-1].op_type = "Erf"
    unbuilt = Artifact("unbuilt", model.SerializeToString(), good.inputs)
    model.graph.node[-1].op_type = "NoSuchOp"
    unparsed = Artifact("unparsed", model.SerializeToString(), good.inputs)
    other = Artifact("shape", good.onnx, {"x": np.zeros((1, 4, 16, 16), np.float32)})
    rubbish = Artifact("rubbish", b"not ONNX", good.inputs)
    results = there.profiler().measure([good, unbuilt, unparsed, other, rubbish], KERNELS)
    assert results[0].kernels
    for result, said in zip(
        results[1:],
        ("can't build it: no implementation of Erf", "can't parse it: .*NoSuchOp",
         "must be of shape", "must be an ONNX model"),
        strict=True,
    ):  # fmt: skip
        assert not result.ok
        with pytest.raises(ProfilerError, match=said):
            raise ProfilerError(result.error)


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=1, unique_by=lambda x: x[0]))
def test_layers_arrive_as_they_were_told(layers):
    times = [
        LayerTime(name, 1.5, LayerInfo(own, "kgen", metadata, ((1, 3),), ((2,), ())))
        for name, own, metadata in layers
    ]
    total = 1.5 * len(times)
    agent = object.__new__(agent_tensorrt.TensorRT)
    with mock.patch.object(agent_tensorrt, "profile_beside", return_value=(times, total)):
        kernels, reference_ms = agent.kernels(None, None)
    reply = json.loads(json.dumps({"kernels": kernels, "reference_ms": reference_ms}))
    told, whole_ms = replies.kernels(reply, "it", reference=True)
    assert whole_ms == total
    assert [(t.kernel.name, t.kernel.latency_ms) for t in told] == [(t.name, 1.5) for t in times]
    assert [layer_info(t) for t in told] == [t.info for t in times]


def test_a_layer_that_is_told_wrongly_is_an_error(there, monkeypatch):
    real = agent_file.source
    monkeypatch.setattr(
        agent_file,
        "source",
        lambda name: real(name).replace(b"json.dumps([each.info.name, ", b"json.dumps(["),
    )
    (found,) = there.profiler().measure([conv_artifact("a", 8)], KERNELS)
    assert "must be its layer's name and metadata" in found.error


@pytest.mark.parametrize(
    ("runtime", "missing", "said"),
    [
        ("tensorrt", "tensorrt", r"pip install tensorrt \(on a Jetson it comes with JetPack\)"),
        ("tensorrt_rtx", "tensorrt_rtx", "pip install tensorrt-rtx-cu13-bindings"),
        ("tensorrt", "cuda", "pip install cuda-python"),
    ],
)
def test_what_is_missing_there_is_told(there, tmp_path, runtime, missing, said):
    for name in (runtime, "cuda", "torch"):
        if name in (missing, "torch"):
            fails = tmp_path / "modules" / name
            fails.mkdir(exist_ok=True)
            (fails / "__init__.py").write_text("raise ImportError('it is not there')\n")
    (tmp_path / "modules" / "tensorrt.py").rename(tmp_path / "modules" / "kept.py")
    if missing == "cuda":
        (tmp_path / "modules" / "kept.py").rename(tmp_path / "modules" / "tensorrt.py")
    with pytest.raises(ProfilerError, match=said) as caught:
        there.profiler(runtime).device  # noqa: B018
    assert f"for {sys.executable}; the option python names another" in str(caught.value)
    (found,) = there.profiler(runtime).measure([conv_artifact("a", 8)], FEW)
    assert "the device says" in found.error


def test_an_old_version_and_a_gpu_that_is_not_there_are_refused(there, tmp_path):
    with pytest.raises(ProfilerError, match="gpu must be a number below 1, the GPUs there are: 3"):
        there.profiler(gpu=3).device  # noqa: B018
    there.path = fake_tensorrt.install(tmp_path / "old", "8.6.1")
    with pytest.raises(ProfilerError, match="version 10 or later, got 8"):
        there.profiler().device  # noqa: B018


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int4"}, "fp32, tf32, fp16, bf16, int8, fp8; got 'int4'"),
        ({"optimization_level": 6}, "between 0 and 5, got 6"),
        ({"threads": 2}, "tensorrt over ssh has no option 'threads'"),
        ({"library": "tensorrt_rtx"}, "tensorrt over ssh has no option 'library'"),
        ({"calibration": "nowhere.npz", "precision": "int8"}, "nowhere.npz can't be read"),
    ],
)
def test_wrong_options_are_refused_here(there, options, said):
    with pytest.raises(ProfilerError, match=said):
        there.profiler(**options)


def test_a_window_of_energy_runs_on_the_gpu_and_is_waited_for(here):
    runtime = Runtime()
    engines = here()._engines
    engines._cuda = RuntimeCuda(runtime, 0)
    artifact = conv_artifact("a", 16)
    run = engines.make(artifact.onnx, artifact.inputs, sparse=False)
    (once,) = run.times_ms(1)
    waits = []
    runtime.cudaStreamSynchronize = lambda stream: waits.append(runtime.now_ms) or (0,)
    before = runtime.now_ms
    run.run(10)
    assert runtime.now_ms - before == pytest.approx(10 * once, rel=0.05)
    assert waits == [runtime.now_ms]


BUILDS = b"""
import json, sys
import numpy
for name in ("onnx", "torch"):
    sys.modules[name] = None
from autoprune.profile.tensorrt_build import BuildSettings, build, load_library
library = load_library("tensorrt_rtx")
for name in ("fp32", "fp16", "int8"):
    with open(name + ".onnx", "rb") as file:
        data = file.read()
    plan = build(library, data, {"x": numpy.load("x.npy")}, BuildSettings(name), capability="SM89")
    print(name, len(plan.data) > 1000)
"""


def test_the_agents_modules_build_for_real_without_any_other(tmp_path):
    for name in ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"):
        pytest.importorskip(name, reason="needs autoprune[tensorrt-rtx]")
    artifact = conv_artifact("a", 32, layers=3)
    np.save(tmp_path / "x.npy", artifact.inputs["x"])
    for name in ("fp32", "fp16", "int8"):
        ready = network_converter(name, True).convert(artifact)
        (tmp_path / f"{name}.onnx").write_bytes(ready.onnx)
    modules, found, _ = agent_file.build("tensorrt").rpartition(
        b"from autoprune.profile.agent import serve"
    )
    assert found
    (tmp_path / "builds.py").write_bytes(modules + BUILDS)
    done = subprocess.run(
        [sys.executable, "-I", "builds.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "fp32 True\nfp16 True\nint8 True\n"), done.stderr
