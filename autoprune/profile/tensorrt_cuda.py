"""The few calls of CUDA that measuring takes, by cuda-python or by PyTorch, whichever is there.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.core.errors import MissingDependencyError, ProfilerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Runs between two events are waited for together, so that the GPU stays busy.
IN_FLIGHT = 64

_NO_GPU = "an NVIDIA GPU and a driver for it must be there"


class Memory(Protocol):
    """Memory on the GPU; it is freed with the object."""

    @property
    def pointer(self) -> int:
        """Its address."""


class Cuda(Protocol):
    """A GPU with a stream of its own."""

    #: The stream's handle.
    stream: int

    def about(self) -> tuple[str, str, str]:
        """Name, compute capability ("9.0") and the newest CUDA that the driver takes ("13.0")."""

    def allocate(self, size: int) -> Memory:
        """So many bytes, not set."""

    def upload(self, array: npt.NDArray[np.generic]) -> Memory:
        """A copy of an array."""

    def wait(self) -> None:
        """Until the stream has finished."""

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """What a function enqueues on the stream as a CUDA graph; gives what launches it.

        Raises:
            ProfilerError: it can't be captured.
        """

    def time_ms(self, launch: Callable[[], None], runs: int) -> list[float]:
        """Milliseconds of each of some runs in a row, between CUDA events on the stream."""


def open_cuda(index: int = 0) -> Cuda:
    """A GPU by its number, by cuda-python where it is installed, else by PyTorch.

    Raises:
        MissingDependencyError: neither is installed with CUDA.
        ProfilerError: there is no such GPU.
    """
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            runtime = importlib.import_module(name)
        except ImportError:
            continue
        return RuntimeCuda(runtime, index)
    try:
        import torch
    except ImportError:
        has_torch = False
    else:
        has_torch = torch.version.cuda is not None
    if not has_torch:
        raise MissingDependencyError(
            "measuring with TensorRT needs CUDA's runtime: pip install cuda-python, or a PyTorch "
            "that is built with CUDA"
        )
    return TorchCuda(index)


def _check(index: int, count: int) -> None:
    """Whether a GPU of that number is among so many.

    Raises:
        ProfilerError: it is not.
    """
    if not count:
        raise ProfilerError(f"{_NO_GPU}: CUDA sees none")
    if not 0 <= index < count:
        raise ProfilerError(f"gpu must be a number below {count}, the GPUs there are: {index}")


class RuntimeCuda:
    """CUDA by cuda-python's bindings of the runtime.

    Args:
        runtime: the module `cuda.bindings.runtime` (or `cuda.cudart` before 12.6).
        index: of the GPU.
    """

    def __init__(self, runtime: Any, index: int) -> None:
        self._runtime = runtime
        try:
            count = self._call("cudaGetDeviceCount")
        except (ProfilerError, RuntimeError) as error:  # before 13 it raises where no driver is
            raise ProfilerError(f"{_NO_GPU}: {error}") from error
        _check(index, count)
        self._index = index
        self._call("cudaSetDevice", index)
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)
        self._events = [
            (self._call("cudaEventCreate"), self._call("cudaEventCreate")) for _ in range(IN_FLIGHT)
        ]

    def about(self) -> tuple[str, str, str]:
        """As of `Cuda`."""
        properties = self._call("cudaGetDeviceProperties", self._index)
        name = properties.name
        text = name.decode() if isinstance(name, bytes) else str(name)
        version = int(self._call("cudaDriverGetVersion"))
        return (
            text.rstrip("\0"),
            f"{properties.major}.{properties.minor}",
            f"{version // 1000}.{version % 1000 // 10}",
        )

    def allocate(self, size: int) -> Memory:
        """As of `Cuda`."""
        return _RuntimeMemory(self._call, int(self._call("cudaMalloc", max(1, size))))

    def upload(self, array: npt.NDArray[np.generic]) -> Memory:
        """As of `Cuda`."""
        import numpy

        whole = numpy.ascontiguousarray(array)
        memory = self.allocate(whole.nbytes)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpy", memory.pointer, whole.ctypes.data, whole.nbytes, kind)
        return memory

    def wait(self) -> None:
        """As of `Cuda`."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """As of `Cuda`."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        finally:
            # Ended in any case: a stream left capturing takes nothing else.
            error, graph = self._runtime.cudaStreamEndCapture(self._stream)
        self._check("cudaStreamEndCapture", error)
        launchable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return _RuntimeGraph(self._call, launchable, self._stream).launch

    def time_ms(self, launch: Callable[[], None], runs: int) -> list[float]:
        """As of `Cuda`."""
        times: list[float] = []
        while len(times) < runs:
            pairs = self._events[: runs - len(times)]
            for start, stop in pairs:
                self._call("cudaEventRecord", start, self._stream)
                launch()
                self._call("cudaEventRecord", stop, self._stream)
            self.wait()
            times += [float(self._call("cudaEventElapsedTime", *pair)) for pair in pairs]
        return times

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; what it gives beside the error.

        Raises:
            ProfilerError: it fails.
        """
        error, *rest = getattr(self._runtime, name)(*arguments)
        self._check(name, error)
        return rest[0] if rest else None

    def _check(self, name: str, error: Any) -> None:
        if int(error):
            text = self._runtime.cudaGetErrorString(error)[1]
            said = text.decode() if isinstance(text, bytes) else str(text)
            raise ProfilerError(f"CUDA's {name} failed: {said} ({int(error)})")


class _RuntimeMemory:
    def __init__(self, call: Callable[..., Any], pointer: int) -> None:
        self.pointer = pointer
        self._call = call

    def __del__(self) -> None:
        self._call("cudaFree", self.pointer)


class _RuntimeGraph:
    def __init__(self, call: Callable[..., Any], launchable: Any, stream: Any) -> None:
        self._call, self._launchable, self._stream = call, launchable, stream

    def launch(self) -> None:
        self._call("cudaGraphLaunch", self._launchable, self._stream)

    def __del__(self) -> None:
        self._call("cudaGraphExecDestroy", self._launchable)


class TorchCuda:
    """CUDA by PyTorch.

    Args:
        index: of the GPU.
    """

    def __init__(self, index: int) -> None:
        import torch

        self._torch: Any = torch
        cuda: Any = torch.cuda  # whose streams and events are not typed
        _check(index, cuda.device_count() if cuda.is_available() else 0)
        self._device = torch.device("cuda", index)
        cuda.set_device(self._device)
        self._stream = cuda.Stream(self._device)
        self.stream = int(self._stream.cuda_stream)
        self._events = [
            (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True))
            for _ in range(IN_FLIGHT)
        ]

    def about(self) -> tuple[str, str, str]:
        """As of `Cuda`; CUDA's version is the one that PyTorch was built with."""
        major, minor = self._torch.cuda.get_device_capability(self._device)
        name = str(self._torch.cuda.get_device_name(self._device))
        return name, f"{major}.{minor}", str(self._torch.version.cuda)

    def allocate(self, size: int) -> Memory:
        """As of `Cuda`."""
        torch = self._torch
        return _TorchMemory(torch.empty(max(1, size), dtype=torch.uint8, device=self._device))

    def upload(self, array: npt.NDArray[np.generic]) -> Memory:
        """As of `Cuda`."""
        import numpy

        raw = numpy.frombuffer(array.tobytes(), numpy.uint8).copy()
        return _TorchMemory(self._torch.from_numpy(raw).to(self._device))

    def wait(self) -> None:
        """As of `Cuda`."""
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """As of `Cuda`."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(
                graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                enqueue()
        except RuntimeError as error:
            raise ProfilerError(f"it can't be captured as a CUDA graph: {error}") from error

        def launch() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return launch

    def time_ms(self, launch: Callable[[], None], runs: int) -> list[float]:
        """As of `Cuda`."""
        times: list[float] = []
        while len(times) < runs:
            pairs = self._events[: runs - len(times)]
            for start, stop in pairs:
                start.record(self._stream)
                launch()
                stop.record(self._stream)
            self.wait()
            times += [float(start.elapsed_time(stop)) for start, stop in pairs]
        return times


class _TorchMemory:
    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.pointer = int(tensor.data_ptr())
