"""What the runtime on a remote device is told, under the names that profilers here give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.onnxruntime import PRECISIONS as ONNXRUNTIME
from autoprune.profile.onnxruntime_providers import parse_options, precision_details, settings
from autoprune.profile.onnxruntime_sessions import LEVELS
from autoprune.profile.openvino import PRECISIONS as OPENVINO

#: What others can be told who ask for a runtime that the agent does not have.
_INSTEAD = {
    "tensorrt": (
        "TensorRT on another machine is measured by its program trtexec: --device "
        "'trtexec?host=user@host' (docs/how-to/tensorrt.md)"
    ),
    "trtexec": "it is a device of its own: --device 'trtexec?host=user@host'",
    "pytorch": (
        "networks are sent as ONNX, which PyTorch does not run: install autoprune there and "
        "measure with --device pytorch-cuda, or use a runtime of ONNX"
    ),
}


class RemoteRuntime:
    """A runtime on a remote device, and how it is to run networks.

    Args:
        name: "onnxruntime-cpu", "onnxruntime-" and another execution provider, "openvino-cpu".
        precision: "fp32", "fp16" or "int8" with onnxruntime, for which networks are converted
            here; "fp32", "bf16" or "fp16" with OpenVINO, which computes in it.
        graph_optimization: "all"; with onnxruntime another one of its `LEVELS` too.
        provider_options: of onnxruntime's provider: a mapping, or "name:value,name:value".
        cpu_fallback: whether nodes that the provider can't run may run on the CPU.

    Raises:
        ProfilerError: there is no such runtime, or it does not have that.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        graph_optimization: str,
        provider_options: Mapping[str, Any] | str,
        cpu_fallback: bool,
    ) -> None:
        plain, _, provider = name.partition("-")
        openvino = name == "openvino-cpu"
        if not (openvino or (plain == "onnxruntime" and provider)):
            instead = _INSTEAD.get(plain, "")
            raise ProfilerError(
                "runtime must be onnxruntime-cpu, onnxruntime- and another execution provider, or "
                f"openvino-cpu; got {name!r}" + (f". {instead}" if instead else "")
            )
        for option, value, choices in (
            ("precision", precision, list(OPENVINO) if openvino else list(ONNXRUNTIME)),
            ("graph_optimization", graph_optimization, ["all"] if openvino else list(LEVELS)),
        ):
            if value not in choices:
                raise ProfilerError(
                    f"{option} must be one of {', '.join(choices)} with {name} over ssh; "
                    f"got {value!r}"
                )
        given = parse_options(provider_options)
        if openvino and given:
            raise ProfilerError(f"provider_options must be left out with {name}; got {given}")
        if not cpu_fallback and provider == "cpu":
            raise ProfilerError(f"cpu_fallback must be left out with {name}, which is the CPU's")
        self.name, self.precision = name, precision
        #: The precision that networks are converted to before they are sent.
        self.converts = "fp32" if openvino else precision
        #: What the agent's runtime is made with.
        self.options: dict[str, Any]
        if openvino:
            hint, capability = OPENVINO[precision]
            self.options = {"precision": precision, "hint": hint, "capability": capability}
        else:
            self.options = {
                "level": graph_optimization,
                "options": given,
                "fallback": cpu_fallback,
            }
        #: As of `DeviceSpec`.
        self.settings = settings(given, graph_optimization)
        #: What the device's details tell of it.
        self.details = {} if openvino else {"graph_optimization": graph_optimization}
        if not openvino:
            self.details |= precision_details(provider, precision)
