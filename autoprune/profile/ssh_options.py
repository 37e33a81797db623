"""The runtimes on a remote device, under the names and options that profilers here give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile import onnxruntime_kernels, openvino_kernels
from autoprune.profile.node_times import Source
from autoprune.profile.onnx_precision import Converter
from autoprune.profile.onnxruntime import PRECISIONS as ONNXRUNTIME
from autoprune.profile.onnxruntime_providers import parse_options, precision_details, settings
from autoprune.profile.onnxruntime_sessions import LEVELS
from autoprune.profile.openvino import PRECISIONS as OPENVINO
from autoprune.profile.options import converted, parameters
from autoprune.profile.ssh_pytorch import pytorch_cpu, pytorch_cuda
from autoprune.profile.ssh_runtime import RemoteRuntime
from autoprune.profile.ssh_tensorrt import TensorRTRtxThere, TensorRTThere
from autoprune.profile.threads import checked_threads

#: What others can be told who ask for a runtime that the agent does not have.
_INSTEAD = {
    "trtexec": "it is a device of its own: --device 'trtexec?host=user@host'",
}


class OnnxRuntimeThere(RemoteRuntime):
    """onnxruntime there; arguments as of `OnnxRuntimeProfiler`."""

    def __init__(
        self,
        provider: str,
        threads: int = 1,
        precision: str = "fp32",
        graph_optimization: str = "all",
        provider_options: Mapping[str, Any] | str = "",
        cpu_fallback: bool = True,
        calibration: object = None,
    ) -> None:
        name = f"onnxruntime-{provider} over ssh"
        check_choice("precision", precision, ONNXRUNTIME, name)
        check_choice("graph_optimization", graph_optimization, LEVELS, name)
        given = parse_options(provider_options)
        if not cpu_fallback and provider == "cpu":
            raise ProfilerError(f"cpu_fallback must be left out with {name}, which is the CPU's")
        super().__init__(
            "onnxruntime",
            precision,
            {
                "provider": provider,
                "threads": checked_threads(threads),
                "level": graph_optimization,
                "options": given,
                "fallback": cpu_fallback,
            },
            converter=Converter(precision, calibration=calibration, quantizer="onnxruntime"),
            settings=settings(given, graph_optimization),
            details={
                "graph_optimization": graph_optimization,
                **precision_details(provider, precision),
            },
        )

    def profiled(
        self,
        load: Callable[[int], Source],
        measured: Sequence[Measurement],
        protocol: MeasuringProtocol,
    ) -> list[Measurement]:
        """As of `RemoteRuntime`."""
        return onnxruntime_kernels.profile_kernels(load, measured, protocol)


class OpenVinoThere(RemoteRuntime):
    """OpenVINO on the CPU there; arguments as of `OpenVinoProfiler`."""

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        check_choice("precision", precision, OPENVINO, "openvino-cpu over ssh")
        hint, capability = OPENVINO[precision]
        super().__init__(
            "openvino",
            precision,
            {
                "threads": checked_threads(threads),
                "precision": precision,
                "hint": hint,
                "capability": capability,
            },
        )

    def profiled(
        self,
        load: Callable[[int], Source],
        measured: Sequence[Measurement],
        protocol: MeasuringProtocol,
    ) -> list[Measurement]:
        """As of `RemoteRuntime`."""
        return openvino_kernels.profile_kernels(load, measured)


#: Runtimes by name; onnxruntime's has that of an execution provider in place of the star.
RUNTIMES: Mapping[str, Callable[..., RemoteRuntime]] = {
    "onnxruntime-*": OnnxRuntimeThere,
    "openvino-cpu": OpenVinoThere,
    "pytorch-cpu": pytorch_cpu,
    "pytorch-cuda": pytorch_cuda,
    "tensorrt": TensorRTThere,
    "tensorrt_rtx": TensorRTRtxThere,
}


def remote_runtime(name: str, options: Mapping[str, Any]) -> RemoteRuntime:
    """A runtime on a remote device.

    Args:
        name: "onnxruntime-cpu", "onnxruntime-" and another execution provider, or another name in
            `RUNTIMES`.
        options: of it, texts of an address too; batches for `calibration`, which every search
            gives, are left to those that have it.

    Raises:
        ProfilerError: there is no such runtime, or it does not have that option or value.
    """
    plain, _, provider = name.partition("-")
    given = dict(options)
    factory = RUNTIMES.get(name)
    if plain == "onnxruntime" and provider not in ("", "*"):
        factory = RUNTIMES["onnxruntime-*"]
        given["provider"] = provider
    if factory is None or name.endswith("*"):
        names = ", ".join(sorted(RUNTIMES)).replace("*", "cpu, onnxruntime-cuda, onnxruntime-...")
        instead = _INSTEAD.get(plain, "")
        raise ProfilerError(
            f"runtime must be one of {names} over ssh; got {name!r}"
            + (f". {instead}" if instead else "")
        )
    if "provider" in options:
        raise ProfilerError(
            "provider must be left out over ssh: it is part of the runtime's name, as in "
            f"runtime=onnxruntime-cuda; got {options['provider']!r}"
        )
    known = [option for option in parameters(factory) if option != "provider"]
    if "calibration" not in known and not isinstance(given.get("calibration"), str):
        given.pop("calibration", None)
    unknown = sorted(given.keys() - {*known, "provider"})
    if unknown:
        raise ProfilerError(
            f"{name} over ssh has no option {unknown[0]!r}; it has {', '.join(known)}, and ssh has "
            "those of docs/how-to/remote-device.md"
        )
    return factory(**converted(f"{name} over ssh", factory, given))


def check_choice(
    option: str, value: object, choices: Mapping[str, Any] | Sequence[str], who: str
) -> None:
    """Whether an option has one of its values.

    Args:
        option: its name.
        value: given.
        choices: that it must be one of.
        who: has it, for messages.

    Raises:
        ProfilerError: it has not.
    """
    if value not in list(choices):
        raise ProfilerError(
            f"{option} must be one of {', '.join(choices)} with {who}; got {value!r}"
        )
