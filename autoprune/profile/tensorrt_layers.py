"""Layers of a TensorRT engine, as its inspector and its profiler tell them.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import ProfilerError

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LayerInfo:
    """A layer of an engine, as its inspector tells it.

    Attributes:
        name: what the engine calls it; its profiler calls it so too.
        type: TensorRT's kind of layer.
        metadata: the ONNX nodes it came from, in TensorRT's notation.
        input_shapes: of its tensors, then its constants where they are told.
        output_shapes: of its tensors.
    """

    name: str
    type: str = ""
    metadata: str = ""
    input_shapes: Shapes = ()
    output_shapes: Shapes = ()


@dataclass(frozen=True)
class LayerTime:
    """A layer of an engine with its time.

    Attributes:
        name: of the layer; where it comes again in a run, "#2" stands behind it.
        ms: milliseconds.
        info: what the inspector tells of it, at least its name.
    """

    name: str
    ms: float
    info: LayerInfo


def read_layers(text: str) -> list[LayerInfo]:
    """Read an inspector's JSON, of 10.x or 11.x, or what `trtexec --exportLayerInfo` wrote.

    Raises:
        ProfilerError: it is something else.
    """
    try:
        layers = json.loads(text)["Layers"]
        return [
            LayerInfo(layer)
            if isinstance(layer, str)  # without detailed profiling verbosity: names alone
            else LayerInfo(
                str(layer["Name"]),
                str(layer.get("LayerType", "")),
                str(layer.get("Metadata", "")),
                (*_shapes(layer.get("Inputs")), *_shapes(layer.get("Constants"))),
                _shapes(layer.get("Outputs")),
            )
            for layer in layers
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProfilerError(
            f"the engine's layer information must be JSON with Layers: {error}"
        ) from error


def _shapes(tensors: Any) -> Shapes:
    return tuple(tuple(int(d) for d in t.get("Dimensions", ())) for t in tensors or ())


def layer_times(times: Mapping[str, float], layers: Sequence[LayerInfo]) -> list[LayerTime]:
    """Join a profiler's times with the inspector's layers.

    Args:
        times: milliseconds of each layer of the engine, in the order of execution, as of
            `by_occurrence`.
        layers: of the engine.
    """
    known = {info.name: info for info in layers}
    found = []
    for name, time in times.items():
        plain = re.sub(r"#\d+$", "", name)
        info = known.get(name) or known.get(plain) or LayerInfo(plain)
        found.append(LayerTime(name, time, info))
    return found


def by_occurrence(reported: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Times in order, a name that comes again told apart by "#2", "#3", ..."""
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, time in reported:
        counts[name] = counts.get(name, 0) + 1
        times[name if counts[name] == 1 else f"{name}#{counts[name]}"] = float(time)
    return times
