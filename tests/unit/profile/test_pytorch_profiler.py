import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from autoprune.core.device import Artifact, ModuleCall
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.cost.align import charge
from autoprune.cost.layout import Layout
from autoprune.cost.signatures import HEAVY
from autoprune.graph import trace
from autoprune.profile import pytorch_kernels, pytorch_runs
from autoprune.profile.pytorch import PyTorchProfiler
from autoprune.profile.pytorch_runs import own_code
from autoprune.profile.registry import devices, make_profiler
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact

KERNELS = replace(QUICK, kernels=True)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def as_artifact(key, model, *args):
    return Artifact(key, b"", {}, call=lambda: ModuleCall(model, args))


def test_keeps_the_contract():
    check_profiler(make_profiler("pytorch-cpu"))


def test_says_what_it_measures_on():
    device = make_profiler("pytorch-cpu?precision=bf16").device
    assert (device.runtime, device.runtime_version) == ("pytorch", torch.__version__)
    assert (device.provider, device.precision, device.threads) == ("cpu-eager", "bf16", 1)
    assert device.details["clock"] == "thread CPU time"
    assert device.details["clocks_locked"] in ("yes", "no", "unknown")  # told in any case
    assert {"pytorch-cpu", "pytorch-cuda"} <= {row.name for row in devices()}


def test_it_runs_the_module_in_the_precision_and_threads_that_are_asked_for(threads):
    seen = []

    class Look(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.append((y.dtype, torch.get_num_threads(), torch.is_grad_enabled(), self.training))
            return y

    torch.set_num_threads(2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen.clear()
        profiler = PyTorchProfiler(precision=precision)
        (found,) = profiler.measure([as_artifact("a", Look(4, 4), torch.ones(2, 4))], QUICK)
        assert found.ok
        assert set(seen) == {(dtype, 1, False, False)}
    assert torch.get_num_threads() == 2


def test_operators_are_charged_to_the_networks_kernels(threads):
    model = tiny_task.build()
    x = tiny_task.inputs()
    network = trace(model, x)
    half = Artifact("half", b"", {}, call=lambda: ModuleCall(tiny_task.build(), (x,)))
    dense, other = PyTorchProfiler().measure([as_artifact("d", model, x), half], KERNELS)
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    layers = [k.layers for k in dense.kernels if k.layers]
    assert layers == [
        ("stem",), ("block1.conv1",), ("block1.conv2",), ("block2.conv1",), ("block2.conv2",),
        ("head",),
    ]  # fmt: skip
    layout = Layout.of(network.kernels)
    for measurement in (dense, other):
        times = charge(layout, network.kernels.units, measurement.kernels)
        assert times.sum() == pytest.approx(sum(k.latency_ms for k in measurement.kernels))
        heavy = [i for i, k in enumerate(layout.kernels) if k.op in HEAVY]
        assert (times[heavy] > 0).all()
    assert not any(len(m._forward_hooks) for m in model.modules())


def test_a_network_that_calls_functions_alone_is_profiled_too():
    class Functions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(8, 3, 3, 3))

        def forward(self, x):
            return torch.relu(torch.nn.functional.conv2d(x, self.weight))

    (found,) = PyTorchProfiler().measure(
        [as_artifact("f", Functions(), torch.randn(1, 3, 8, 8))], KERNELS
    )
    assert [(k.op, k.layers) for k in found.kernels] == [("conv2d", ()), ("relu", ())]
    assert found.kernels[0].input_shapes[1] == (8, 3, 3, 3)


def test_a_profiler_without_times_is_an_error_not_a_division_by_zero(monkeypatch, threads):
    x = torch.ones(2, 4)
    artifacts = [as_artifact(key, torch.nn.Linear(4, 4), x) for key in ("a", "b")]
    monkeypatch.setattr(pytorch_kernels, "_time_us", lambda event, cuda: 0.0)
    for found in PyTorchProfiler().measure(artifacts, KERNELS):
        assert "PyTorch can't profile it: ProfilerError: torch's profiler tells no" in found.error
    network = (artifacts[0].call().module, lambda: artifacts[0].call().module(x))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    real = torch.autograd.profiler.profile
    monkeypatch.setattr(  # as where there is a GPU, whose times are not told
        torch.autograd.profiler, "profile", lambda use_device, **options: real(record_shapes=True)
    )
    with pytest.raises(ProfilerError, match="on the GPU: it needs CUPTI"):
        pytorch_kernels.profile_beside(network, network, cuda=True)


def test_failures_are_values():
    class Breaks(torch.nn.Module):
        def forward(self, x):
            raise ValueError("no kernel for this")

    x = torch.ones(1)
    good = as_artifact("good", torch.nn.Identity(), x)
    alone = Artifact("alone", conv_artifact("c", 8).onnx, {"x": np.ones(1)})
    results = PyTorchProfiler().measure([good, as_artifact("bad", Breaks(), x), alone], QUICK)
    assert results[0].ok
    assert "ValueError: no kernel for this" in results[1].error
    assert "given as ONNX alone" in results[2].error
    for result in PyTorchProfiler().measure([alone, good], QUICK):
        assert not result.ok


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "fast"}, "mode on cpu must be one of eager, compiled; got 'fast'"),
        ({"mode": "cuda-graph"}, "mode on cpu must be one of eager, compiled"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16; got 'fp8'"),
        ({"threads": 0}, "threads must be an integer of at least 1, got 0"),
        ({"threads": 10**6}, "threads must be at most"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(ProfilerError, match=said):
        PyTorchProfiler(**settings)


def test_without_a_gpu_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProfilerError, match=r"sees no NVIDIA GPU.*install the driver"):
        make_profiler("pytorch-cuda")


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match=r"no 'no-such-compiler' here: apt-get"):
        make_profiler("pytorch-cpu?mode=compiled")
    monkeypatch.setattr(pytorch_runs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install triton"):
        pytorch_runs.check_compiler("cuda")


def test_without_torch_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match="pip install torch"):
        PyTorchProfiler()


def test_functions_get_a_code_of_their_own():
    def add(n=2):
        return n + offset

    offset = 3
    same = [lambda: offset for _ in range(2)]
    one, two = (own_code(function) for function in same)
    assert own_code(add)() == 5
    assert one() == two() == 3
    assert same[0].__code__ == same[1].__code__
    assert one.__code__ != two.__code__
    with pytest.raises(TypeError, match="must be a Python function"):
        own_code(len)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_compiled_networks_run_compiled(monkeypatch):
    compiled = []

    def compile(function, **options):
        compiled.append((function.__code__, options))
        return real(function, **options)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    artifacts = [as_artifact(str(n), torch.nn.Linear(n, 4), torch.ones(2, n)) for n in (8, 16)]
    found = PyTorchProfiler(mode="compiled").measure(artifacts, KERNELS)
    assert all(m.ok for m in found), found
    assert all(m.kernels == () for m in found)
    assert len({code for code, _ in compiled}) == 2
    assert all(options["fullgraph"] for _, options in compiled)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "cuda-graph"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_keeps_the_contract_on_a_gpu(mode, precision):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    profiler = make_profiler(f"pytorch-cuda?mode={mode}&precision={precision}")
    assert profiler.device.provider == f"cuda-{mode}"
    check_profiler(profiler)


@pytest.mark.gpu
def test_compiled_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    artifacts = [conv_artifact(str(n), n) for n in (8, 16)]
    for measurement in make_profiler("pytorch-cuda?mode=compiled").measure(artifacts, QUICK):
        assert measurement.ok, measurement.error
