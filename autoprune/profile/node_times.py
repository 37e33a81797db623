"""Times of a network's nodes as its runtime tells them, taken here or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from autoprune.core.device import KernelTime
from autoprune.core.errors import ProfilerError
from autoprune.profile.agent_running import Profiled
from autoprune.profile.onnx_layers import FusedLayers

Floats = npt.NDArray[np.float64]

#: Note on a network without kernel times: the reference took no time by its profile.
TOO_QUICK = (
    "no kernel times: the runtime counts whole microseconds, and every node of the reference takes "
    "less"
)


@dataclass(frozen=True)
class NodeTimes:
    """Nodes and their times.

    Attributes:
        nodes: each with its `name` and `op`, and where known `layers`, `input_shapes` and
            `output_shapes`, in the order of execution.
        times_us: (runs, nodes) microseconds.
    """

    nodes: Sequence[Mapping[str, Any]]
    times_us: Floats

    def kernels(self, times_ms: Floats, fused: FusedLayers | None = None) -> list[KernelTime]:
        """The nodes with one time each.

        Args:
            times_ms: (nodes,) milliseconds.
            fused: tells the layers of nodes that don't tell theirs.
        """
        return [
            kernel_time(node, float(time), fused.layers(node["name"]) if fused else None)
            for node, time in zip(self.nodes, times_ms, strict=True)
        ]


def kernel_time(
    node: Mapping[str, Any], latency_ms: float, layers: Sequence[str] | None = None
) -> KernelTime:
    """A kernel as its runtime tells it, with its time.

    Args:
        node: its `name` and `op`, and where known `layers`, `input_shapes` and `output_shapes`.
        latency_ms: of it.
        layers: that it covers, where others than it tells.
    """
    return KernelTime(
        name=node["name"],
        layers=tuple(node.get("layers", ()) if layers is None else layers),
        op=node["op"],
        latency_ms=latency_ms,
        input_shapes=tuple(map(tuple, node.get("input_shapes", ()))),
        output_shapes=tuple(map(tuple, node.get("output_shapes", ()))),
    )


class Source(Protocol):
    """A network that its runtime profiles. Each method raises a `ProfilerError` of its own."""

    @property
    def fused(self) -> FusedLayers | None:
        """The layers of its nodes, where the nodes don't tell them."""

    def run(self, runs: int) -> None:
        """Run it that many times."""

    def read(self) -> NodeTimes:
        """All runs since it was made, or since it was last read where that can be done again."""


class LocalSource:
    """A `Source` on this machine.

    Args:
        runtime: its name, for messages.
        make: makes what is profiled, and the layers of its nodes where these don't tell them.

    Raises:
        ProfilerError: the runtime fails.
    """

    def __init__(self, runtime: str, make: Callable[[], tuple[Profiled, FusedLayers | None]]):
        self._runtime = runtime
        with self._errors():
            self._profiled, self.fused = make()

    def run(self, runs: int) -> None:
        """Run it that many times."""
        with self._errors():
            self._profiled.run(runs)

    def read(self) -> NodeTimes:
        """Its nodes and their times."""
        with self._errors():
            nodes, times = self._profiled.read()
            return NodeTimes(nodes, np.array(times, dtype=np.float64))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the runtime raises belongs to this network
            raise ProfilerError(
                f"{self._runtime} can't profile it: {type(error).__name__}: {error}"
            ) from error
