"""From classes of atoms to units, and from units to channel groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.core.workload import Ints
from autoprune.graph.atoms import Atoms
from autoprune.graph.names import unique
from autoprune.graph.network import ChannelGroup, Labels, Member
from autoprune.graph.propagate import Propagation
from autoprune.graph.resolve import Classes

#: Why the channels of a group of one unit are not pruned.
SINGLE = "all its channels are tied into a single unit"


@dataclass(frozen=True, eq=False)
class Units:
    """Global units: those of the first group, then those of the second, ...

    Attributes:
        of: (atoms,) the unit of each atom, -1 for what is always kept.
        groups: (name, number of units) of each group.
        frozen: layer → why some or all of its channels may not be pruned.
    """

    of: Ints
    groups: tuple[tuple[str, int], ...]
    frozen: dict[str, str]

    def labels(self, labels: Labels) -> Labels:
        """Units of a tensor's atoms; a dimension that is wholly kept is None."""
        result: list[Ints | None] = []
        for label in labels:
            units = None if label is None else self.of[label]
            result.append(None if units is None or (units < 0).all() else units)
        return tuple(result)


def gather(found: Propagation, classes: Classes) -> Units:
    """Gather units that have the same multiplicity everywhere into groups.

    The units of a group then are interchangeable: every size, and every bound of a slice, depends
    on how many of them are kept and not on which.
    """
    atoms = found.atoms
    count = len(classes.reason)
    first = np.full(count, np.iinfo(np.int64).max)
    owner = np.full(count, -1)
    place = 0
    for number, producer in enumerate(atoms.producers):
        of = classes.of[producer.atoms]
        new = owner[of] < 0
        np.minimum.at(first, of, np.arange(place, place + len(of)))
        owner[of[new]] = number
        place += len(of)
    live = ~classes.frozen & (owner >= 0)
    signature = _signatures(found, classes, count)
    order = np.flatnonzero(live)
    order = order[np.argsort(first[order], kind="stable")]
    members: dict[tuple[int, int], list[int]] = {}
    for unit in order.tolist():
        members.setdefault((int(owner[unit]), int(signature[unit])), []).append(unit)
    merged: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for (number, key), units in members.items():
        merged.setdefault(key, []).extend(units)
        names.setdefault(key, atoms.producers[number].layer)
    of_class = np.full(count, -1, dtype=np.int64)
    groups: list[tuple[str, int]] = []
    single = np.zeros(count, dtype=bool)
    taken: set[str] = set()
    start = 0
    for key, units in merged.items():
        if len(units) < 2:
            single[units] = True
            continue
        groups.append((unique(names[key], taken), len(units)))
        of_class[units] = np.arange(start, start + len(units))
        start += len(units)
    frozen = _frozen(atoms, classes, single)
    return Units(of_class[classes.of], tuple(groups), frozen)


def _signatures(found: Propagation, classes: Classes, count: int) -> Ints:
    """A hash of each class's multiplicity in every dimension and in what precedes every cut."""
    random = np.random.default_rng(0)
    result = np.zeros(count, dtype=np.int64)
    seen: set[bytes] = set()
    for label in _dimensions(found):
        of = classes.of[label]
        key = of.tobytes()
        if key in seen:
            continue
        seen.add(key)
        factor = random.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, dtype=np.int64)
        present, counts = np.unique(of, return_counts=True)
        with np.errstate(over="ignore"):
            result[present] += counts * factor
    return result


def _dimensions(found: Propagation) -> Iterator[Ints]:
    for value in found.values.values():
        for tensor in value if isinstance(value, list) else [value]:
            yield from tensor.live()
    yield from found.cuts
    yield from found.groups.values()


def _frozen(atoms: Atoms, classes: Classes, single: np.ndarray) -> dict[str, str]:
    frozen: dict[str, str] = {}
    for producer in atoms.producers:
        of = classes.of[producer.atoms]
        fixed = classes.frozen[of]
        alone = single[of]
        stuck = int((fixed | alone).sum())
        if not stuck or producer.layer in frozen:
            continue
        reason = SINGLE
        if fixed.any():
            reason = classes.reasons[int(classes.reason[of].min())]
        if stuck < len(of):
            reason = reason if fixed.any() else "each of them is a unit of its own kind"
            reason = f"{stuck} of {len(of)} channels: {reason}"
        frozen[producer.layer] = reason
    return frozen


def channel_groups(
    units: Units, parameters: dict[str, Labels], raw: dict[str, Labels], consumed: Iterable[Ints]
) -> tuple[ChannelGroup, ...]:
    """The groups with the parameter dimensions that each runs through.

    Args:
        units: of the graph.
        parameters: tensor name → labels in units.
        raw: tensor name → labels in atoms.
        consumed: atoms of weight dimensions that are summed over.
    """
    inputs = {int(label[0]) for label in consumed if len(label)}
    ends = np.cumsum([0, *(count for _, count in units.groups)])
    members: list[list[Member]] = [[] for _ in units.groups]
    for name, labels in parameters.items():
        for dim, label in enumerate(labels):
            if label is None:
                continue
            atoms = raw[name][dim]
            role = "in" if atoms is not None and int(atoms[0]) in inputs else "out"
            order = np.argsort(label, kind="stable")
            bounds = np.searchsorted(label[order], ends)
            for group in np.flatnonzero(np.diff(bounds)).tolist():
                indices = order[bounds[group] : bounds[group + 1]]
                indices = indices.reshape(units.groups[group][1], -1)
                members[group].append(Member(name, dim, indices, role))
    return tuple(
        ChannelGroup(name, count, tuple(members[i])) for i, (name, count) in enumerate(units.groups)
    )
