"""What a latency table knows of a network: its kernels by signature, and their channel counts.

A *signature* is everything that stays the same for all candidates of a network and decides how
long a kernel takes: the op, its kernel size and stride, the spatial size, the batch, and the ops
around it that a runtime may fuse with it. What is left are the channel counts, `x`. Kernels of one
signature are pooled, within a network and between networks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints, Kernel, KernelGraph, Shape
from autoprune.cost.context import FLAGS, makers, ragged
from autoprune.cost.emptied import followers, spread

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


@dataclass(frozen=True, eq=False)
class Layout:
    """A network's kernels as a table keeps them; enough to predict without the network.

    Attributes:
        groups: names of its channel groups.
        units: (G,) units of each.
        kernels: in the order of execution.
    """

    groups: tuple[str, ...]
    units: Ints
    kernels: tuple[KernelLayout, ...]

    @cached_property
    def fingerprint(self) -> str:
        """A short name of the network's structure, the same in every process (hexadecimal).

        Of its groups, and of each kernel's op, channels and work; not of how kernels are named or
        described, so that a table outlives changes there.
        """
        kernels = [
            [k.op, k.base, [sorted(row.items()) for row in k.weight], k.macs] for k in self.kernels
        ]
        text = json.dumps([self.groups, self.units.tolist(), kernels])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def by_signature(self) -> dict[str, npt.NDArray[np.intp]]:
        """Signature → indices of its kernels."""
        result: dict[str, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            result.setdefault(kernel.signature, []).append(index)
        return {s: np.array(i, dtype=np.intp) for s, i in result.items()}

    def touching(self, group: int) -> Layout:
        """The kernels alone whose channel counts a group (by index) changes."""
        return Layout(
            self.groups,
            self.units,
            tuple(k for k in self.kernels if any(group in row for row in k.weight)),
        )

    def channels(self, indices: Sequence[int] | npt.NDArray[np.intp], kept: Ints) -> Ints:
        """(N, len(indices), D) channel counts of kernels of one signature.

        Args:
            indices: of kernels with the same number D of channel counts.
            kept: (N, G) kept units.
        """
        base, weight = self._affine(tuple(int(i) for i in indices))
        flat = base.ravel() + kept @ weight.reshape(-1, len(self.groups)).T
        return flat.reshape(len(kept), *base.shape)

    def shapes(self, indices: npt.NDArray[np.intp], kept: Ints) -> Ints:
        """(N, len(indices), D + FLAGS) as `channels`, and flags of what surrounds the kernels."""
        x = self.channels(indices, kept)
        flags = np.zeros((*x.shape[:2], FLAGS), dtype=x.dtype)
        for flag, of in enumerate(self._makers[indices].T):
            known = np.flatnonzero(of >= 0)
            if len(known):
                base, weight = self._inputs
                read = base[of[known]] + kept @ weight[of[known]].T
                flags[:, known, flag] = ragged(read)
        return np.concatenate([x, flags], axis=2)

    def emptied(self, kept: Ints) -> npt.NDArray[np.bool_]:
        """(N, K) kernels without channels, and those that would have been fused into one.

        Args:
            kept: (N, G) kept units.
        """
        own = np.zeros((len(kept), len(self.kernels)), dtype=bool)
        gone = np.flatnonzero((kept == 0).any(axis=0))
        if not len(gone):
            return own
        for index, kernel in enumerate(self.kernels):
            if any(group in row for row in kernel.weight for group in gone):
                own[:, index] = (self.channels([index], kept)[:, 0] == 0).any(axis=1)
        return spread(own, self._chains)

    @cached_property
    def _chains(self) -> list[tuple[int, tuple[int, ...]]]:
        return followers(self.kernels, HEAVY)

    @cached_property
    def _makers(self) -> npt.NDArray[np.intp]:
        return makers(self.kernels, HEAVY)

    @cached_property
    def _inputs(self) -> tuple[Ints, Ints]:
        """Of the channels that each kernel reads: (K,) base and (K, G) weight."""
        base = np.array([k.base[0] if k.base else 0 for k in self.kernels], dtype=np.int64)
        weight = np.zeros((len(base), len(self.groups)), dtype=np.int64)
        for index, kernel in enumerate(self.kernels):
            for group, value in kernel.weight[0].items() if kernel.weight else ():
                weight[index, group] = value
        return base, weight

    def _affine(self, indices: tuple[int, ...]) -> tuple[Ints, Ints]:
        cache = self._cache
        if indices not in cache:
            kernels = [self.kernels[i] for i in indices]
            base = np.array([k.base for k in kernels], dtype=np.int64)
            weight = np.zeros((*base.shape, len(self.groups)), dtype=np.int64)
            for i, kernel in enumerate(kernels):
                for d, row in enumerate(kernel.weight):
                    for group, value in row.items():
                        weight[i, d, group] = value
            cache[indices] = base, weight
        return cache[indices]

    @cached_property
    def _cache(self) -> dict[tuple[int, ...], tuple[Ints, Ints]]:
        return {}

    @classmethod
    def of(cls, graph: KernelGraph) -> Layout:
        """Describe a traced network's kernels."""
        return cls(graph.groups, graph.units, tuple(_Describer(graph).kernels()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sparse weights by the group's index."""
        return {
            "groups": list(self.groups),
            "units": self.units.tolist(),
            "kernels": [
                {
                    "name": k.name,
                    "layer": k.layer,
                    "op": k.op,
                    "signature": k.signature,
                    "family": k.family,
                    "base": list(k.base),
                    "weight": [{str(g): w for g, w in row.items()} for row in k.weight],
                    "macs": k.macs,
                    "elements": list(k.elements),
                }
                for k in self.kernels
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        """The inverse of `to_dict`."""
        return cls(
            tuple(str(g) for g in data["groups"]),
            np.array(data["units"], dtype=np.int64),
            tuple(
                KernelLayout(
                    str(k["name"]),
                    str(k["layer"]),
                    str(k["op"]),
                    str(k["signature"]),
                    str(k["family"]),
                    tuple(int(b) for b in k["base"]),
                    tuple({int(g): int(w) for g, w in row.items()} for row in k["weight"]),
                    float(k["macs"]),
                    (float(k["elements"][0]), float(k["elements"][1])),
                )
                for k in data["kernels"]
            ),
        )


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
        return KernelLayout(
            kernel.name,
            kernel.layer,
            kernel.op,
            family + around + self._neighbours(kernel),
            family,
            tuple(self._base[r] for r in rows),
            tuple(self._row(r) for r in rows),
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


def work(kernels: Sequence[KernelLayout], x: Ints, blocks: tuple[int, int] = (1, 1)) -> Floats:
    """(N, K, 3) multiply-accumulates, elements read, elements written, of blocked channels.

    Args:
        kernels: K of them, of one signature.
        x: (N, K, D) channel counts.
        blocks: the first count, and all others, are rounded up to multiples of these.
    """
    block = np.full(x.shape[2], blocks[1], dtype=np.int64)
    block[0] = blocks[0]
    blocked = (-(-x // block) * block).astype(np.float64)
    macs = np.array([k.macs for k in kernels]) * blocked.prod(axis=2)
    read = np.array([k.elements[0] for k in kernels]) * blocked[:, :, 0]
    written = np.array([k.elements[1] for k in kernels]) * blocked[:, :, -1]
    result: Floats = np.stack([macs, read, written], axis=2)
    return result
