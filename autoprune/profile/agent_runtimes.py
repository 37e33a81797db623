"""The runtimes of the agent on a remote device, by name.

It is sent there as it is, with the module of the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from autoprune.core.errors import ProfilerError
from autoprune.profile.agent_running import Runtime

#: Name of a runtime → `module:class`.
RUNTIMES: dict[str, str] = {
    "onnxruntime": "autoprune.profile.agent_onnxruntime:OnnxRuntime",
    "openvino": "autoprune.profile.agent_openvino:OpenVino",
    "pytorch": "autoprune.profile.agent_pytorch:PyTorch",
    "tensorrt": "autoprune.profile.agent_tensorrt:TensorRT",
}


def make(name: str, options: Mapping[str, Any]) -> Runtime:
    """A runtime by its name.

    Args:
        name: in `RUNTIMES`.
        options: what its class is made with, `ssh_runtime.RemoteRuntime.options`.

    Raises:
        ProfilerError: it is not there, or can't compute so.
    """
    if name not in RUNTIMES:
        raise ProfilerError(f"this agent has {', '.join(RUNTIMES)}; got {name!r}")
    module, _, kind = RUNTIMES[name].partition(":")
    made: Runtime = getattr(import_module(module), kind)(**options)
    return made
