"""The runtimes of the agent on a remote device: networks loaded, to be timed or profiled.

It is sent there as it is: Python 3.9, numpy and the runtime, and the modules sent with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from autoprune.core.errors import ProfilerError
from autoprune.profile.cpu import cpu
from autoprune.profile.onnxruntime_providers import find, runs_on, short
from autoprune.profile.onnxruntime_sessions import Sessions
from autoprune.profile.openvino_nodes import ProfiledRequest


class Runtime(Protocol):
    """What runs networks.

    Attributes:
        about: name, runtime, its version and provider, as of `DeviceSpec`.
        details: as of `DeviceSpec`.
        calling_thread_only: whether all of a run happens in the thread that asks for it.
    """

    about: dict[str, str]
    details: dict[str, str]
    calling_thread_only: bool

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], object]:
        """A function that runs a network once, of its file and arrays by name."""

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Any:
        """A network, to be profiled: `ProfiledSession` or `ProfiledRequest`."""

    def elsewhere(self, model: str, inputs: Mapping[str, Any]) -> str:
        """Which nodes run elsewhere than they should, in words; "" where none does."""


class OnnxRuntime:
    """onnxruntime with one execution provider: sessions are made as on the other side."""

    def __init__(
        self, provider: str, threads: int, level: str, options: Mapping[str, str], fallback: bool
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ProfilerError(_missing("onnxruntime", error)) from error
        found = find(provider, onnxruntime.get_available_providers())
        self._sessions = Sessions(onnxruntime, found, options, threads, level, fallback)
        self.calling_thread_only = self._sessions.calling_thread_only
        name, self.details = runs_on(found, options)
        self.about = {
            "name": name,
            "runtime": "onnxruntime",
            "runtime_version": str(onnxruntime.__version__),
            "provider": short(found),
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], object]:
        """As of `Runtime`."""
        return self._sessions.make(model, inputs, self._sessions.options())[1]

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Any:
        """As of `Runtime`."""
        return self._sessions.profiled(model, inputs)

    def elsewhere(self, model: str, inputs: Mapping[str, Any]) -> str:
        """As of `Runtime`: the nodes that the provider leaves to the CPU."""
        return self._sessions.on_the_cpu(model, inputs)


class OpenVino:
    """OpenVINO on the CPU, which must have a capability for the precision."""

    def __init__(self, threads: int, precision: str, hint: str, capability: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ProfilerError(_missing("openvino", error)) from error
        self.calling_thread_only = threads == 1
        self._core, self._tensor = openvino.Core(), openvino.Tensor
        has = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if capability not in has:
            raise ProfilerError(
                f"the CPU there can't compute in {precision}; it can in {', '.join(has)}"
            )
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        name, self.details = cpu()
        self.about = {
            "name": name,
            "runtime": "openvino",
            "runtime_version": str(openvino.__version__).partition("-")[0],
            "provider": "cpu",
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], object]:
        """As of `Runtime`."""
        run: Callable[[], object] = self._request(model, inputs)[1].infer
        return run

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Any:
        """As of `Runtime`."""
        return ProfiledRequest(*self._request(model, inputs, PERF_COUNT=True))

    def elsewhere(self, model: str, inputs: Mapping[str, Any]) -> str:
        """As of `Runtime`: there is nowhere else."""
        return ""

    def _request(self, model: str, inputs: Mapping[str, Any], **more: Any) -> tuple[Any, Any]:
        """A compiled network, and a request with its inputs set."""
        with open(model, "rb") as file:
            network = self._core.read_model(file.read())
        compiled = self._core.compile_model(network, "CPU", {**self._settings, **more})
        wanted = {port.get_any_name() for port in compiled.inputs}
        if wanted != set(inputs):
            raise ProfilerError(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, self._tensor(array))
        return compiled, request


def _missing(package: str, error: ImportError) -> str:
    """What to do where a runtime's package is not there."""
    return (
        f"needs {package} there: {sys.executable} -m pip install {package}, or name another "
        f"interpreter by the option python ({error})"
    )


def make(runtime: str, threads: int, options: Mapping[str, Any]) -> Runtime:
    """A runtime by its name.

    Args:
        runtime: "onnxruntime-" and an execution provider, or "openvino-cpu".
        threads: of it.
        options: what else it is told, `ssh_options.RemoteRuntime.options`.

    Raises:
        ProfilerError: it is not there, or can't compute so.
    """
    if runtime == "openvino-cpu":
        return OpenVino(threads, **options)
    return OnnxRuntime(runtime.partition("-")[2], threads, **options)
