"""How the constants of an ONNX graph follow from a selection, learnt from pruned examples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core.workload import Ints
from autoprune.export._graphs import Array, Graph, Mismatch
from autoprune.export._matching import Book, Expression, State

#: Label arrays tried for a weight's dimensions at most.
_COMBINATIONS = 4096


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that is sliced: for each dimension its labels, or None."""

    array: Array
    labels: tuple[Ints | None, ...]

    def __call__(self, state: State) -> Array:
        array = self.array
        for dim, label in enumerate(self.labels):
            if label is not None:
                array = np.compress(state.keep[label], array, axis=dim)
        return np.ascontiguousarray(array)


@dataclass(frozen=True, eq=False)
class Sizes:
    """A constant of integers: the dense ones, and the expression of each that changes."""

    array: Array
    expressions: dict[int, Expression]

    def __call__(self, state: State) -> Array:
        array = self.array.copy()
        for i, expression in self.expressions.items():
            array.reshape(-1)[i] = expression(state)
        return array


@dataclass(frozen=True, eq=False)
class Regular:
    """A constant that is made from its shape: start, start + step, start + 2 step, ... in order.

    Attributes:
        array: the dense constant.
        step: between neighbours; 0 where all elements are equal.
        expressions: of each dimension that changes.
    """

    array: Array
    step: int
    expressions: dict[int, Expression]

    def __call__(self, state: State) -> Array:
        shape = list(self.array.shape)
        for dim, expression in self.expressions.items():
            shape[dim] = expression(state)
        if not self.step:
            return np.full(shape, self.array.flat[0], self.array.dtype)
        count = np.arange(np.prod(shape), dtype=self.array.dtype)
        counted: Array = self.array.flat[0] + self.step * count
        return counted.reshape(shape)


@dataclass(frozen=True, eq=False)
class Attribute:
    """An integer attribute that changes: of which node, at which position."""

    node: int
    position: int
    expression: Expression


@dataclass
class Rules:
    """What changes in a graph: everything that slicing needs.

    Attributes:
        skeleton: the dense `onnx.ModelProto` without the constants that change.
        constants: name → rule of each constant that changes.
        attributes: the attributes that change.
    """

    skeleton: Any
    constants: dict[str, Weight | Sizes | Regular] = field(default_factory=dict)
    attributes: list[Attribute] = field(default_factory=list)

    def build(self, state: State) -> bytes:
        """The serialised model of a selection."""
        from onnx import numpy_helper

        model = type(self.skeleton)()
        model.CopyFrom(self.skeleton)
        model.graph.initializer.extend(
            numpy_helper.from_array(rule(state), name) for name, rule in self.constants.items()
        )
        for attribute in self.attributes:
            entry = model.graph.node[attribute.node].attribute[attribute.position]
            entry.i = attribute.expression(state)
        data: bytes = model.SerializeToString()
        return data


def learn(dense: Graph, others: Sequence[Graph], states: Sequence[State], book: Book) -> Rules:
    """Find the rule of everything that differs between the dense graph and pruned ones.

    Args:
        dense: the dense network's graph.
        others: graphs of the same structure.
        states: the selections that the others were pruned to.
        book: what there is to count in.

    Raises:
        Mismatch: something changes by no rule that is known; says what.
    """
    return _Learner(dense, others, states, book).learn()


class _Learner:
    def __init__(
        self, dense: Graph, others: Sequence[Graph], states: Sequence[State], book: Book
    ) -> None:
        self.dense, self.others, self.states, self.book = dense, others, states, book

    def learn(self) -> Rules:
        model = self.dense.model
        rules = Rules(type(model).FromString(model.SerializeToString()))
        names: dict[tuple[str, bytes], str] = {}
        for index, node in enumerate(model.graph.node):
            theirs = [other.inputs(index) for other in self.others]
            for position, array in self.dense.inputs(index).items():
                seen = [inputs[position] for inputs in theirs]
                if all(_close(array, other) for other in seen):
                    continue
                # Weights stay shared; sizes that nodes share need not have one rule.
                name, small = node.input[position], array.dtype == np.int64
                key = (name, repr(index if small else [s.shape for s in seen]).encode())
                if key not in names:
                    names[key] = f"{name}/{len(names)}"
                    rules.constants[names[key]] = self._constant(index, position, array, seen)
                rules.skeleton.graph.node[index].input[position] = names[key]
            rules.attributes += self._attributes(index)
        self._strip(rules.skeleton)
        return rules

    def _strip(self, skeleton: Any) -> None:
        """Leave out constants that nobody reads any more, shapes that change, and stack traces."""
        graph = skeleton.graph
        used = {name for node in graph.node for name in node.input}
        used |= {value.name for value in graph.output}
        kept = [t.SerializeToString() for t in graph.initializer if t.name in used]
        tensor = type(self.dense.model.graph.initializer.add())
        del self.dense.model.graph.initializer[-1]
        del graph.initializer[:]
        graph.initializer.extend(tensor.FromString(data) for data in kept)
        for position, value in enumerate(graph.output):
            shape = value.type.tensor_type.shape
            theirs = [o.model.graph.output[position].type.tensor_type.shape for o in self.others]
            if any(other != shape for other in theirs):
                value.type.tensor_type.ClearField("shape")
        for node in graph.node:
            scopes = [p.value for p in node.metadata_props if p.key.endswith(".name_scopes")]
            del node.metadata_props[:]
            for value in scopes:
                node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)

    def _where(self, index: int, what: str) -> str:
        node = self.dense.model.graph.node[index]
        return f"{what} of node {node.name!r} ({node.op_type})"

    def _near(self, index: int) -> list[Ints]:
        """Labels of the dimensions of the tensors that a node reads and makes.

        First of those that tracing has under the same name, then all that fit their lengths.
        """
        near: dict[int, Ints] = {}
        node = self.dense.model.graph.node[index]
        for name in (*node.output, *node.input):
            shape, traced = self.dense.shapes.get(name), self.book.network.labels.get(name, ())
            if shape is None or len(shape) != len(traced):
                continue
            for length, label in zip(shape, traced, strict=True):
                if isinstance(label, np.ndarray) and len(label) == length:
                    near.setdefault(id(label), label)
        nodes = [graph.model.graph.node[index] for graph in (self.dense, *self.others)]
        for tensors in zip(*([*n.output, *n.input] for n in nodes), strict=True):
            shapes = [
                graph.shapes.get(name)
                for graph, name in zip((self.dense, *self.others), tensors, strict=True)
            ]
            known = [shape for shape in shapes if shape is not None]
            if len(known) < len(shapes) or len({len(shape) for shape in known}) > 1:
                continue
            for length, *lengths in zip(*known, strict=True):
                for labels in self.book.dimensions(length, self.states, lengths):
                    if any(kept != length for kept in lengths):
                        near.setdefault(id(labels), labels)
        return list(near.values())

    def _constant(
        self, index: int, position: int, array: Array, seen: list[Array]
    ) -> Weight | Sizes | Regular:
        where = self._where(index, f"input {position}")
        if any(other.ndim != array.ndim or other.dtype != array.dtype for other in seen):
            raise Mismatch(f"{where} changes its rank or type")
        if all(other.shape == array.shape for other in seen):
            if array.dtype == np.int64 and array.ndim <= 1:
                return self._sizes(index, position, array, seen)
            raise Mismatch(f"{where} changes its values but not its shape")
        name = self.dense.model.graph.node[index].input[position]
        weight = self._weight(name, array, seen)
        if weight is not None:
            return weight
        step = _step(array)
        if step is not None and all(
            _step(other) == step and other.flat[0] == array.flat[0] for other in seen
        ):
            shapes = [np.array(other.shape) for other in seen]
            near = self._near(index)
            return Regular(
                array, step, self._expressions(where, np.array(array.shape), shapes, near=near)
            )
        raise Mismatch(f"{where}, of shape {array.shape}, is no slice of the dense one's")

    def _sizes(self, index: int, position: int, array: Array, seen: list[Array]) -> Sizes:
        op = self.dense.model.graph.node[index].op_type
        starts = [0, *np.cumsum(array)[:-1].tolist()] if op == "Split" else None
        # The second half of a pad's sizes is what is added at the ends.
        ends = {i for i in range(array.size) if op == "Pad" and 2 * i >= array.size}
        where = self._where(index, f"input {position}")
        expressions = self._expressions(
            where, array, seen, near=self._near(index), starts=starts, ends=ends
        )
        return Sizes(array, expressions)

    def _expressions(
        self,
        where: str,
        array: Array,
        seen: list[Array],
        *,
        near: Sequence[Ints],
        starts: list[int] | None = None,
        ends: frozenset[int] | set[int] = frozenset(),
    ) -> dict[int, Expression]:
        expressions = {}
        for i, value in enumerate(array.reshape(-1).tolist()):
            values = [int(other.reshape(-1)[i]) for other in seen]
            if all(v == value for v in values):
                continue
            expression = self.book.find(
                value, self.states, values, near=near,
                start=None if starts is None else starts[i], from_end=i in ends,
            )  # fmt: skip
            if expression is None:
                raise Mismatch(f"{where}: {value} becomes {values}, a count of nothing known")
            expressions[i] = expression
        return expressions

    def _weight(self, name: str, array: Array, seen: list[Array]) -> Weight | None:
        """Labels of each dimension such that slicing gives every pruned network's values."""
        choices: list[list[Ints | None]] = []
        named = self.book.network.parameters.get(name)
        known = [*([named] if named is not None else []), *self.book.parameter(array)]
        for dim, length in enumerate(array.shape):
            lengths = [other.shape[dim] for other in seen]
            if all(kept == length for kept in lengths):
                choices.append([None])
                continue
            found: list[Ints | None] = list(self.book.dimensions(length, self.states, lengths))
            known_here = [labels[dim] for labels in known if len(labels) == array.ndim]
            choices.append([*(label for label in known_here if label is not None), *found])
        for labels in itertools.islice(itertools.product(*choices), _COMBINATIONS):
            if any(
                label is not None and len(label) != length
                for label, length in zip(labels, array.shape, strict=True)
            ):
                continue
            weight = Weight(array, labels)
            if all(_close(weight(s), other) for s, other in zip(self.states, seen, strict=True)):
                return weight
        return None

    def _attributes(self, index: int) -> list[Attribute]:
        ours = self.dense.attributes(index)
        theirs = [other.attributes(index) for other in self.others]
        names = list(ours)
        if any(set(attributes) != set(names) for attributes in theirs):
            raise Mismatch(self._where(index, "the set of attributes") + " changes")
        result = []
        for position, (name, value) in enumerate(ours.items()):
            values = [attributes[name] for attributes in theirs]
            if all(_equal(value, other) for other in values):
                continue
            where = self._where(index, f"attribute {name!r}")
            if not all(isinstance(v, int) for v in (value, *values)):
                raise Mismatch(f"{where} is {value!r}, and {values!r} in pruned networks")
            expression = self.book.find(value, self.states, values, near=self._near(index))
            if expression is None:
                raise Mismatch(f"{where}: {value} becomes {values}, a count of nothing known")
            result.append(Attribute(index, position, expression))
        return result


def _step(array: Array) -> int | None:
    """0 where all elements are equal, 1 where integers count up, otherwise None."""
    if array.size and (array == array.flat[0]).all():
        return 0
    if array.size > 1 and np.issubdtype(array.dtype, np.integer):
        return 1 if (np.diff(array.reshape(-1)) == 1).all() else None
    return None


def _close(a: Array, b: Array) -> bool:
    """Whether two constants are the same up to the rounding of constant folding."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not np.issubdtype(a.dtype, np.floating):
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-5 * scale, equal_nan=True))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and _close(a, b)
    return bool(a == b)
