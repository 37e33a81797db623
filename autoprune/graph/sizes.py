"""The table of sizes: every distinct dimension as an affine function of the kept units."""

from __future__ import annotations

import numpy as np

from autoprune.core.workload import Ints, Shape
from autoprune.graph.groups import Units
from autoprune.graph.network import Labels


class Sizes:
    """Rows of a table of sizes, each distinct one once."""

    def __init__(self, units: Units) -> None:
        counts = [count for _, count in units.groups]
        self._group: Ints = np.repeat(np.arange(len(counts)), counts)
        self._count = len(counts)
        self._units: Ints = np.array(counts, dtype=np.int64)
        self._rows: dict[tuple[int, bytes], int] = {}
        self._base: list[int] = []
        self._weight: list[Ints] = []

    def row(self, size: int, label: Ints | None) -> int:
        """The row of a dimension of `size` indices, `label` their units or None."""
        if label is None:
            return self._find(size, np.zeros(self._count, dtype=np.int64))
        live = label[label >= 0]
        counts = np.bincount(self._group[live], minlength=self._count)
        return self._find(size - len(live), (counts // self._units).astype(np.int64))

    def shape(self, shape: tuple[int, ...], labels: Labels) -> Shape:
        """The rows of a tensor."""
        return tuple(self.row(n, label) for n, label in zip(shape, labels, strict=True))

    def table(self) -> tuple[Ints, Ints]:
        """(S,) constant parts and (S, G) weights."""
        base = np.array(self._base, dtype=np.int64)
        return base, np.array(self._weight, dtype=np.int64).reshape(len(base), self._count)

    def _find(self, base: int, weight: Ints) -> int:
        key = (base, weight.tobytes())
        if key not in self._rows:
            self._rows[key] = len(self._base)
            self._base.append(base)
            self._weight.append(weight)
        return self._rows[key]
