"""onnxruntime's execution providers: their names, their packages, and what they run on.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.cpu import cpu
from autoprune.profile.nvidia_smi import gpu

CPU = "CPUExecutionProvider"

#: Providers whose inputs and outputs stay on an NVIDIA GPU.
NVIDIA = (
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
)

#: Providers that compile parts of a graph; onnxruntime can't write down what they made of it.
KEEP_GRAPH = (CPU, "CUDAExecutionProvider")

#: Provider, in short → the package of onnxruntime that has it.
PACKAGES: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "nvtensorrtrtx": "onnxruntime-trt-rtx",
    "openvino": "onnxruntime-openvino",
    "dml": "onnxruntime-directml",
    "migraphx": "onnxruntime-migraphx",
    "qnn": "onnxruntime-qnn",
    "coreml": "onnxruntime (on macOS)",
}


def short(provider: str) -> str:
    """A provider's name as a user writes it: "cuda"."""
    return provider.lower().removesuffix("executionprovider")


def find(name: str, available: Sequence[str]) -> str:
    """onnxruntime's name of an execution provider.

    Args:
        name: "cuda", or "CUDAExecutionProvider".
        available: what this build of onnxruntime has.

    Raises:
        ProfilerError: it is not among them; says what is, and what to install.
    """
    wanted = short(name)
    for candidate in available:
        if short(candidate) == wanted:
            return candidate
    has = ", ".join(sorted(map(short, available)))
    if wanted in PACKAGES:
        install = f"pip uninstall onnxruntime; pip install {PACKAGES[wanted]}"
    else:
        install = "others come with other packages: " + ", ".join(
            f"{p} ({package})" for p, package in PACKAGES.items()
        )
    raise ProfilerError(
        f"provider must be one that this onnxruntime was built with ({has}); got {name!r}. "
        f"To get it: {install}"
    )


def parse_options(options: Mapping[str, Any] | str) -> dict[str, str]:
    """Options of a provider as text by name.

    Args:
        options: a mapping, or "device_id:0,cudnn_conv_algo_search:HEURISTIC".

    Raises:
        ProfilerError: the text can't be split so.
    """
    if not isinstance(options, str):
        return {str(name): str(value) for name, value in options.items()}
    pairs = [each.partition(":") for each in options.split(",") if each]
    for name, separator, value in pairs:
        if not (name and separator and value):
            raise ProfilerError(
                f"provider_options must be written name:value,name:value; got {options!r}"
            )
    return {name: value for name, _, value in pairs}


def settings(options: Mapping[str, str], graph_optimization: str) -> dict[str, str]:
    """What `DeviceSpec.settings` tells of a provider's options and the graph's optimisation.

    The first GPU is the default, named or not.
    """
    changed = graph_optimization != "all"
    return {
        **{n: value for n, value in sorted(options.items()) if (n, value) != ("device_id", "0")},
        **({"graph_optimization": graph_optimization} if changed else {}),
    }


def precision_details(provider: str, precision: str) -> dict[str, str]:
    """What is to be known of computing in a precision, for the device's details."""
    if precision == "fp16" and short(provider) == "cpu":
        return {"fp16": "32-bit kernels between casts, but for a few ops"}
    return {}


def runs_on(provider: str, options: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Name and details of the hardware that a provider runs on.

    A provider that is neither the CPU's nor of NVIDIA is told by the CPU's name with the
    provider's beside it, since onnxruntime does not tell what hardware it chose.

    Raises:
        ProfilerError: it needs an NVIDIA GPU and there is none.
    """
    name, details = cpu()
    if provider in NVIDIA:
        index = options.get("device_id", "0")
        if not index.isdigit():
            raise ProfilerError(f"device_id must be a number, got {index!r}")
        gpu_name, driver = gpu(int(index))
        return gpu_name, {"driver": driver or "unknown", "host": name, "system": details["system"]}
    device = options.get("device_type", "")
    return f"{name} {device}".strip() if provider != CPU else name, details


def node_counts(profile: Mapping[Any, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the nodes that each provider ran, from the arguments of onnxruntime's profile."""
    found: dict[str, list[str]] = {}
    for node, arguments in profile.items():
        found.setdefault(str(arguments.get("provider", "")), []).append(str(node[0]))
    return found
