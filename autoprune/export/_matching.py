"""Which expression of a selection a constant of an ONNX graph is, found from examples.

A constant that differs between the dense network and pruned ones is a count of kept indices: of a
whole dimension, of a part of it (where a pad, slice or split ends), or a size of the symbolic
kernels. The labels that tracing gave every dimension are all there is to count in, so every
expression over them is tried, and the one that gives the constant for each pruned network is it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels, Network, Selection

Keep = npt.NDArray[np.bool_]

#: Types of weights that numpy has too.
_NUMPY = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class State:
    """A selection as expressions read it.

    Attributes:
        keep: (units + 1,) `Network.keep`.
        sizes: (S,) every size of the symbolic kernels.
    """

    keep: Keep
    sizes: Ints

    @classmethod
    def of(cls, network: Network, selection: Selection) -> State:
        """Evaluate a selection.

        Raises:
            CandidateError: it does not fit the network.
        """
        keep = network.keep(selection)
        kept = [[int(np.sum(selection[name])) for name in network.kernels.groups]]
        return cls(keep, network.kernels.instantiate(kept).sizes[0])


@dataclass(frozen=True, eq=False)
class Count:
    """`sign × multiple ×` how many of some labels are kept."""

    labels: Ints
    multiple: int = 1
    sign: int = 1

    def __call__(self, state: State) -> int:
        return self.sign * self.multiple * int(np.count_nonzero(state.keep[self.labels]))


@dataclass(frozen=True)
class Size:
    """`multiple ×` a size of the symbolic kernels."""

    row: int
    multiple: int = 1

    def __call__(self, state: State) -> int:
        return self.multiple * int(state.sizes[self.row])


Expression = Count | Size


class Book:
    """Every label array of a network, by length, and every size of its kernels."""

    def __init__(self, network: Network) -> None:
        self.network = network
        found: dict[bytes, Ints] = {}
        for labels in [*network.parameters.values(), *_flat(network.labels.values())]:
            for label in labels:
                if label is not None and np.any(label >= 0):
                    array = np.asarray(label, dtype=np.int64)
                    found.setdefault(array.tobytes(), array)
        self.labels = list(found.values())
        self.by_length: dict[int, list[Ints]] = defaultdict(list)
        for array in self.labels:
            self.by_length[len(array)].append(array)
        kernels = network.kernels
        varying = np.flatnonzero(np.any(kernels.weight != 0, axis=1))
        dense = kernels.instantiate([kernels.units]).sizes[0]
        self.rows = {int(row): int(dense[row]) for row in varying}

    def ambiguity(self, states: Sequence[State]) -> int:
        """How many dimensions some pruned networks can't tell from others.

        Neither by how many of their indices are kept, nor (which weights are matched by) by which.
        """
        counted: dict[tuple[int, ...], set[bytes]] = defaultdict(set)
        masked: dict[bytes, set[bytes]] = defaultdict(set)
        for labels in self.labels:
            masks = [state.keep[labels] for state in states]
            key = (len(labels), *(int(np.count_nonzero(mask)) for mask in masks))
            counted[key].add(np.sort(labels).tobytes())
            masked[b"/".join(mask.tobytes() for mask in masks)].add(labels.tobytes())
        return sum(len(same) - 1 for seen in (counted, masked) for same in seen.values())

    def expressions(
        self, value: int, near: Sequence[Ints], start: int | None, from_end: bool
    ) -> Iterator[Expression]:
        """Every expression whose dense value is the given one, the likeliest first."""
        if start is not None:
            for labels in (*near, *self.labels):
                if start + value <= len(labels):
                    yield Count(labels[start : start + value])
            return
        yield from _whole(value, near)
        yield from _part(value, near, from_end)
        yield from _whole(value, self.labels)
        if value > 0:
            for row, dense in self.rows.items():
                if dense and value % dense == 0:
                    yield Size(row, value // dense)
        yield from _part(value, self.labels, from_end)

    def find(
        self,
        value: int,
        states: Sequence[State],
        values: Sequence[int],
        *,
        near: Sequence[Ints] = (),
        start: int | None = None,
        from_end: bool = False,
    ) -> Expression | None:
        """The likeliest expression that is `value` in the dense network and `values` for `states`.

        Args:
            value: in the dense network.
            states: the pruned networks.
            values: in each of them.
            near: labels of the dimensions of the tensors that the node reads and makes.
            start: where it begins, if it is the length of a part (a split's).
            from_end: whether it more likely counts from the end of a dimension.
        """
        for expression in self.expressions(value, near, start, from_end):
            if all(expression(s) == v for s, v in zip(states, values, strict=True)):
                return expression
        return None

    def parameter(self, array: npt.NDArray[Any]) -> tuple[Labels, ...]:
        """Labels of the parameters that an array is equal to, as it is or transposed."""
        found = []
        for name, tensor in self._parameters.get(array.size, ()):
            labels = self.network.parameters.get(name)
            if labels is None:
                continue
            if tensor.shape == array.shape and np.array_equal(tensor, array):
                found.append(labels)
            elif array.ndim == 2 and np.array_equal(tensor, array.T):
                found.append(labels[::-1])
        return tuple(found)

    @cached_property
    def _parameters(self) -> dict[int, list[tuple[str, npt.NDArray[Any]]]]:
        """The dense network's tensors by their number of elements."""
        result: dict[int, list[tuple[str, npt.NDArray[Any]]]] = defaultdict(list)
        for name, tensor in self.network.model.state_dict(keep_vars=False).items():
            if isinstance(tensor, torch.Tensor) and tensor.dtype in _NUMPY:
                result[tensor.numel()].append((name, tensor.detach().cpu().numpy()))
        return result

    def dimensions(
        self, length: int, states: Sequence[State], lengths: Sequence[int]
    ) -> list[Ints]:
        """Label arrays that could be those of a dimension, from its length in pruned networks."""
        return [
            labels
            for labels in self.by_length.get(length, ())
            if all(
                int(np.count_nonzero(state.keep[labels])) == kept
                for state, kept in zip(states, lengths, strict=True)
            )
        ]


def _whole(value: int, labels: Sequence[Ints]) -> Iterator[Count]:
    """Counts of whole dimensions, and their multiples."""
    for label in labels:
        if abs(value) == len(label):
            yield Count(label, sign=1 if value > 0 else -1)
    for label in labels:
        if value > len(label) and value % len(label) == 0:
            yield Count(label, value // len(label))


def _part(value: int, labels: Sequence[Ints], from_end: bool) -> Iterator[Count]:
    """Counts of the first or last so many indices of a dimension."""
    size = abs(value)
    for label in labels:
        if 0 < size < len(label):
            first = [Count(label[:size])] if value > 0 else []
            last = [Count(label[len(label) - size :], sign=1 if value > 0 else -1)]
            yield from (last + first if from_end else first + last)


def _flat(values: Iterable[Labels | tuple[Labels, ...]]) -> Iterator[Labels]:
    """Labels of every tensor; a node with several outputs has a tuple of them."""
    for labels in values:
        if labels and isinstance(labels[0], tuple):
            yield from _flat(labels)
        else:
            yield cast("Labels", labels)


def choose_probes(
    network: Network,
    book: Book,
    count: int,
    rng: np.random.Generator,
    *,
    fewest: int = 2,
    tries: int = 40,
) -> list[Selection]:
    """Random selections that tell the network's dimensions apart as well as `tries` can.

    Args:
        network: the traced network.
        book: of it.
        count: of selections.
        rng: draws them.
        fewest: units of a group that are kept at least, where it has more. At a width of one,
            exporters leave out reshapes and broadcasts that every other width needs.
        tries: how many sets are drawn.
    """
    best: tuple[float, list[Selection]] = (np.inf, [])
    for _ in range(tries):
        probes = [random_selection(network, rng, fewest) for _ in range(count)]
        ambiguity = book.ambiguity([State.of(network, probe) for probe in probes])
        whole = sum(all(p[g.name].all() for p in probes) for g in network.groups)
        ambiguity += whole * len(book.labels)  # nothing is learnt of these
        if ambiguity < best[0]:
            best = (ambiguity, probes)
        if ambiguity == 0:
            break
    return best[1]


def random_selection(network: Network, rng: np.random.Generator, fewest: int = 1) -> Selection:
    """Keeps between a third and all of the units of every group, and at least `fewest` if it can.

    Most groups lose one at least; of two units one is lost half of the time.
    """
    selection = {}
    for group in network.groups:
        least = min(max(fewest, group.units // 3), group.units - 1)
        kept = int(rng.integers(least, group.units + (group.units == 2)))
        mask = np.zeros(group.units, dtype=bool)
        mask[rng.permutation(group.units)[:kept]] = True
        selection[group.name] = mask
    return selection
