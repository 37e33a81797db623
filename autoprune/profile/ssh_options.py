"""What the runtime on a remote device is told, under the names that profilers here give it."""

from __future__ import annotations

from autoprune.core.errors import ProfilerError
from autoprune.profile.onnxruntime_sessions import LEVELS
from autoprune.profile.openvino import PRECISIONS


def runtime_options(runtime: str, precision: str, graph_optimization: str) -> dict[str, str]:
    """Options of the agent's runtime.

    Args:
        runtime: as of `SshProfiler`; the agent says whether there is such a one.
        precision: "fp32"; with OpenVINO another one of `openvino.PRECISIONS` too.
        graph_optimization: "all"; with onnxruntime another one of its `LEVELS` too.

    Raises:
        ProfilerError: the runtime does not have that one.
    """
    openvino = runtime.startswith("openvino")
    for name, value, known in (
        ("precision", precision, list(PRECISIONS) if openvino else ["fp32"]),
        ("graph_optimization", graph_optimization, ["all"] if openvino else list(LEVELS)),
    ):
        if value not in known:
            raise ProfilerError(
                f"{name} must be one of {', '.join(known)} with {runtime} over ssh; got {value!r}"
            )
    if openvino:
        hint, capability = PRECISIONS[precision]
        return {"precision": precision, "hint": hint, "capability": capability}
    return {"level": LEVELS[graph_optimization]}
