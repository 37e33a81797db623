"""ONNX networks in 16-bit floating point: weights and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.core.errors import ProfilerError

#: What a network of 32-bit floats can be turned into.
HALVES = ("fp16", "bf16")

#: The largest number that fp16 has; larger weights are cut to it.
_FP16_MAX = 65504.0

#: Ops whose output's type stands in an attribute.
_BY_ATTRIBUTE = ("Cast", "Constant", "ConstantOfShape")


def tensor_types(model: Any) -> dict[str, int]:
    """Element type of every tensor of a graph, as `onnx.TensorProto` numbers them.

    Args:
        model: an `onnx.ModelProto` without functions.

    Raises:
        ProfilerError: the graph is not well-formed.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    # What the exporter wrote may be of other widths, where the weights were sliced.
    del bare.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except onnx.shape_inference.InferenceError as error:
        raise ProfilerError(f"the types of its tensors can't be found: {error}") from error
    types = {t.name: int(t.data_type) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types.setdefault(value.name, int(value.type.tensor_type.elem_type))
    return types


def to_half(model: Any, kind: str) -> None:
    """Turn every 32-bit float of a graph into a 16-bit one, in place.

    Inputs and outputs of the network stay as they are, behind a cast. Ops that take no such
    floats (by their ONNX schema) stay in 32 bits, between casts.

    Args:
        model: an `onnx.ModelProto`.
        kind: "fp16" or "bf16".

    Raises:
        ProfilerError: the graph has subgraphs, or an op whose types are not known.
    """
    _Halver(model, kind).run()


class _Halver:
    """One graph on its way: a tensor of floats keeps its name and becomes halves.

    The network's own outputs are the exception: they are made under another name and cast.
    """

    def __init__(self, model: Any, kind: str) -> None:
        from onnx import TensorProto

        self.graph = model.graph
        self.full = int(TensorProto.FLOAT)
        self.half = int(TensorProto.FLOAT16 if kind == "fp16" else TensorProto.BFLOAT16)
        self.types = tensor_types(model)
        self.opsets = {entry.domain: int(entry.version) for entry in model.opset_import}
        self.weights = {t.name: t for t in self.graph.initializer if t.data_type == self.full}
        self.inputs = {i.name for i in self.graph.input} - set(self.weights)
        self.outputs = {o.name for o in self.graph.output if self._float(o.name)}
        self.nodes: list[Any] = []
        self.made: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        wrong = sorted(self.outputs & (self.inputs | set(self.weights)))
        if wrong:
            raise ProfilerError(f"its output {wrong[0]!r} must be computed, not an input or weight")
        for node in list(self.graph.node):
            self._node(node)
        for name in sorted(self.outputs):
            self.nodes.append(self._cast(self._called(name), name, self.full))
        read = {name for node in self.nodes for name in node.input}
        weights = [t for t in self.graph.initializer if t.name in read]
        for field, values in (("initializer", weights), ("node", self.nodes), ("value_info", [])):
            kept = [copy_of(value) for value in values]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(kept)

    def _node(self, node: Any) -> None:
        if any(a.HasField("g") or len(a.graphs) for a in node.attribute):
            raise ProfilerError(
                f"networks with control flow (here {node.op_type} {node.name!r}) can't be turned "
                "into 16-bit floats; measure in fp32"
            )
        inputs, outputs = self._full_slots(node)
        for index, name in enumerate(node.input):
            if self._float(name):
                node.input[index] = self._as(name, self.full if index in inputs else self.half)
        self._attributes(node)
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            called = node.output[index] = self._called(name)
            if index in outputs and self._float(name):
                node.output[index] = f"{called}__full"
                self.nodes.append(self._cast(f"{called}__full", called, self.half))

    def _full_slots(self, node: Any) -> tuple[set[int], set[int]]:
        """Numbers of a node's inputs and outputs that must stay 32-bit floats."""
        from onnx import defs

        if not any(self._float(name) for name in (*node.input, *node.output)):
            return set(), set()
        try:
            schema = defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
        except defs.SchemaError as error:
            raise ProfilerError(
                f"{node.op_type} {node.name!r} must be an ONNX op to be turned into 16-bit floats; "
                f"its types are not known ({node.domain or 'ai.onnx'}); measure in fp32"
            ) from error
        allowed = {t.type_param_str: set(t.allowed_type_strs) for t in schema.type_constraints}
        takes = [_formal(schema.inputs, i) for i in range(len(node.input))]
        makes = [_formal(schema.outputs, i) for i in range(len(node.output))]
        # An op that takes one kind of half takes the other: schemas lag behind runtimes.
        full = {t for t in (*takes, *makes) if "tensor(float16)" not in allowed.get(t, {t})}
        if node.op_type not in _BY_ATTRIBUTE:
            # An output that no input of floats decides on is in 32 bits.
            decided = {t for t, name in zip(takes, node.input, strict=True) if self._float(name)}
            full |= {t for t in makes if t not in decided}
        return (
            {i for i, t in enumerate(takes) if t in full},
            {i for i, t in enumerate(makes) if t in full},
        )

    def _attributes(self, node: Any) -> None:
        """Floats, and the name of their type, that stand in a node itself."""
        from onnx import helper, numpy_helper

        if node.op_type not in _BY_ATTRIBUTE:
            return
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros in 32 bits
            zero = numpy_helper.from_array(np.zeros(1, np.float32))
            node.attribute.append(helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == self.full:
                attribute.i = self.half
            elif attribute.name == "value" and attribute.t.data_type == self.full:
                attribute.t.CopyFrom(self._halved(attribute.t))
            elif attribute.name in ("value_float", "value_floats"):
                values: Any = attribute.f if attribute.name == "value_float" else attribute.floats
                tensor = numpy_helper.from_array(np.array(values, dtype=np.float32))
                attribute.CopyFrom(helper.make_attribute("value", self._halved(tensor)))

    def _as(self, name: str, wanted: int) -> str:
        """The name of a tensor of floats in a type, made where there is none yet."""
        called = self._called(name)
        if name not in self.weights and wanted == (self.full if name in self.inputs else self.half):
            return called
        if (name, wanted) not in self.made:
            new = f"{called}__{'full_in' if wanted == self.full else 'half'}"
            if name not in self.weights:
                self.nodes.append(self._cast(called, new, wanted))
            elif wanted == self.half:
                new = name
                self.weights[name] = copy_of(tensor := self.weights[name])
                tensor.CopyFrom(self._halved(tensor))
            else:
                self.graph.initializer.append(self.weights[name])
                self.graph.initializer[-1].name = new
            self.made[name, wanted] = new
        return self.made[name, wanted]

    def _halved(self, tensor: Any) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        array = numpy_helper.to_array(tensor)
        if self.half == TensorProto.FLOAT16:
            array = np.clip(array, -_FP16_MAX, _FP16_MAX)
        halved = array.astype(helper.tensor_dtype_to_np_dtype(self.half))
        return numpy_helper.from_array(halved, tensor.name)

    def _cast(self, source: str, target: str, to: int) -> Any:
        from onnx import helper

        return helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=to)

    def _called(self, name: str) -> str:
        return f"{name}__inner" if name in self.outputs else name

    def _float(self, name: str) -> bool:
        return bool(name) and self.types.get(name) == self.full


def copy_of(message: Any) -> Any:
    """A copy of a protocol buffer's message that stands on its own."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _formal(parameters: Any, index: int) -> str:
    """The type, as the schema calls it, of a node's input or output of that number."""
    return str(parameters[min(index, len(parameters) - 1)].type_str)
