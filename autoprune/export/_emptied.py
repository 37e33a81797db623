"""ONNX graphs in which some layers are left without channels: what is constant is worked out.

A group that is removed whole leaves convolutions and matrix products with weights of no element,
which no runtime takes. What makes no channel is dropped; what reads none gives its bias, a
constant that is added to the other operand of the sum it goes into. Where that is zero, as it is
where autoprune removed the branch, the sum goes too, and a ReLU behind it that follows another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.export._graphs import Array, Mismatch

#: Ops that give a constant back as it is.
_IDENTITY = {"Identity", "Cast", "CastLike", "Dropout"}
#: Element-wise ops of one tensor that may lie within a branch.
_UNARY = _IDENTITY | {
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Clip", "HardSwish",
    "HardSigmoid", "Sigmoid", "Tanh", "Erf", "Mish", "QuickGelu", "Swish", "Sqrt", "Pow",
}  # fmt: skip
_BINARY = {"Add", "Sub", "Mul", "Div"}


def without_empty(data: bytes, *, silent: bool = False) -> bytes:
    """A serialised model with every layer that has no channels worked out.

    Args:
        data: the model.
        silent: take the biases behind layers without inputs as zero, as surgery makes them: those
            of a sliced model are the dense network's.

    Raises:
        Mismatch: a tensor without channels reaches an op that can't do without them.
    """
    import onnx

    model = onnx.load_from_string(data)
    _Cleaner(model.graph, silent).run()
    result: bytes = model.SerializeToString()
    return result


class _Cleaner:
    """Goes through a graph once, in the order of execution."""

    def __init__(self, graph: Any, silent: bool) -> None:
        from onnx import numpy_helper

        self._graph = graph
        self._silent = silent
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._array = numpy_helper.to_array
        self._shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self._empty = {t.name for t in graph.initializer if 0 in t.dims}
        #: Values that are constant, with one entry along each dimension they don't depend on.
        self._constants: dict[str, Array] = {}
        self._relus: set[str] = set()
        #: Value → the one that takes its place.
        self._renamed: dict[str, str] = {}

    def run(self) -> None:
        kept = [node for node in self._graph.node if not self._work_out(node)]
        outputs = {value.name for value in self._graph.output}
        gone = outputs & (self._empty | self._constants.keys() | self._renamed.keys())
        if gone:
            raise Mismatch(f"without channels, {', '.join(sorted(gone))} would be constant")
        self._write(_needed(kept, outputs))

    def _work_out(self, node: Any) -> bool:
        """Take a node's inputs as they are now; whether the node itself is not needed."""
        for position, name in enumerate(node.input):
            node.input[position] = self._renamed.get(name, name)
        if node.op_type == "ConstantOfShape":
            return self._filled(node)
        first = node.input[0] if node.input else ""
        empty = [name for name in node.input if name in self._empty]
        constant = [name for name in node.input if name in self._constants]
        if empty:
            return self._without(node, first, empty)
        if constant:
            return self._fold(node, constant)
        if node.op_type == "Add" and self._adds_nothing(node):
            return True
        if node.op_type == "Relu":
            if first in self._relus and self._renamed:
                self._renamed[node.output[0]] = first
                return True
            self._relus.add(node.output[0])
        return False

    def _adds_nothing(self, node: Any) -> bool:
        """Whether a node adds zeros, which an exporter has worked out: then it is left out."""
        for name, other in (node.input, reversed(node.input)):
            zeros = self._tensors.get(name)
            shape = self._shapes.get(node.output[0])
            same = shape is not None and self._shapes.get(other) == shape
            if zeros is not None and same and not self._array(zeros).any():
                self._renamed[node.output[0]] = other
                return True
        return False

    def _filled(self, node: Any) -> bool:
        shape = self._tensors.get(node.input[0])
        value = [self._array(a.t) for a in node.attribute if a.name == "value"]
        if shape is None:
            return False
        sizes = self._array(shape)
        filler = value[0] if value else np.zeros(1, np.float32)
        if (sizes == 0).any():
            self._empty.add(node.output[0])
        else:
            self._constants[node.output[0]] = filler.reshape([1] * len(sizes))
        return True

    def _without(self, node: Any, first: str, empty: list[str]) -> bool:
        """A node that reads a tensor without channels."""
        op, result = node.op_type, node.output[0]
        if op in ("Conv", "MatMul", "Gemm"):
            weight = self._tensors.get(node.input[1])
            if weight is None:
                raise Mismatch(f"node {node.name!r} ({op}) has no constant weight")
            makes, dims = self._outputs(node, weight)
            if makes == 0:
                self._empty.add(result)
                return True
            bias = np.zeros(makes, np.float32)
            if len(node.input) > 2 and node.input[2] and not self._silent:
                bias = self._array(self._tensors[node.input[2]])
            self._constants[result] = bias.reshape(1, -1, *[1] * dims) if dims else bias
            return True
        if (op in _UNARY and first in self._empty) or op == "BatchNormalization":
            self._empty.update(name for name in node.output if name)
            return True
        if op in _BINARY:
            self._empty.add(result)
            return True
        raise Mismatch(f"node {node.name!r} ({op}) would be left without channels")

    def _outputs(self, node: Any, weight: Any) -> tuple[int, int]:
        """Channels that a layer makes, and its spatial dimensions."""
        if node.op_type == "Conv":
            return int(weight.dims[0]), len(weight.dims) - 2
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return int(weight.dims[0 if transposed else -1]), 0

    def _fold(self, node: Any, constant: list[str]) -> bool:
        """A node that reads a value that is constant now."""
        op, result = node.op_type, node.output[0]
        if op in _IDENTITY:
            self._constants[result] = self._constants[constant[0]]
            return True
        if op == "BatchNormalization":
            value = self._constants[node.input[0]]
            self._constants[result] = value if self._silent else self._normalised(node, value)
            return True
        if op == "Add":
            return self._added(node, constant)
        raise Mismatch(f"node {node.name!r} ({op}) would read a constant")

    def _normalised(self, node: Any, value: Array) -> Array:
        shape = [1, -1, *[1] * (value.ndim - 2)]
        scale, bias, mean, variance = (
            self._array(self._tensors[name]).reshape(shape) for name in node.input[1:5]
        )
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        result: Array = (value - mean) / np.sqrt(variance + epsilon) * scale + bias
        return result.astype(value.dtype)

    def _added(self, node: Any, constant: list[str]) -> bool:
        """A sum with a constant: a constant, its other operand, or a sum with a small tensor."""
        from onnx import numpy_helper

        others = [name for name in node.input if name not in self._constants]
        value = self._constants[constant[0]]
        if not others:
            self._constants[node.output[0]] = value + self._constants[constant[-1]]
            return True
        if others[0] in self._tensors:
            if self._silent:
                self._constants[node.output[0]] = value
                return True
            array = self._array(self._tensors[others[0]])
            self._constants[node.output[0]] = (value + array).astype(value.dtype)
            return True
        if not value.any():
            self._renamed[node.output[0]] = others[0]
            return True
        name = f"{node.output[0]}/constant"
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._graph.initializer.append(tensor)
        del node.input[:]
        node.input.extend([others[0], name])
        return False

    def _write(self, nodes: list[Any]) -> None:
        graph = self._graph
        kind = type(graph.node.add())
        copies = [kind.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        used = {name for node in nodes for name in node.input}
        used |= {value.name for value in graph.output}
        kept = [t.SerializeToString() for t in graph.initializer if t.name in used]
        tensor = type(graph.initializer.add())
        del graph.initializer[:]
        graph.initializer.extend(tensor.FromString(text) for text in kept)
        made = {name for node in nodes for name in node.output}
        known = [v.SerializeToString() for v in graph.value_info if v.name in made]
        info = type(graph.value_info.add())
        del graph.value_info[:]
        graph.value_info.extend(info.FromString(text) for text in known)


def _needed(nodes: list[Any], outputs: set[str]) -> list[Any]:
    """The nodes that the outputs are computed from, in their order."""
    wanted = set(outputs)
    found = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]
