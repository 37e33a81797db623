"""Atoms: one for each index of each prunable tensor dimension, and what ties them together.

A rule says three things of atoms: these two live and die together (`unify`), these may not be
pruned (`freeze`), and this dimension is the product of two others (`split`, `merge`). Which factor
of a product may shrink is not decided while walking the graph, but at the end, when it is known
what became of the factors (see `autoprune.graph.resolve`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.workload import Ints


@dataclass(frozen=True, eq=False)
class Product:
    """A dimension of size O * I whose index (o, i) is kept while o and i both are.

    Only one of the factors may shrink, or the result would not be a rectangle that the
    network's own arithmetic knows of.

    Attributes:
        outer: (O,) atoms of the slow factor.
        inner: (I,) atoms of the fast factor.
        flat: (O, I) atoms of the dimension itself.
        prefer: "outer" or "inner": which one shrinks where both could.
    """

    outer: Ints
    inner: Ints
    flat: Ints
    prefer: str


@dataclass(frozen=True, eq=False)
class Producer:
    """A dimension of a layer that makes channels.

    Attributes:
        layer: dotted path of the layer.
        atoms: (channels,) its atoms, in order.
    """

    layer: str
    atoms: Ints


class Atoms:
    """The atoms of one graph and the constraints between them."""

    def __init__(self) -> None:
        self.count = 0
        self.edges: list[tuple[Ints, Ints]] = []
        self.frozen: list[tuple[Ints, int]] = []
        self.reasons: list[str] = []
        self.products: list[Product] = []
        self.producers: list[Producer] = []
        self.consumed: list[Ints] = []

    def fresh(self, count: int) -> Ints:
        """New atoms that nothing is known of."""
        atoms = np.arange(self.count, self.count + count, dtype=np.int64)
        self.count += count
        return atoms

    def unify(self, a: Ints, b: Ints) -> None:
        """Say that a[i] and b[i] are pruned together, for each i (shapes broadcast)."""
        a, b = np.broadcast_arrays(a, b)
        differ = a != b
        if differ.any():
            self.edges.append((a[differ], b[differ]))

    def freeze(self, atoms: Ints, reason: str) -> None:
        """Say that atoms may not be pruned."""
        if not self.reasons or self.reasons[-1] != reason:
            self.reasons.append(reason)
        self.frozen.append((atoms.ravel(), len(self.reasons) - 1))

    def produce(self, layer: str, atoms: Ints) -> None:
        """Say that a layer makes the channels of these atoms."""
        self.producers.append(Producer(layer, atoms))

    def consume(self, atoms: Ints) -> None:
        """Say that these are atoms of a dimension of a weight that is summed over."""
        self.consumed.append(atoms)

    def split(
        self, flat: Ints, outer: int, prefer: str = "inner"
    ) -> tuple[Ints | None, Ints | None]:
        """Split a dimension into two: its `outer` slow indices and the rest.

        Returns:
            The atoms of the outer and of the inner dimension; None where that one can't be pruned:
            it is of size 1, or only the other one tells the atoms apart.
        """
        grid = flat.reshape(outer, -1)
        if grid.shape[1] == 1 or (grid == grid[:, :1]).all():
            return grid[:, 0], None
        if outer == 1 or (grid == grid[:1]).all():
            return None, grid[0]
        factors = self.fresh(outer), self.fresh(grid.shape[1])
        self.products.append(Product(*factors, grid, prefer))
        return factors

    def merge(self, outer: Ints, inner: Ints, prefer: str = "inner") -> Ints:
        """Merge two dimensions into one, the inverse of `split`."""
        flat = self.fresh(len(outer) * len(inner))
        shape = (len(outer), len(inner))
        self.products.append(Product(outer, inner, flat.reshape(shape), prefer))
        return flat
