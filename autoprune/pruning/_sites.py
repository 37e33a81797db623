"""A node of the graph whose constants a selection may change, and what they become."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels

Keep = npt.NDArray[np.bool_]
aten = torch.ops.aten


@dataclass(frozen=True)
class Rewrite:
    """New constants of one node.

    Attributes:
        node: its name in the traced graph.
        op: the op's name ("view").
        changes: argument's name → (old value, new value).
        target: another op to call instead, where the old one can't say it (`chunk` with unequal
            parts), its arguments given by `changes` alone beside the input and `dim`.
        stack: dotted paths and class names of the modules that the node ran in, root first.
    """

    node: str
    op: str
    changes: Mapping[str, tuple[Any, Any]]
    target: Any = None
    stack: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Scaled:
    """A symbolic size times a ratio.

    Attributes:
        node: the size in the traced graph, such as batch × heads.
        numerator: of the ratio.
        denominator: of the ratio.
    """

    node: fx.Node
    numerator: int
    denominator: int

    def constants(self) -> list[tuple[int, int]]:
        """(old, new) of the factors in the size's own expression that the ratio could stand for."""
        return [
            (a, a * self.numerator // self.denominator)
            for a in self.node.args
            if isinstance(a, int) and a * self.numerator % self.denominator == 0
        ]


_ARITHMETIC = (operator.mul, operator.floordiv, operator.add, operator.sub)


def evaluate(size: Any, keep: Keep | None, labels: Mapping[str, Any]) -> int:
    """A symbolic size's value for the traced batch, dense (keep None) or under a selection."""
    if not isinstance(size, fx.Node):
        return int(size)
    if size.target in _ARITHMETIC:
        values = [evaluate(argument, keep, labels) for argument in size.args]
        return int(size.target(*values))
    value = size.meta["val"]
    dense = int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)
    if op_name(size) == "sym_size" and keep is not None:
        label = along(one_tensor(labels.get(size.args[0].name, ())), size.args[1])  # type: ignore[union-attr,arg-type]
        if label is not None:
            return dense * count(label, keep) // len(label)
    return dense


@dataclass(frozen=True)
class Site:
    """A node whose constants may change.

    Attributes:
        node: the node.
        arguments: every argument by name, defaults filled in.
        inputs: labels of the first tensor input.
        output: labels of the output (a tuple of them where there are several).
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    inputs: Labels
    output: Any
    labels: Mapping[str, Any] = field(repr=False)
    rule: Callable[[Site, Keep], dict[str, Any]] = field(repr=False)

    @cached_property
    def stack(self) -> tuple[tuple[str, str], ...]:
        """(dotted path, class name) of the modules that the node ran in, root first."""
        return module_stack(self.node)

    def size(self, old: int | fx.Node, label: Ints, keep: Keep) -> int | fx.Node | Scaled:
        """What a size becomes: a constant, or a symbolic size (batch times heads) times a ratio."""
        if not isinstance(old, fx.Node):
            return count(label, keep)
        before, after = evaluate(old, None, self.labels), evaluate(old, keep, self.labels)
        ratio = Fraction(count(label, keep), len(label)) / Fraction(after, before)
        return old if ratio == 1 else Scaled(old, ratio.numerator, ratio.denominator)

    def rewrite(self, keep: Keep) -> Rewrite | None:
        """The new constants, or None where nothing changes."""
        new = self.rule(self, keep)
        target = new.pop("target", None)
        changes = {
            name: (self.arguments.get(name), value)
            for name, value in new.items()
            if target is not None or self.arguments.get(name) != value
        }
        if not changes:
            return None
        return Rewrite(self.node.name, op_name(self.node), changes, target, self.stack)


def module_stack(node: fx.Node) -> tuple[tuple[str, str], ...]:
    """(dotted path, class name) of the modules that a node ran in, root first."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(
        (path.split("@")[0], kind if isinstance(kind, str) else kind.__qualname__)
        for path, kind in stack.values()
        if path != "_empty_nn_module_stack_from_metadata_hook"
    )


def op_name(node: fx.Node) -> str:
    """The ATen op's name without namespace and overload; "" for anything else."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.name.startswith("aten::"):
        return ""
    name: str = schema.name.removeprefix("aten::")
    return name


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their names in the op's schema, defaults filled in."""
    result: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args):
            result[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            result[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            result[argument.name] = argument.default_value
    return {
        k: list(v) if isinstance(v, (list, tuple, fx.immutable_collections.immutable_list)) else v
        for k, v in result.items()
    }


def one_tensor(labels: Any) -> Labels:
    """A node's labels where it gives one tensor, () where it gives several."""
    return () if any(isinstance(entry, tuple) for entry in labels) else labels


def count(labels: Ints, keep: Keep) -> int:
    """How many indices of a dimension are kept."""
    return int(keep[labels].sum())


def along(labels: Labels, dim: int) -> Ints | None:
    """The labels of a dimension; None where nothing is known of the tensor."""
    return labels[dim] if labels else None
