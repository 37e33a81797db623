"""A kernel's signature: what stays the same for all candidates of a network.

It decides, beside the channel counts, how long a kernel takes: the op, its kernel size and stride,
the spatial size, the batch, and the ops around it that a runtime may fuse with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.workload import Kernel, KernelGraph, Shape

#: Ops that do arithmetic on weights or contract a dimension: never fused into another op.
HEAVY = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "linear", "matmul", "bmm", "attention", "embedding", "lstm", "gru", "rnn",
)  # fmt: skip
_SETTINGS = ("kernel_size", "stride", "dilation", "padding")


@dataclass(frozen=True)
class KernelLayout:
    """One kernel of a network.

    Attributes:
        name: the graph node's name.
        layer: dotted path of its module.
        op: canonical name of its op.
        signature: op, settings, constant sizes and neighbours.
        family: op and settings only, for signatures that were never measured.
        base: (D,) constant part of each channel count.
        weight: (D,) what a kept unit of each group (by index) adds to it.
        macs: multiply-accumulates per product of the channel counts.
        elements: elements read and written per input and output channel.
    """

    name: str
    layer: str
    op: str
    signature: str
    family: str
    base: tuple[int, ...]
    weight: tuple[Mapping[int, int], ...]
    macs: float
    elements: tuple[float, float]


def describe(graph: KernelGraph) -> tuple[KernelLayout, ...]:
    """A traced network's kernels, in the order of execution."""
    return tuple(_Describer(graph).kernels())


class _Describer:
    """Reads signatures and channel counts off a graph."""

    def __init__(self, graph: KernelGraph) -> None:
        self._graph = graph
        self._base = graph.base.tolist()
        self._varies: list[bool] = [bool(row.any()) for row in graph.weight]
        self._by_name = {k.name: k for k in graph.kernels}
        self._readers: dict[str, list[Kernel]] = {}
        for kernel in graph.kernels:
            for name in kernel.reads:
                self._readers.setdefault(name, []).append(kernel)

    def kernels(self) -> list[KernelLayout]:
        return [self._describe(k) for k in self._graph.kernels]

    def _describe(self, kernel: Kernel) -> KernelLayout:
        first = kernel.inputs[0] if kernel.inputs else kernel.output
        reads, writes = self._channels(kernel, first), self._channels(kernel, kernel.output)
        rows = [*reads, *writes]
        extra = ""
        if kernel.groups is not None:
            if self._varies[kernel.groups] or kernel.groups in rows:
                extra = " depthwise" if kernel.groups in rows else " grouped"
                if extra == " grouped":
                    rows.append(kernel.groups)
            elif self._base[kernel.groups] != 1:
                extra = f" groups={self._base[kernel.groups]}"
        settings = "".join(
            f" {name}={_text(kernel.attrs[name])}" for name in _SETTINGS if name in kernel.attrs
        )
        family = kernel.op + settings + extra
        around = f" {self._text(first, reads)}->{self._text(kernel.output, writes)}"
        dense = [self._base[r] + int(self._graph.weight[r] @ self._graph.units) for r in rows]
        product = float(np.prod([max(d, 1) for d in dense])) or 1.0
        base, weight = tuple(self._base[r] for r in rows), tuple(self._row(r) for r in rows)
        if not rows:  # from a scalar to a scalar, such as the exponential of a temperature
            base, weight = (1,), ({},)
        return KernelLayout(
            kernel.name,
            kernel.layer,
            kernel.op,
            family + around + self._neighbours(kernel),
            family,
            base,
            weight,
            self._macs(kernel) / product,
            (self._constant(first, reads), self._constant(kernel.output, writes)),
        )

    def _channels(self, kernel: Kernel, shape: Shape) -> tuple[int, ...]:
        """The sizes of a tensor that count as its channels."""
        if kernel.op.startswith("conv") and len(shape) >= 3:
            return (shape[1],)
        if kernel.op == "linear" and shape:
            return (shape[-1],)
        varying = tuple(dict.fromkeys(s for s in shape if self._varies[s]))
        if varying:
            return varying
        if len(shape) >= 4:
            return (shape[1],)
        return shape[-1:]

    def _row(self, size: int) -> dict[int, int]:
        weight = self._graph.weight[size]
        return {int(g): int(weight[g]) for g in np.flatnonzero(weight)}

    def _constant(self, shape: Shape, channels: Sequence[int]) -> float:
        left = list(shape)
        for size in channels:
            if size in left:
                left.remove(size)
        return float(np.prod([self._base[s] for s in left if not self._varies[s]] or [1]))

    def _text(self, shape: Shape, channels: Sequence[int]) -> str:
        left = list(channels)
        parts = []
        for size in shape:
            if size in left:
                left.remove(size)
                parts.append("c")
            else:
                parts.append("v" if self._varies[size] else str(self._base[size]))
        return "x".join(parts)

    def _macs(self, kernel: Kernel) -> float:
        sizes = self._graph.base + self._graph.weight @ self._graph.units
        return float(
            sum(t.coefficient * np.prod(sizes[list(t.sizes)], dtype=float) for t in kernel.macs)
        )

    def _neighbours(self, kernel: Kernel) -> str:
        """What a runtime may fuse: the light ops that follow, and for a light op those before it.

        Back to a heavy op, or to where several tensors meet. A heavy op at the network's input is
        told apart: its input comes in another layout than any other's.
        """
        text = ""
        if kernel.op not in HEAVY:
            text += " after " + "<".join(self._before(kernel))
        elif not any(r in self._by_name for r in kernel.reads):
            text += " after input"
        chain: list[str] = []
        readers = self._readers.get(kernel.name, [])
        while len(readers) == 1 and readers[0].op not in HEAVY and len(chain) < 4:
            chain.append(readers[0].op)
            readers = self._readers.get(readers[0].name, [])
        return text + (" then " + ">".join(chain) if chain else "")

    def _before(self, kernel: Kernel) -> list[str]:
        """What a light op reads, and what that reads, ..., nearest first."""
        found: list[str] = []
        reads = kernel.reads
        while len(found) < 3:
            names = sorted(self._by_name[r].op if r in self._by_name else "input" for r in reads)
            found.append("+".join(names) or "input")
            if len(reads) != 1 or found[-1] in HEAVY or reads[0] not in self._by_name:
                break
            reads = self._by_name[reads[0]].reads
        return found


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        return "x".join(str(v) for v in value)
    return str(value)
