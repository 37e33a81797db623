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
from autoprune.core.workload import Ints, KernelGraph
from autoprune.cost.context import BLOCK, makers, ragged
from autoprune.cost.emptied import followers, spread
from autoprune.cost.signatures import HEAVY, KernelLayout, describe


@dataclass(frozen=True, eq=False)
class Shapes:
    """Of every kernel of N candidates.

    Attributes:
        of: signature → (N, K, D + FLAGS) channel counts of its kernels, and flags of what
            surrounds them.
        ragged: (N, all kernels) whether each reads a number of channels that its runtime does not
            work on in blocks (see `context`).
    """

    of: Mapping[str, Ints]
    ragged: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Layout:
    """A network's kernels as a table keeps them; enough to predict without the network.

    Attributes:
        groups: names of its channel groups.
        units: (G,) units of each.
        kernels: in the order of execution.
        block: channels in a block of the runtime that the table is of (see `context`).
    """

    groups: tuple[str, ...]
    units: Ints
    kernels: tuple[KernelLayout, ...]
    block: int = BLOCK

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
            self.block,
        )

    def channels(self, indices: Sequence[int] | npt.NDArray[np.intp], kept: Ints) -> Ints:
        """(N, len(indices), D) channel counts of kernels of one signature.

        Args:
            indices: of kernels with the same number D of channel counts.
            kept: (N, G) kept units.
        """
        rows = self._places(indices)[0]
        base, weight, _ = self._rows
        flat = base[rows.ravel()] + kept @ weight[rows.ravel()].T
        return np.asarray(flat.reshape(len(kept), *rows.shape))

    def shapes(self, kept: Ints) -> Shapes:
        """Of every kernel of (N, G) candidates."""
        counts = self._counts(kept)
        # One more row, for what is no count.
        uneven = np.zeros((len(kept), counts.shape[1] + 1), dtype=bool)
        uneven[:, :-1] = ragged(counts, self.block)
        return Shapes(
            {
                signature: np.concatenate([counts[:, rows], uneven[:, flags]], axis=2)
                for signature, (rows, flags) in self._by_signature.items()
            },
            uneven[:, self._starts],
        )

    def _counts(self, kept: Ints) -> Ints:
        """(N, R) every channel count."""
        base, weight, _ = self._rows
        return np.asarray(base + kept @ weight.T)

    def _places(self, indices: Sequence[int] | npt.NDArray[np.intp]) -> tuple[Ints, Ints]:
        """Where among the rows the (K, D) counts of kernels stand, and what (K, FLAGS) flags tell.

        The number of all rows where it is none.
        """
        counts = [range(len(self.kernels[i].base)) for i in indices]
        rows = [[self._starts[i] + d for d in row] for i, row in zip(indices, counts, strict=True)]
        of = self._makers[np.asarray(indices, dtype=np.intp)]
        none = len(self._rows[0])
        where = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
        return where, np.where(of >= 0, self._starts[of], none)

    @cached_property
    def _by_signature(self) -> dict[str, tuple[Ints, Ints]]:
        return {signature: self._places(i) for signature, i in self.by_signature.items()}

    @cached_property
    def _starts(self) -> Ints:
        """(K,) number of each kernel's first row, of what it reads; that of all rows for none."""
        lengths = [len(kernel.base) for kernel in self.kernels]
        starts = np.cumsum([0, *lengths[:-1]])
        return np.where(np.array(lengths) > 0, starts, sum(lengths)).astype(np.int64)

    def written(self, kept: Ints) -> Floats:
        """(N,) elements that all kernels write, of (N, G) kept units."""
        constant, each = self._written
        return np.asarray(constant + kept @ each)

    @cached_property
    def _written(self) -> tuple[float, Floats]:
        writing = [k for k in self.kernels if k.base]
        elements = np.array([k.elements[1] for k in writing])
        base = np.array([k.base[-1] for k in writing])
        weight = self._weights([k.weight[-1] for k in writing])
        return float(elements @ base), np.asarray(elements @ weight, dtype=np.float64)

    def emptied(self, kept: Ints) -> npt.NDArray[np.bool_]:
        """(N, K) kernels without channels, and those that would have been fused into one.

        Args:
            kept: (N, G) kept units.
        """
        own = np.zeros((len(kept), len(self.kernels)), dtype=bool)
        if not (kept == 0).any():
            return own
        of = self._rows[2]
        empty = self._counts(kept) == 0
        for row in np.flatnonzero(empty.any(axis=0)):
            own[:, of[row]] |= empty[:, row]
        return spread(own, self._chains)

    @cached_property
    def _chains(self) -> list[tuple[int, tuple[int, ...]]]:
        return followers(self.kernels, HEAVY)

    @cached_property
    def _makers(self) -> npt.NDArray[np.intp]:
        return makers(self.kernels, HEAVY)

    @cached_property
    def _rows(self) -> tuple[Ints, Ints, list[int]]:
        """Of every channel count: (R,) base, (R, G) weight, and its kernel's index."""
        base = np.array([b for k in self.kernels for b in k.base], dtype=np.int64)
        weight = self._weights([row for k in self.kernels for row in k.weight])
        return base, weight, [i for i, k in enumerate(self.kernels) for _ in k.base]

    def _weights(self, rows: Sequence[Mapping[int, int]]) -> Ints:
        """(R, G) of sparse rows: what a kept unit of each group adds to R channel counts."""
        weight = np.zeros((len(rows), len(self.groups)), dtype=np.int64)
        for at, row in enumerate(rows):
            for group, value in row.items():
                weight[at, group] = value
        return weight

    @classmethod
    def of(cls, graph: KernelGraph, block: int = BLOCK) -> Layout:
        """Describe a traced network's kernels."""
        return cls(graph.groups, graph.units, describe(graph), block)

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
    def from_dict(cls, data: Mapping[str, Any], block: int = BLOCK) -> Layout:
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
            block,
        )


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
