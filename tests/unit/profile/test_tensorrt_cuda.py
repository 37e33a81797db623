"""The calls of CUDA's runtime, in order, on a runtime that only writes them down."""

import sys
import types

import numpy as np
import pytest
import torch

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.tensorrt_cuda import IN_FLIGHT, RuntimeCuda, open_cuda


class Runtime:
    """As `cuda.bindings.runtime`: every function gives a tuple, the error first."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, **answers):
        self.calls, self.events = [], 0
        self.answers = {
            "cudaGetDeviceCount": 2,
            "cudaStreamCreateWithFlags": 99,
            "cudaGetDeviceProperties": types.SimpleNamespace(name=b"GPU\0\0", major=8, minor=9),
            "cudaDriverGetVersion": 12040,
            "cudaMalloc": 4096,
            "cudaStreamEndCapture": "graph",
            "cudaGraphInstantiate": "launchable",
            "cudaEventElapsedTime": 0.25,
            "cudaGetErrorString": b"out of memory",
            **answers,
        }

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, arguments))
            if name == "cudaEventCreate":
                self.events += 1
                return 0, f"event{self.events}"
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                return int(str(answer)), None
            return (0, answer) if name in self.answers else (0,)

        return call

    def names(self):
        return [name for name, _ in self.calls]


def test_a_device_is_told():
    cuda = RuntimeCuda(Runtime(), 1)
    assert cuda.about() == ("GPU", "8.9", "12.4")
    assert cuda.stream == 99
    assert ("cudaSetDevice", (1,)) in cuda._runtime.calls


def test_arrays_are_copied_and_freed():
    runtime = Runtime()
    cuda = RuntimeCuda(runtime, 0)
    memory = cuda.upload(np.ones((2, 3), np.float32))
    assert memory.pointer == 4096
    assert ("cudaMalloc", (24,)) in runtime.calls
    assert runtime.calls[-1][0] == "cudaMemcpy"
    assert runtime.calls[-1][1][2:] == (24, 1)
    del memory
    assert runtime.calls[-1] == ("cudaFree", (4096,))


def test_a_graph_is_captured_and_launched_between_events():
    runtime = Runtime()
    cuda = RuntimeCuda(runtime, 0)
    launch = cuda.capture(lambda: runtime.calls.append(("enqueue", ())))
    assert runtime.names()[-5:] == [
        "cudaStreamBeginCapture",
        "enqueue",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
    ]
    runtime.calls.clear()
    times = cuda.time_ms(launch, IN_FLIGHT + 3)
    assert times == [0.25] * (IN_FLIGHT + 3)
    assert runtime.names()[:3] == ["cudaEventRecord", "cudaGraphLaunch", "cudaEventRecord"]
    assert runtime.names().count("cudaStreamSynchronize") == 2
    waited = runtime.names().index("cudaStreamSynchronize")
    assert "cudaEventElapsedTime" not in runtime.names()[:waited]
    del launch
    assert runtime.calls[-1] == ("cudaGraphExecDestroy", ("launchable",))


def test_a_capture_that_fails_is_ended_and_told():
    runtime = Runtime(cudaStreamEndCapture=ValueError(901))
    cuda = RuntimeCuda(runtime, 0)
    with pytest.raises(ProfilerError, match=r"cudaStreamEndCapture failed: out of memory \(901\)"):
        cuda.capture(lambda: None)

    def broken():
        raise ProfilerError("can't be enqueued")

    with pytest.raises(ProfilerError, match="can't be enqueued"):
        RuntimeCuda(runtime, 0).capture(broken)
    assert runtime.names()[-1] == "cudaStreamEndCapture"


def test_errors_are_told_in_cudas_words():
    with pytest.raises(ProfilerError, match=r"cudaMalloc failed: out of memory \(2\)"):
        RuntimeCuda(Runtime(cudaMalloc=ValueError(2)), 0).allocate(10)
    with pytest.raises(ProfilerError, match="below 2, the GPUs there are: 2"):
        RuntimeCuda(Runtime(), 2)


def test_without_a_gpu_or_its_driver_it_says_so():
    # What cuda-python 13 gives and 12 raises where there is no driver.
    runtime = Runtime(cudaGetDeviceCount=ValueError(35))
    with pytest.raises(ProfilerError, match=r"an NVIDIA GPU and a driver .* failed: .* \(35\)"):
        RuntimeCuda(runtime, 0)

    def fails():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    runtime.cudaGetDeviceCount = fails
    with pytest.raises(ProfilerError, match=r"an NVIDIA GPU and a driver .*: Failed to dlopen"):
        RuntimeCuda(runtime, 0)
    with pytest.raises(ProfilerError, match="CUDA sees none"):
        RuntimeCuda(Runtime(cudaGetDeviceCount=0), 0)


def test_cuda_python_is_taken_before_pytorch(monkeypatch):
    runtime = Runtime()
    module = types.ModuleType("cuda.bindings.runtime")
    module.__getattr__ = runtime.__getattr__  # type: ignore[method-assign]
    vars(module).update(
        cudaStreamNonBlocking=1,
        cudaMemcpyKind=runtime.cudaMemcpyKind,
        cudaStreamCaptureMode=runtime.cudaStreamCaptureMode,
    )
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module)
    assert isinstance(open_cuda(0), RuntimeCuda)


def test_without_either_it_says_how_to_get_one(monkeypatch):
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MissingDependencyError, match="pip install cuda-python"):
        open_cuda(0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ProfilerError, match=r"an NVIDIA GPU and a driver .*: CUDA sees none"):
        open_cuda(0)
