"""TensorRT, trtexec and onnxruntime's CUDA provider on a real GPU; skipped without one."""

import shutil
import sys

import numpy as np
import pytest
from ssh_program import ssh_program

from autoprune.core.device import MeasuringProtocol
from autoprune.core.errors import AutopruneError
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.profile.registry import make_profiler
from autoprune.profile.tensorrt import TensorRTProfiler
from autoprune.profile.tensorrt_cuda import TorchCuda, open_cuda
from autoprune.profile.trtexec import USUAL, TrtexecProfiler
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact

pytestmark = pytest.mark.gpu

KERNELS = MeasuringProtocol(runs=2, min_rounds=3, max_rounds=4, warmup=1, kernels=True)


@pytest.fixture(scope="module")
def cuda():
    try:
        return open_cuda(0)
    except AutopruneError as error:
        pytest.skip(str(error))


@pytest.fixture
def tensorrt(cuda, monkeypatch, tmp_path):
    pytest.importorskip("tensorrt", reason="needs the package tensorrt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def capability(cuda):
    return tuple(map(int, cuda.about()[1].split(".")))


def test_cuda_copies_waits_and_times(cuda):
    name, version, _ = cuda.about()
    assert name
    assert "." in version
    memory = cuda.upload(np.arange(1 << 20, dtype=np.float32))
    assert memory.pointer
    times = cuda.time_ms(lambda: None, 100)
    assert len(times) == 100
    assert all(t >= 0 for t in times)
    assert TorchCuda(0).about()[:2] == (name, version)


def test_tensorrt_keeps_the_contract(tensorrt):
    check_profiler(TensorRTProfiler(optimization_level=1))
    assert list((tensorrt / "autoprune" / "tensorrt").glob("*.cache"))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_tensorrt_measures_in_every_precision_by_layer(tensorrt, cuda, precision):
    if capability(cuda) < {"fp8": (8, 9), "bf16": (8, 0), "tf32": (8, 0)}.get(precision, (7, 0)):
        pytest.skip(f"this GPU has no {precision}")
    artifacts = [conv_artifact("dense", 64, 4, 32, 8), conv_artifact("pruned", 32, 4, 32, 8)]
    profiler = TensorRTProfiler(precision=precision)
    dense, pruned = profiler.measure(artifacts, KERNELS)
    assert dense.error is None
    assert pruned.error is None
    assert not [note for note in dense.notes if "without a CUDA graph" in note]
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    for measurement in (dense, pruned):
        covered = {layer for k in measurement.kernels for layer in k.layers}
        assert {f"conv{i}" for i in range(4)} <= covered


def test_tensorrt_measures_over_ssh(tensorrt):
    def there(**options):
        python = f"HOME={tensorrt} {sys.executable}"
        return make_profiler(
            "ssh://me@there",
            runtime="tensorrt",
            ssh=ssh_program(tensorrt),
            python=python,
            **options,
        )

    check_profiler(there(optimization_level=1))
    far, near = there(precision="fp16"), TensorRTProfiler(precision="fp16")
    assert far.device == near.device
    artifacts = [conv_artifact("dense", 64, 4, 32, 8), conv_artifact("pruned", 32, 4, 32, 8)]
    for found in far.measure(artifacts, KERNELS):
        assert found.error is None
        assert not [note for note in found.notes if "without a CUDA graph" in note]
        assert {f"conv{i}" for i in range(4)} <= {
            layer for k in found.kernels for layer in k.layers
        }
    assert sorted((tensorrt / ".cache" / "autoprune" / "tensorrt").glob("*.cache"))


def test_tensorrt_runs_sparse_weights(tensorrt):
    (measured,) = TensorRTProfiler(precision="fp16", sparse_weights=True).measure(
        [conv_artifact("a", 64)], QUICK
    )
    assert measured.ok


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnxruntime_runs_on_cuda(cuda, precision):
    try:
        profiler = OnnxRuntimeProfiler(provider="cuda", precision=precision)
    except AutopruneError as error:
        pytest.skip(str(error))
    assert profiler.device.name == cuda.about()[0]
    artifacts = [conv_artifact("dense", 64, 4, 32, 8), conv_artifact("pruned", 32, 4, 32, 8)]
    for measurement in profiler.measure(artifacts, KERNELS):
        assert measurement.error is None
        assert measurement.kernels


def test_trtexec_keeps_the_contract(cuda):
    if not (shutil.which("trtexec") or shutil.which(USUAL)):
        pytest.skip("needs trtexec")
    check_profiler(TrtexecProfiler(optimization_level=1))
