"""From constraints to classes: which atoms are one unit, and which may not be pruned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoprune.core.workload import Ints
from autoprune.graph.atoms import Atoms, Product

#: Reason of what is frozen only because the other factor of its product shrinks.
FACTOR = "reshapes or channel groups around it leave no part of it that could go alone"

_NO_REASON = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of atoms.

    Attributes:
        of: (atoms,) the class of each atom.
        reason: (classes,) index into `reasons` of why it is frozen; a large number where it is
            not.
        reasons: in words.
    """

    of: Ints
    reason: Ints
    reasons: tuple[str, ...]

    @property
    def frozen(self) -> npt.NDArray[np.bool_]:
        """(classes,) whether a class may not be pruned."""
        return np.not_equal(self.reason, _NO_REASON)


@dataclass(frozen=True, eq=False)
class _State:
    """A partition of the atoms, and the products that are not decided yet."""

    of: Ints
    reason: Ints
    open: tuple[Product, ...]

    @property
    def frozen(self) -> npt.NDArray[np.bool_]:
        return np.not_equal(self.reason, _NO_REASON)


def resolve(atoms: Atoms) -> Classes:
    """Solve the constraints; where a product leaves a choice, freeze as little as possible.

    A choice is made for one product at a time, in graph order, after all that follows from the
    choices before it: the factor that it prefers, unless the other one leaves more of the
    network's channels free. Where channels are lost that way (grouped convolutions with shuffles
    between them), always the inner and always the outer factor are tried too.
    """
    reason: Ints = np.full(atoms.count, _NO_REASON)
    for frozen, index in reversed(atoms.frozen):
        reason[frozen] = np.minimum(reason[frozen], index)
    factor = len(atoms.reasons)
    state = _State(np.arange(atoms.count), reason, tuple(atoms.products))
    state = _settle(_join(state, atoms.edges), factor)
    best = _decide(state, atoms, factor, None)
    lost = _lost(best, atoms)
    if lost > _lost(state, atoms):
        for side in ("inner", "outer"):
            other = _decide(state, atoms, factor, side)
            if (less := _lost(other, atoms)) < lost:
                best, lost = other, less
    return Classes(best.of, best.reason, (*atoms.reasons, FACTOR))


def _decide(state: _State, atoms: Atoms, factor: int, side: str | None) -> _State:
    """Decide every open product; `side` None asks each for its preference."""
    while state.open:
        product = state.open[0]
        first = side or product.prefer
        preferred = _choose(state, product, first, factor)
        lost = _lost(preferred, atoms)
        if lost > _lost(state, atoms):
            other = "inner" if first == "outer" else "outer"
            alternative = _choose(state, product, other, factor)
            if _lost(alternative, atoms) < lost:
                preferred = alternative
        state = preferred
    return state


def _join(state: _State, edges: list[tuple[Ints, Ints]]) -> _State:
    """Merge the classes that edges between atoms tie together."""
    if not edges:
        return state
    count = len(state.reason)
    a = state.of[np.concatenate([edge[0].ravel() for edge in edges])]
    b = state.of[np.concatenate([edge[1].ravel() for edge in edges])]
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    number, label = connected_components(graph, directed=False)
    reason: Ints = np.full(number, _NO_REASON)
    np.minimum.at(reason, label, state.reason)
    return replace(state, of=label.astype(np.int64)[state.of], reason=reason)


def _freeze(state: _State, atoms: Ints, index: int) -> _State:
    reason = state.reason.copy()
    classes = state.of[atoms]
    reason[classes] = np.minimum(reason[classes], index)
    return replace(state, reason=reason)


def _shrink(product: Product, side: str) -> list[tuple[Ints, Ints]]:
    """The edges that follow when one factor of a product shrinks and the other stays."""
    factor = product.outer[:, None] if side == "outer" else product.inner[None, :]
    a, b = np.broadcast_arrays(product.flat, factor)
    return [(a, b)]


def _choose(state: _State, product: Product, side: str, factor: int) -> _State:
    """What follows when `side` of an open product shrinks."""
    rest = tuple(p for p in state.open if p is not product)
    state = replace(state, open=rest)
    state = _freeze(state, product.inner if side == "outer" else product.outer, factor)
    return _settle(_join(state, _shrink(product, side)), factor)


def _settle(state: _State, factor: int) -> _State:
    """Decide the products that leave no choice, until none of those is left."""
    while True:
        edges: list[tuple[Ints, Ints]] = []
        left = []
        frozen = state.frozen
        for product in state.open:
            outer = frozen[state.of[product.outer]].all()
            if outer and frozen[state.of[product.inner]].all():
                index = int(state.reason[state.of[product.outer]].min())
                state = _freeze(state, product.flat.ravel(), index)
            elif outer:
                edges += _shrink(product, "inner")
            elif frozen[state.of[product.inner]].all():
                edges += _shrink(product, "outer")
            elif frozen[state.of[product.flat]].all():
                index = int(state.reason[state.of[product.flat]].min())
                state = _freeze(state, product.outer, index)
                state = _freeze(state, product.inner, index)
                frozen = state.frozen
            else:
                left.append(product)
        if len(left) == len(state.open):
            return state
        state = _join(replace(state, open=tuple(left)), edges)


def _lost(state: _State, atoms: Atoms) -> int:
    """How many channels of layers can't be pruned: frozen, or all tied into a single unit."""
    lost = 0
    frozen = state.frozen
    for producer in atoms.producers:
        classes = state.of[producer.atoms]
        live = classes[~frozen[classes]]
        single = len(live) and (live == live[0]).all()
        lost += len(classes) if single else len(classes) - len(live)
    return lost
