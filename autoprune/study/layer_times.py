"""Each layer's time in a network, from the runtime's times of its kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.device import KernelTime
from autoprune.profile.onnx_work import LayerWork


@dataclass(frozen=True)
class LayerTime:
    """What a layer took, with the light ops that follow it.

    Attributes:
        latency_ms: of its kernels together.
        ops: the runtime's ops, in the order of execution; what was fused is one of them.
    """

    latency_ms: float
    ops: tuple[str, ...]


def by_layer(kernels: Sequence[KernelTime], work: Mapping[str, LayerWork]) -> dict[str, LayerTime]:
    """Charge every kernel to a layer that multiplies.

    A kernel belongs to the first such layer that it covers; one that covers none (an activation
    that was not fused, a pooling) to the layer before it, those before the first layer to the
    first.

    Args:
        kernels: in the order of execution.
        work: of the network's layers, by name.
    """
    times: dict[str, float] = {}
    ops: dict[str, list[str]] = {}
    waiting: list[KernelTime] = []
    last: str | None = None
    for kernel in kernels:
        own = next((name for name in (*kernel.layers, kernel.name) if name in work), None)
        if own is None and last is None:
            waiting.append(kernel)
            continue
        last = own if own is not None else last
        for one in (*waiting, kernel):
            times[str(last)] = times.get(str(last), 0.0) + one.latency_ms
            ops.setdefault(str(last), []).append(one.op)
        waiting = []
    return {name: LayerTime(time, tuple(ops[name])) for name, time in times.items()}


@dataclass(frozen=True)
class Rates:
    """The best that the device did in these networks: what bounds a layer from below.

    Attributes:
        macs_per_ms: the greatest rate of any layer.
        bytes_per_ms: the greatest rate at which any kernel read and wrote.
        launch_ms: the shortest time of any kernel that multiplies, or less: see `of`.
    """

    macs_per_ms: float
    bytes_per_ms: float
    launch_ms: float

    @classmethod
    def of(
        cls,
        layers: Sequence[tuple[LayerTime, LayerWork]],
        kernels: Sequence[KernelTime],
    ) -> Rates:
        """Rates of layers and kernels that were measured together.

        The launch time is that of the quickest kernel (a twentieth of them may be quicker).
        """
        times = sorted(k.latency_ms for k in kernels if k.latency_ms > 0)
        launch = times[len(times) // 20] if times else 0.0
        # Rates of kernels as short as a launch are mostly the launch.
        long = [(t, w) for t, w in layers if t.latency_ms > 3 * launch] or list(layers)
        macs = max((w.macs / t.latency_ms for t, w in long if t.latency_ms > 0), default=0.0)
        moved = [w.size_bytes / t.latency_ms for t, w in long if t.latency_ms > 0]
        moved += [_bytes(k) / k.latency_ms for k in kernels if k.latency_ms > 3 * launch]
        return cls(macs, max(moved, default=0.0), launch)

    def bound(self, work: LayerWork) -> str:
        """What a layer's time is bounded by: "compute", "memory" or "launch".

        A roofline (Williams et al. 2009) with a floor: of the times that its arithmetic, its bytes
        and a launch need at best, the longest.
        """
        needs = {
            "compute": work.macs / self.macs_per_ms if self.macs_per_ms else 0.0,
            "memory": work.size_bytes / self.bytes_per_ms if self.bytes_per_ms else 0.0,
            "launch": self.launch_ms,
        }
        return max(needs, key=lambda name: needs[name])


def _bytes(kernel: KernelTime) -> float:
    """Of the tensors a kernel reads and writes."""
    shapes = (*kernel.input_shapes, *kernel.output_shapes)
    return 4.0 * sum(math.prod(shape) for shape in shapes)
