"""Measures networks with PyTorch itself, on this machine's CPU or an NVIDIA GPU."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks, reference_failed
from autoprune.profile.conditions import gpu
from autoprune.profile.cpu import cpu
from autoprune.profile.measuring import Runner, measure_interleaved, timed
from autoprune.profile.threads import check_threads

#: How a network is run → the devices that can.
MODES = {"eager": ("cpu", "cuda"), "compiled": ("cpu", "cuda"), "cuda-graph": ("cuda",)}

#: Precision → torch's name of the type that autocast computes in; None for no autocast.
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


def pytorch_cpu(threads: int = 1, mode: str = "eager", precision: str = "fp32") -> PyTorchProfiler:
    """PyTorch on this machine's CPU; arguments as of `PyTorchProfiler`."""
    return PyTorchProfiler("cpu", mode, precision, threads=threads)


def pytorch_cuda(mode: str = "eager", precision: str = "fp32", index: int = 0) -> PyTorchProfiler:
    """PyTorch on an NVIDIA GPU; arguments as of `PyTorchProfiler`."""
    return PyTorchProfiler("cuda", mode, precision, index=index)


class PyTorchProfiler:
    """Measures networks as PyTorch runs them: eager, compiled, or as a CUDA graph.

    A network is measured as the module that it is (`Artifact.call`), without gradients. On a CPU
    with one thread that thread's CPU time counts (see `OnnxRuntimeProfiler`), with more the wall
    time; on a GPU the time between CUDA events around a run.

    Args:
        device: "cpu" or "cuda".
        mode: "eager"; "compiled" by `torch.compile` (each network once, which takes seconds to
            minutes and comes on top of the protocol's time limit); "cuda-graph", captured once
            and replayed.
        precision: "fp32" as the network is, or "bf16" or "fp16" by autocast.
        threads: intra-op threads on a CPU, at least 1.
        index: of the GPU.

    Raises:
        MissingDependencyError: torch is not installed, or what compiling needs.
        ProfilerError: a setting is wrong, or there is no such device.
    """

    def __init__(
        self,
        device: str = "cpu",
        mode: str = "eager",
        precision: str = "fp32",
        *,
        threads: int = 1,
        index: int = 0,
    ) -> None:
        if mode not in MODES or device not in MODES[mode]:
            can = [m for m, on in MODES.items() if device in on]
            raise ProfilerError(
                f"mode on {device} must be one of {', '.join(can)}; got {mode!r}"
                if can
                else f"device must be cpu or cuda, got {device!r}"
            )
        if precision not in PRECISIONS:
            raise ProfilerError(
                f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}"
            )
        check_threads(threads)
        self._torch = _import()
        self._mode = mode
        self._threads = threads
        self._place = device if device == "cpu" else f"cuda:{index}"
        self._cuda = device == "cuda"
        kind = PRECISIONS[precision]
        self._dtype = None if kind is None else getattr(self._torch, kind)
        name, details = _gpu(self._torch, index) if self._cuda else cpu()
        if mode == "compiled":
            check_compiler(device)
        clock = "thread CPU time" if threads == 1 else "wall"
        self._device = DeviceSpec(
            name=name,
            runtime="pytorch",
            runtime_version=str(self._torch.__version__),
            provider=f"{device}-{mode}",
            precision=precision,
            threads=0 if self._cuda else threads,
            details={**details, "clock": "CUDA events" if self._cuda else clock},
        )

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""
        return self._device

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is also profiled eagerly by torch.profiler, the reference
        beside it: the `latency_ms` of a `KernelTime` is the operator's share of the reference's
        profiled time, times the reference's latency. Compiled networks tell no kernels: what was
        fused there is no operator of the network.

        Returns:
            One measurement for each, in order; one that has no module (`Artifact.call`) or can't
            be run has `error` set.
        """
        with _threads(self._torch, self._threads):
            return measure_in_chunks(artifacts, protocol, self._measure_chunk)

    def _measure_chunk(
        self, artifacts: list[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        runners: list[tuple[int, Runner]] = []
        eager: dict[int, Callable[[], object]] = {}
        modules, errors = {}, {}
        for index, artifact in enumerate(artifacts):
            try:
                modules[index], eager[index] = self._eager(artifact)
                runners.append((index, self._timed(self._ready(eager[index]))))
            except Exception as error:  # whatever torch or the network raises belongs to it
                text = _short(f"{type(error).__name__}: {error}")
                errors[index] = f"PyTorch can't run it: {text}"
                if index == 0:
                    return reference_failed(artifacts, errors[0])
        timings = measure_interleaved(
            [artifacts[i].key for i, _ in runners], [runner for _, runner in runners], protocol
        )
        found = {i: m for (i, _), m in zip(runners, timings, strict=True)}
        found |= {i: Measurement(artifacts[i].key, error=why) for i, why in errors.items()}
        if protocol.kernels and found[0].ok and self._mode != "compiled":
            from autoprune.profile.pytorch_kernels import profile_beside

            for index, measurement in found.items():
                if measurement.ok:
                    kernels = profile_beside(
                        (modules[0], eager[0]), (modules[index], eager[index]), self._cuda
                    )
                    scale = found[0].latency_ms
                    kernels = tuple(replace(k, latency_ms=k.latency_ms * scale) for k in kernels)
                    found[index] = replace(measurement, kernels=kernels)
        return [found[i] for i in range(len(artifacts))]

    def _eager(self, artifact: Artifact) -> tuple[Any, Callable[[], object]]:
        """The network on the device, and a function that runs it once."""
        torch = self._torch
        if artifact.call is None:
            raise ProfilerError(
                "it is given as ONNX alone, and PyTorch measures modules (Artifact.call); measure "
                "ONNX files by onnxruntime"
            )
        call = artifact.call()
        module: Any = call.module
        if self._cuda:
            module = copy.deepcopy(module).to(self._place)
        module = module.eval()
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.Tensor, lambda t: t.to(self._place), (call.args, dict(call.kwargs))
        )
        dtype, kind = self._dtype, self._place.partition(":")[0]

        def run() -> object:
            with torch.inference_mode():
                if dtype is None:
                    return module(*args, **kwargs)
                with torch.autocast(kind, dtype=dtype):
                    return module(*args, **kwargs)

        return module, run

    def _ready(self, run: Callable[[], object]) -> Callable[[], object]:
        """The function in the mode that is measured, run once."""
        if self._mode == "compiled":
            run = self._torch.compile(own_code(run), fullgraph=True, dynamic=False)
        elif self._mode == "cuda-graph":
            run = self._captured(run)
        run()
        return run

    def _captured(self, run: Callable[[], object]) -> Callable[[], object]:
        torch = self._torch
        stream = torch.cuda.Stream(self._place)
        stream.wait_stream(torch.cuda.current_stream(self._place))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose and allocate before they are captured
                run()
        torch.cuda.current_stream(self._place).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._place), torch.cuda.graph(graph):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def _timed(self, run: Callable[[], object]) -> Runner:
        if not self._cuda:
            return timed(run, cpu_time=self._threads == 1)
        torch, place = self._torch, self._place
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def runner() -> float:
            with torch.cuda.device(place):
                begin.record()
                run()
                end.record()
                end.synchronize()
            return float(begin.elapsed_time(end))

        return runner


def own_code(function: Callable[[], object]) -> Callable[[], object]:
    """The same function with a code object of its own.

    What torch.compile makes is kept by code object, a few at most: many networks behind one would
    be compiled anew each time, and soon not at all.
    """
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"it must be a Python function, got {type(function).__name__}")
    return types.FunctionType(
        function.__code__.replace(co_name=f"{function.__name__}_{id(function):x}"),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def check_compiler(device: str) -> None:
    """Whether torch.compile can make code for a device here.

    Raises:
        MissingDependencyError: says what is missing, and how to get it.
    """
    if device == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise MissingDependencyError(
                "mode compiled needs Triton on a GPU: pip install triton, or use another mode"
            )
        return
    wanted = os.environ.get("CXX", "g++")
    if shutil.which(wanted) is None:
        raise MissingDependencyError(
            f"mode compiled needs a C++ compiler, and there is no {wanted!r} here: apt-get "
            "install g++ (or set CXX to another), or use mode eager"
        )


def _import() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"measuring with PyTorch needs the package torch: pip install torch ({error})"
        ) from error
    module: ModuleType = torch
    return module


def _gpu(torch: Any, index: int) -> tuple[str, dict[str, str]]:
    """Name and details of a GPU.

    Raises:
        ProfilerError: torch sees no such GPU.
    """
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else ", which was built without CUDA"
        raise ProfilerError(
            f"torch {torch.__version__} sees no NVIDIA GPU{built}; install the driver and a torch "
            "for its CUDA version (https://pytorch.org/get-started)"
        )
    count = torch.cuda.device_count()
    if not 0 <= index < count:
        raise ProfilerError(f"index must be that of one of {count} GPUs, from 0; got {index}")
    major, minor = torch.cuda.get_device_capability(index)
    details = {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "compute_capability": f"{major}.{minor}",
        "tf32": f"matmul {torch.backends.cuda.matmul.allow_tf32}, "
        f"cudnn {torch.backends.cudnn.allow_tf32}",
    }
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    details["gpu"] = str(index) if uuid is None else f"GPU-{uuid}"
    details |= gpu(details["gpu"])
    return str(torch.cuda.get_device_name(index)), details


@contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _short(text: str) -> str:
    """An error's first lines: compilers say a great deal."""
    return text if len(text) <= 600 else text[:600] + "…"
