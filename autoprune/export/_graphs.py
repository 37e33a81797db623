"""An ONNX graph with its constants at hand, and two graphs compared node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: A constant of a graph: (node's index, input's index) or (node's index, attribute's name).
Site = tuple[int, int | str]


class Mismatch(Exception):
    """Two graphs are not the same network at different widths; says where they differ."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A model, and its constants by the place that reads them.

    Attributes:
        model: the `onnx.ModelProto`, `Constant` nodes turned into initializers.
        constants: name → array.
        shapes: value's name → its static shape, where it is known.
    """

    model: Any
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def read(cls, data: bytes) -> Graph:
        """Parse a serialised model."""
        import onnx
        from onnx import numpy_helper

        model = onnx.load_from_string(data)
        graph = model.graph
        kept = []
        for node in graph.node:
            value = [a.t for a in node.attribute if a.name == "value"]
            if node.op_type == "Constant" and value:
                tensor = graph.initializer.add()
                tensor.CopyFrom(value[0])
                tensor.name = node.output[0]
            else:
                kept.append(node)
        if len(kept) != len(graph.node):
            nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
            del graph.node[:]
            graph.node.extend(nodes)
        shapes = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)
        }
        for node in graph.node:
            _write_out_split(graph, node, shapes)
        del graph.value_info[:]
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        return cls(model, constants, shapes)

    def inputs(self, node: int) -> dict[int, Array]:
        """A node's constant inputs by their position."""
        names = self.model.graph.node[node].input
        return {i: self.constants[n] for i, n in enumerate(names) if n in self.constants}

    def attributes(self, node: int) -> dict[str, Any]:
        """A node's attributes as plain values; tensors as arrays."""
        from onnx import helper, numpy_helper

        result: dict[str, Any] = {}
        for attribute in self.model.graph.node[node].attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.type == attribute.TENSOR:
                value = numpy_helper.to_array(value)
            result[attribute.name] = value
        return result


def _write_out_split(graph: Any, node: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Give a split into equal parts its sizes as an input, as one into unequal parts has them."""
    from onnx import helper, numpy_helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    known = [shapes.get(name) for name in node.output]
    if node.op_type != "Split" or "num_outputs" not in attributes or None in known:
        return
    axis = attributes.get("axis", 0)
    sizes = np.array([shape[axis] for shape in known if shape is not None], dtype=np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, f"{node.output[0]}/sizes"))
    del node.input[1:]
    node.input.append(f"{node.output[0]}/sizes")
    kept = [a.SerializeToString() for a in node.attribute if a.name != "num_outputs"]
    kind = type(node.attribute[0])
    del node.attribute[:]
    node.attribute.extend(kind.FromString(data) for data in kept)


def drop_idle_reshapes(dense: Graph, other: Graph) -> None:
    """Take reshapes to the shape that a tensor has out of a pruned graph where the dense has none.

    Exporters leave such reshapes out, but not all of them where a dimension is of size 1.
    """
    ours = iter([node.op_type for node in dense.model.graph.node])
    graph = other.model.graph
    wanted = next(ours, None)
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        if node.op_type != wanted and _is_idle_reshape(other, node):
            renamed[node.output[0]] = node.input[0]
            continue
        kept.append(node.SerializeToString())
        wanted = next(ours, None)
    if renamed and not renamed.keys() & {value.name for value in graph.output}:
        kind = type(graph.node[0])
        del graph.node[:]
        graph.node.extend(kind.FromString(data) for data in kept)


def _is_idle_reshape(graph: Graph, node: Any) -> bool:
    before = graph.shapes.get(node.input[0]) if node.op_type == "Reshape" else None
    return before is not None and before == graph.shapes.get(node.output[0])


def check_same_structure(dense: Graph, other: Graph) -> None:
    """Whether two graphs have the same nodes in the same order, wired in the same way.

    Raises:
        Mismatch: they have not; says where.
    """
    ours, theirs = dense.model.graph, other.model.graph
    if len(ours.node) != len(theirs.node):
        raise Mismatch(f"the pruned graph has {len(theirs.node)} nodes, not {len(ours.node)}")
    names = {a.name: b.name for a, b in zip(ours.input, theirs.input, strict=False)}
    for ours_node, theirs_node in zip(ours.node, theirs.node, strict=True):
        where = f"node {ours_node.name!r} ({ours_node.op_type})"
        if ours_node.op_type != theirs_node.op_type:
            raise Mismatch(f"{where} is a {theirs_node.op_type} in the pruned graph")
        if len(ours_node.input) != len(theirs_node.input) or len(ours_node.output) != len(
            theirs_node.output
        ):
            raise Mismatch(f"{where} has another number of inputs in the pruned graph")
        for a, b in zip(ours_node.input, theirs_node.input, strict=True):
            constant = a in dense.constants
            if constant != (b in other.constants) or (not constant and names.get(a, a) != b):
                raise Mismatch(f"{where} reads another value in the pruned graph")
        names.update(zip(ours_node.output, theirs_node.output, strict=True))
