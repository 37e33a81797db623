"""The table of rules, and what a rule is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.workload import Ints
from autoprune.graph.atoms import Atoms
from autoprune.graph.network import Labels
from autoprune.graph.values import Value, inert

#: What a rule gives back: labels of the output, or a list of them for several outputs.
Result = Labels | list[Labels]
Rule = Callable[["Op"], Result]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen ops ("conv2d"), whatever their overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"two rules for {name}")
            _RULES[name] = function
        return function

    return register


def find(name: str) -> Rule | None:
    """The rule of an ATen op, or None."""
    return _RULES.get(name)


@dataclass(eq=False)
class Op:
    """One call of an ATen op while labels are propagated.

    Attributes:
        name: ATen name without namespace and overload ("conv2d").
        layer: the module that called it, as a user would name it.
        args: its arguments by the name that the op's schema gives them, defaults filled in,
            tensors as `Value`.
        shapes: of its tensor outputs.
        atoms: of the graph.
        cuts: labels before the first index of a slice; their count is a bound that a pruned
            network must be able to state.
        groups: labels of the group dimension of a grouped convolution, set by its rule.
        weight: set by a rule whose output is still a weight (see `Value.weight`).
        owners: first atom of a parameter's dimension → the layers that hold the parameter.
        normalises: whether its output only normalises what it was taken of.
    """

    name: str
    layer: str
    args: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    atoms: Atoms
    cuts: list[Ints] = field(default_factory=list)
    groups: Ints | None = None
    weight: bool = False
    owners: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    normalises: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only (or first) output."""
        return self.shapes[0]

    @property
    def first(self) -> Value:
        """The first tensor argument."""
        return next(self.tensors())

    def tensors(self) -> Iterator[Value]:
        """Every tensor argument, those in lists too."""
        for value in self.args.values():
            yield from _tensors(value)

    def tensor(self, *names: str) -> Value | None:
        """A tensor argument by the first of its names that the op's schema has, or None."""
        for name in names:
            if isinstance(self.args.get(name), Value):
                return self.args[name]  # type: ignore[no-any-return]
        return None

    def dim(self, index: int, ndim: int) -> int:
        """A dimension counted from the front."""
        return index + ndim if index < 0 else index

    def where(self) -> str:
        """This op and its layer, in words."""
        return f"{self.name} in {self.layer!r}" if self.layer else self.name

    def freeze(self, label: Ints | None, reason: str) -> None:
        """Freeze the atoms of a dimension, with a reason that says where."""
        if label is not None:
            self.atoms.freeze(label, reason)

    def freeze_all(self, value: Value, reason: str) -> None:
        """Freeze every dimension of a tensor."""
        for label in value.live():
            self.atoms.freeze(label, reason)

    def unify(self, a: Ints | None, b: Ints | None) -> Ints | None:
        """Tie two dimensions of the same size, and give the labels of the result."""
        if a is None or b is None:
            fixed = "it meets a dimension that can't be pruned"
            self.freeze(a if b is None else b, f"{fixed} ({self.where()})")
            return None
        self.atoms.unify(a, b)
        return a

    def solid(self, label: Ints | None, size: int) -> Ints:
        """Atoms of a dimension; new frozen ones where it is inert."""
        if label is not None:
            return label
        atoms = self.atoms.fresh(size)
        self.atoms.freeze(atoms, f"it meets a dimension that can't be pruned ({self.where()})")
        return atoms

    def produce(self, label: Ints | None) -> None:
        """Say that a weight's dimension makes channels."""
        if label is not None:
            holders = self.owners.get(int(label[0]), (self.layer,))
            layer = self.layer if self.layer in holders else holders[0]
            self.atoms.produce(layer, label)

    def inert(self) -> Result:
        """Labels of outputs none of which can be pruned."""
        labels = [inert(shape).labels for shape in self.shapes]
        return labels[0] if len(labels) == 1 else labels


def _tensors(value: Any) -> Iterator[Value]:
    if isinstance(value, Value):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
