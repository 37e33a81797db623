"""Symbolic kernels: every size of a network as an affine function of the kept units.

A `KernelGraph` is made once, by tracing. Every dimension of every tensor in it is
`base + kept @ weight`, whichever units are kept, so the shapes of any number of candidates are
one matrix product, and what is counted from shapes (MACs, parameters, bytes) needs no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError

Ints = npt.NDArray[np.int64]

#: A tensor's shape: for each dimension its row in the table of sizes.
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """`coefficient × product of sizes`: one term of a sum such as a MAC count."""

    coefficient: float
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """One op of the traced graph.

    Attributes:
        name: the graph node's name, unique in the network ("conv2d_3").
        layer: dotted path of the module that ran it ("layer1.0.conv1"); "" is the root module.
        op: canonical name: conv1d, conv2d, conv3d, conv_transpose2d, linear, matmul, attention,
            batch_norm, layer_norm, group_norm, rms_norm, embedding, add, mul, relu, concat,
            pool, reduce, softmax, reshape, slice, pad, ... (the ATen name where none is usual).
        inputs: shapes of the tensor inputs, parameters left out.
        output: shape of the (first) output.
        params: dotted names of the parameters it reads.
        attrs: plain settings: kernel_size, stride, padding, dilation, ...
        groups: row in the table of sizes of a convolution's group count, or None.
        macs: multiply-accumulates of one forward pass, a sum of terms; () for none.
        reads: names of the kernels whose outputs it reads.
    """

    name: str
    layer: str
    op: str
    inputs: tuple[Shape, ...]
    output: Shape
    params: tuple[str, ...] = ()
    attrs: Mapping[str, int | float | str | tuple[int, ...]] = field(default_factory=dict)
    groups: int | None = None
    macs: tuple[Term, ...] = ()
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Buffer:
    """A tensor that takes memory: an activation, or a parameter.

    Attributes:
        name: graph node, or dotted parameter name.
        shape: rows in the table of sizes.
        itemsize: bytes an element.
        first: index of the kernel that makes it (activations; -1 for an input of the network).
        last: index of the last kernel that reads it, itself or through a view.
        trainable: whether it is an `nn.Parameter` (parameters and buffers of modules only).
    """

    name: str
    shape: Shape
    itemsize: int
    first: int = -1
    last: int = -1
    trainable: bool = False


@dataclass(frozen=True, eq=False)
class KernelGraph:
    """A network's kernels with symbolic shapes.

    Attributes:
        groups: names of the channel groups that may be pruned, G of them, in graph order.
        units: (G,) units of each group in the dense network.
        base: (S,) constant part of each size.
        weight: (S, G) what one kept unit of a group adds to each size.
        kernels: in the order of execution.
        activations: every tensor made while running, views left out.
        parameters: every distinct parameter and buffer.
        batch: samples in the example inputs; 1 where the batch dimension is not known.
        removable: names of the groups that may keep no unit at all.
    """

    groups: tuple[str, ...]
    units: Ints
    base: Ints
    weight: Ints
    kernels: tuple[Kernel, ...]
    activations: tuple[Buffer, ...] = ()
    parameters: tuple[Buffer, ...] = ()
    batch: int = 1
    removable: frozenset[str] = frozenset()

    @cached_property
    def dense(self) -> Candidate:
        """The candidate that keeps everything."""
        return Candidate.of(dict(zip(self.groups, self.units.tolist(), strict=True)))

    def kept(self, candidates: Sequence[Candidate]) -> Ints:
        """(N, G) kept units of candidates.

        Raises:
            CandidateError: a candidate names other groups, keeps more units than there are, or
                none of a group that can't be removed.
        """
        expected = set(self.groups)
        for candidate in candidates:
            if set(candidate) != expected:
                missing = sorted(expected - set(candidate))
                unknown = sorted(set(candidate) - expected)
                raise CandidateError(
                    "a candidate must name every group of its network; "
                    f"missing: {missing or 'none'}, unknown: {unknown or 'none'}"
                )
        kept = np.array(
            [[dict(c.kept)[g] for g in self.groups] for c in candidates], dtype=np.int64
        ).reshape(len(candidates), len(self.groups))
        over = np.argwhere(kept > self.units)
        if len(over):
            row, column = over[0]
            raise CandidateError(
                f"group {self.groups[column]!r} has {self.units[column]} units, "
                f"a candidate keeps {kept[row, column]}"
            )
        whole = [g not in self.removable for g in self.groups]
        gone = np.argwhere((kept < 1) & np.array(whole, dtype=bool))
        if len(gone):
            raise CandidateError(
                f"group {self.groups[gone[0][1]]!r} must keep at least one unit, a candidate keeps "
                f"none; groups that can be removed whole: {', '.join(self.removable) or 'none'}"
            )
        return kept

    def workloads(self, candidates: Sequence[Candidate]) -> Workloads:
        """The shapes of candidates."""
        return self.instantiate(self.kept(candidates))

    def instantiate(self, kept: npt.ArrayLike) -> Workloads:
        """The shapes of (N, G) kept units, unchecked (for loops over many candidates)."""
        rows: Ints = np.asarray(kept, dtype=np.int64)
        sizes: Ints = self.base + rows @ self.weight.T
        return Workloads(self, rows, sizes)


@dataclass(frozen=True, eq=False)
class Workloads:
    """The kernels of N candidates, shapes filled in.

    Attributes:
        graph: the symbolic kernels.
        kept: (N, G) kept units.
        sizes: (N, S) every size of every candidate; `Kernel.output` and the rest index columns.
    """

    graph: KernelGraph
    kept: Ints
    sizes: Ints

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int | slice | Ints) -> Workloads:
        rows = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Workloads(self.graph, self.kept[rows], self.sizes[rows])

    def __iter__(self) -> Iterator[Workloads]:
        return (self[i] for i in range(len(self)))

    def candidates(self) -> list[Candidate]:
        """The candidates these are the workloads of."""
        return [
            Candidate.of(dict(zip(self.graph.groups, row, strict=True)))
            for row in self.kept.tolist()
        ]

    def shape(self, shape: Shape) -> Ints:
        """(N, len(shape)) a tensor's dimensions."""
        return self.sizes[:, list(shape)]
