"""Runs TensorRT engines on a GPU: as CUDA graphs for the whole, by layer for the kernels.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.tensorrt_build import logger
from autoprune.profile.tensorrt_cuda import Cuda
from autoprune.profile.tensorrt_layers import (
    LayerInfo,
    LayerTime,
    by_occurrence,
    layer_times,
    read_layers,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Profiled runs of each network, each beside one of the reference.
PROFILED_RUNS = 20

#: Runs of a network before it is captured as a graph: TensorRT sets things up in the first.
_FIRST_RUNS = 2


class EngineRun:
    """An engine with its inputs on the GPU.

    Args:
        library: TensorRT, as `load_library` gives it.
        cuda: the GPU.
        plan: the serialised engine.
        inputs: name → array to feed.

    Attributes:
        note: why it is not run as a CUDA graph; "" where it is.

    Raises:
        ProfilerError: it can't be loaded or run.
    """

    def __init__(
        self,
        library: Any,
        cuda: Cuda,
        plan: bytes,
        inputs: Mapping[str, npt.NDArray[np.generic]],
    ) -> None:
        self._library, self._cuda = library, cuda
        self._log = logger(library)
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ProfilerError(f"TensorRT can't load its engine: {self._log.errors()}")
        self._kept: list[object] = []
        self._inputs = inputs
        self._context = self._bound_context()
        for _ in range(_FIRST_RUNS):
            self._enqueue(self._context)
        cuda.wait()
        self.note = ""
        try:
            self._launch = cuda.capture(lambda: self._enqueue(self._context))
        except ProfilerError as error:
            # Networks whose work depends on data have no graph.
            self.note = f"run without a CUDA graph: {error}"
            self._launch = lambda: self._enqueue(self._context)

    def times_ms(self, runs: int) -> list[float]:
        """Run that many times in a row: milliseconds of each."""
        return self._cuda.time_ms(self._launch, runs)

    def run(self, runs: int) -> None:
        """Run that many times in a row, and wait."""
        for _ in range(runs):
            self._launch()
        self._cuda.wait()

    def layers(self) -> list[LayerInfo]:
        """What the engine's inspector tells of its layers, in the shapes that are run."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return read_layers(
            inspector.get_engine_information(self._library.LayerInformationFormat.JSON)
        )

    def profiled(self) -> Profiled:
        """The same engine with each layer timed, in a context of its own."""
        context = self._bound_context()
        times = _layer_times(self._library)
        context.profiler = times
        return Profiled(self, context, times)

    def run_profiled(self, context: Any) -> None:
        """Run once in a context with a profiler, and wait."""
        self._enqueue(context)
        self._cuda.wait()

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._cuda.stream):
            raise ProfilerError(f"TensorRT can't run it: {self._log.errors()}")

    def _bound_context(self) -> Any:
        """A context with shapes and addresses set."""
        import numpy

        engine, context = self._engine, self._engine.create_execution_context()
        if context is None:
            raise ProfilerError(f"TensorRT can't set up a run: {self._log.errors()}")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = self._library.TensorIOMode
        inputs = [n for n in names if engine.get_tensor_mode(n) == mode.INPUT]
        for name in inputs:
            array = self._inputs[name]
            wanted = numpy.dtype(self._library.nptype(engine.get_tensor_dtype(name)))
            if array.dtype != wanted:
                raise ProfilerError(f"input {name!r} must be of type {wanted}, got {array.dtype}")
            if not context.set_input_shape(name, array.shape):
                raise ProfilerError(f"input {name!r} can't be of shape {array.shape}")
            self._bind(context, name, array)
        missing = context.infer_shapes()
        if missing:
            raise ProfilerError(f"TensorRT can't find the shapes of {', '.join(missing)}")
        for name in names:
            if name not in inputs:
                shape = tuple(context.get_tensor_shape(name))
                if any(size < 0 for size in shape):
                    raise ProfilerError(
                        f"output {name!r} must have a shape that does not depend on data, "
                        f"got {shape}"
                    )
                width = float(engine.get_tensor_dtype(name).itemsize)  # below 1 for 4 bits
                self._bind(context, name, math.ceil(math.prod(shape) * width))
        return context

    def _bind(self, context: Any, name: str, content: npt.NDArray[np.generic] | int) -> None:
        """Give a tensor memory: a copy of an array, or so many bytes."""
        on_host = self._engine.get_tensor_location(name) == self._library.TensorLocation.HOST
        if on_host:  # tensors that shapes are computed from
            import numpy

            size = content if isinstance(content, int) else content.nbytes
            memory = numpy.zeros(max(1, size), numpy.uint8)
            if not isinstance(content, int):
                memory = numpy.ascontiguousarray(content).copy().reshape(-1).view(numpy.uint8)
            self._kept.append(memory)
            pointer = memory.ctypes.data
        else:
            held = (
                self._cuda.allocate(content)
                if isinstance(content, int)
                else self._cuda.upload(content)
            )
            self._kept.append(held)
            pointer = held.pointer
        if not context.set_tensor_address(name, pointer):
            raise ProfilerError(f"TensorRT does not take the address of {name!r}")


class Profiled:
    """Runs an engine with each of its layers timed.

    Args:
        run: the engine.
        context: an execution context with `times` as its profiler.
        times: what it reports to.
    """

    def __init__(self, run: EngineRun, context: Any, times: Any) -> None:
        self._run, self._context, self._times = run, context, times
        self._runs: list[dict[str, float]] = []

    def once(self, *, counted: bool = True) -> None:
        """Run once; TensorRT reports each layer's time before it returns."""
        self._times.reported.clear()
        self._run.run_profiled(self._context)
        if counted:
            self._runs.append(by_occurrence(self._times.reported))

    def take(self) -> dict[str, float]:
        """Milliseconds of each layer: the median over the runs since the last call."""
        runs, self._runs = self._runs, []
        names = dict.fromkeys(name for run in runs for name in run)
        return {name: median(run.get(name, 0.0) for run in runs) for name in names}


def profile_beside(reference: EngineRun, own: EngineRun) -> tuple[list[LayerTime], float]:
    """An engine's layers, timed in turn with the reference's.

    Args:
        reference: is run beside it, so that a drift of the device cancels.
        own: may be the reference itself.

    Returns:
        The engine's layers in the order of execution, and the milliseconds that the reference's
        take together.

    Raises:
        ProfilerError: they can't be run, or the reference's layers take no time.
    """
    beside = reference.profiled()
    both = [beside] if own is reference else [beside, own.profiled()]
    for each in both:
        each.once(counted=False)
    for _ in range(PROFILED_RUNS):
        for each in both:
            each.once()
    times = [each.take() for each in both]
    total = sum(times[0].values())
    if not total > 0:
        raise ProfilerError("the layers of the reference must take some time")
    return layer_times(times[-1], own.layers()), total


def _layer_times(library: Any) -> Any:
    """An `IProfiler` that keeps what is reported to it, in order."""

    class Times(library.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProfiler.__init__(self)
            self.reported: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.reported.append((layer_name, ms))

    return Times()
