"""MACs, parameters and memory, counted exactly from symbolic shapes.

Every count is a sum of terms `coefficient × product of sizes`. Sizes that no group changes are
folded into the coefficients once for each graph, and equal products are counted once: what is
left for N candidates is one small matrix product.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Costs, Floats
from autoprune.core.workload import Buffer, KernelGraph, Workloads
from autoprune.cost.base import CostModel


class AnalyticCost(CostModel):
    """MACs per sample, trainable parameters, and bytes of one forward pass of the example inputs.

    `macs` are multiply-accumulates per sample (FLOPs = 2 × MACs). `params` counts trainable
    parameters, `weight_bytes` parameters and buffers. `activation_bytes` is the largest sum of
    tensors alive at once when the kernels run in the graph's order and each tensor is freed after
    its last use. `memory_bytes` is the sum of both.
    """

    def __init__(self) -> None:
        self._counters: weakref.WeakKeyDictionary[KernelGraph, _Counter] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics it counts."""
        return ("macs", "params", "weight_bytes", "activation_bytes", "memory_bytes")

    def predict(self, workloads: Workloads) -> Costs:
        """Count N candidates; exact, so that every standard deviation is 0."""
        counter = self._counters.get(workloads.graph)
        if counter is None:
            counter = self._counters[workloads.graph] = _Counter.of(workloads.graph)
        return Costs.exact(counter.count(workloads))


@dataclass(frozen=True, eq=False)
class _Counter:
    """What a graph's counts are made of.

    Attributes:
        factors: (M, D) columns of the sizes that each distinct product multiplies; S stands for 1.
        totals: (M, 3) coefficients of macs, params and weight_bytes.
        live: (M, T) coefficients of the bytes alive at each step that may be the peak.
    """

    factors: npt.NDArray[np.intp]
    totals: Floats
    live: Floats

    @classmethod
    def of(cls, graph: KernelGraph) -> _Counter:
        products = _Products(graph)
        columns = [
            products.column((t.coefficient, t.sizes) for k in graph.kernels for t in k.macs),
            products.column((1.0, b.shape) for b in graph.parameters if b.trainable),
            products.column((float(b.itemsize), b.shape) for b in graph.parameters),
        ]
        steps = _peaks(graph.activations)
        live = [
            products.column((float(b.itemsize), b.shape) for b in graph.activations if _alive(b, t))
            for t in steps
        ]
        return cls(
            products.factors(len(graph.base)),
            products.dense(columns),
            products.dense(live),
        )

    def count(self, workloads: Workloads) -> dict[str, Floats]:
        sizes = np.ones((len(workloads), workloads.sizes.shape[1] + 1))
        sizes[:, :-1] = workloads.sizes
        values = np.ones((len(workloads), len(self.factors)))
        for column in self.factors.T:
            values *= sizes[:, column]
        macs, params, weight_bytes = (values @ self.totals).T
        alive = values @ self.live
        activations = alive.max(axis=1) if alive.shape[1] else np.zeros(len(workloads))
        return {
            "macs": macs / workloads.graph.batch,
            "params": params,
            "weight_bytes": weight_bytes,
            "activation_bytes": activations,
            "memory_bytes": weight_bytes + activations,
        }


class _Products:
    """The distinct products of sizes of a graph, constants folded away."""

    def __init__(self, graph: KernelGraph) -> None:
        self._base = graph.base.tolist()
        self._varies: list[bool] = [bool(row.any()) for row in graph.weight]
        self._index: dict[tuple[int, ...], int] = {}

    def column(self, terms: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
        """Coefficients by product of a sum of (coefficient, sizes)."""
        result: dict[int, float] = {}
        for coefficient, shape in terms:
            varying = []
            for size in shape:
                if self._varies[size]:
                    varying.append(size)
                else:
                    coefficient *= self._base[size]
            key = tuple(sorted(varying))
            index = self._index.setdefault(key, len(self._index))
            result[index] = result.get(index, 0.0) + coefficient
        return result

    def factors(self, one: int) -> npt.NDArray[np.intp]:
        """(M, D) the sizes of each product, filled up with `one`."""
        width = max((len(key) for key in self._index), default=0)
        rows = [[*key, *[one] * (width - len(key))] for key in self._index]
        return np.array(rows, dtype=np.intp).reshape(len(rows), width)

    def dense(self, columns: Sequence[dict[int, float]]) -> Floats:
        """(M, len(columns)) matrix of coefficients."""
        matrix = np.zeros((len(self._index), len(columns)))
        for j, column in enumerate(columns):
            for i, value in column.items():
                matrix[i, j] = value
        return matrix


def _alive(buffer: Buffer, step: int) -> bool:
    return buffer.first <= step <= max(buffer.first, buffer.last)


def _peaks(buffers: Sequence[Buffer]) -> list[int]:
    """Steps at which the sum of live buffers may be largest: those no other step contains.

    Between two steps at which nothing new is made, buffers are only freed, so that only steps
    that make one count; and of those with the same live buffers, one.
    """
    steps = sorted({b.first for b in buffers})
    alive = np.array([[_alive(b, t) for b in buffers] for t in steps], dtype=np.float64)
    alive = alive.reshape(len(steps), len(buffers))
    shared = alive @ alive.T
    own = alive.sum(axis=1)
    keep = []
    for i, step in enumerate(steps):
        inside = shared[i] == own[i]
        inside[i] = False
        # Of equal sets the first is kept.
        strict = own > own[i]
        earlier = (own == own[i]) & (np.arange(len(steps)) < i)
        if not (inside & (strict | earlier)).any():
            keep.append(step)
    return keep
