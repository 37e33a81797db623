"""How PyTorch runs a network: on which device, in which mode, in what precision; and how long.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.conditions import gpu
from autoprune.profile.cpu import cpu
from autoprune.profile.neighbours import Watched, watched
from autoprune.profile.threads import check_threads
from autoprune.profile.visits import Runner, clock_name

#: How a network is run → the devices that can.
MODES = {"eager": ("cpu", "cuda"), "compiled": ("cpu", "cuda"), "cuda-graph": ("cuda",)}

#: Precision → torch's name of the type that autocast computes in; None for no autocast.
PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


def check_settings(device: str, mode: str, precision: str) -> None:
    """Whether networks can be run so.

    Raises:
        ProfilerError: there is no such device, mode or precision.
    """
    if mode not in MODES or device not in MODES[mode]:
        can = [m for m, on in MODES.items() if device in on]
        raise ProfilerError(
            f"mode on {device} must be one of {', '.join(can)}; got {mode!r}"
            if can
            else f"device must be cpu or cuda, got {device!r}"
        )
    if precision not in PRECISIONS:
        raise ProfilerError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


class Runs:
    """Makes functions that run networks, and times them.

    Args:
        torch: the module.
        device: "cpu" or "cuda".
        mode: a key of `MODES`.
        precision: a key of `PRECISIONS`.
        threads: intra-op threads on a CPU, at least 1.
        index: of the GPU.

    Attributes:
        place: torch's name of the device.
        about: name, runtime, its version, provider and threads, as of `DeviceSpec`.
        details: as of `DeviceSpec`.

    Raises:
        MissingDependencyError: what compiling needs is not installed.
        ProfilerError: a setting is wrong, or there is no such device.
    """

    def __init__(
        self, torch: Any, device: str, mode: str, precision: str, threads: int = 1, index: int = 0
    ) -> None:
        check_settings(device, mode, precision)
        check_threads(threads)
        self.torch, self.mode = torch, mode
        self.cuda = device == "cuda"
        self.place = f"cuda:{index}" if self.cuda else device
        self._threads = threads
        self._cpu_time = not self.cuda and threads == 1
        kind = PRECISIONS[precision]
        self._dtype = None if kind is None else getattr(torch, kind)
        name, details = gpu_details(torch, index) if self.cuda else cpu()
        if mode == "compiled":
            check_compiler(device)
        self.about: dict[str, Any] = {
            "name": name,
            "runtime": "pytorch",
            "runtime_version": str(torch.__version__),
            "provider": f"{device}-{mode}",
            "threads": 0 if self.cuda else threads,
        }
        clock = "CUDA events" if self.cuda else clock_name(self._cpu_time)
        self.details = {**details, "clock": clock}

    @contextmanager
    def threads(self) -> Iterator[None]:
        """While this is open, torch has as many threads as were asked for."""
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            self.torch.set_num_threads(before)

    def moved(self, values: Any) -> Any:
        """Values with all tensors in them on the device."""
        torch = self.torch
        return torch.utils._pytree.tree_map_only(
            torch.Tensor, lambda tensor: tensor.to(self.place), values
        )

    def eager(
        self, network: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Callable[[], object]:
        """A function that calls a network once, without gradients, in the precision."""
        torch, dtype, kind = self.torch, self._dtype, self.place.partition(":")[0]
        # In inference mode torch.compile refuses slices of buffers.
        quiet = torch.no_grad if self.mode == "compiled" else torch.inference_mode

        def run() -> object:
            with quiet():
                if dtype is None:
                    return network(*args, **kwargs)
                with torch.autocast(kind, dtype=dtype):
                    return network(*args, **kwargs)

        return run

    def ready(self, run: Callable[[], object]) -> Callable[[], object]:
        """What `eager` gave, in the mode that is measured, run once."""
        if self.mode == "compiled":
            run = self.torch.compile(own_code(run), fullgraph=True, dynamic=False)
        elif self.mode == "cuda-graph":
            run = self._captured(run)
        run()
        return run

    def _captured(self, run: Callable[[], object]) -> Callable[[], object]:
        torch = self.torch
        stream = torch.cuda.Stream(self.place)
        stream.wait_stream(torch.cuda.current_stream(self.place))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose and allocate before they are captured
                run()
        torch.cuda.current_stream(self.place).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.place), torch.cuda.graph(graph):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def timed(self, run: Callable[[], object]) -> Runner | Watched:
        """A function that runs what is `ready` once, and gives the milliseconds.

        With one thread on a CPU it is that thread's CPU time, with more the wall time; on a GPU
        the time between CUDA events around a run.
        """
        if not self.cuda:
            return watched(run, cpu_time=self._cpu_time)
        torch, place = self.torch, self.place
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def runner() -> float:
            with torch.cuda.device(place):
                begin.record()
                run()
                end.record()
                end.synchronize()
            return float(begin.elapsed_time(end))

        return runner

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.cuda:
            self.torch.cuda.synchronize(self.place)


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


def gpu_details(torch: Any, index: int) -> tuple[str, dict[str, str]]:
    """Name and details of a GPU.

    Raises:
        ProfilerError: torch sees no such GPU.
    """
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "was built without CUDA and "
        raise ProfilerError(
            f"torch {torch.__version__} {built}sees no NVIDIA GPU; install the driver and a torch "
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
    details.update(gpu(details["gpu"]))
    return str(torch.cuda.get_device_name(index)), details
