"""What each layer of an ONNX network has to do: multiply-accumulates, bytes and channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autoprune.profile.onnx_layers import layer_of


@dataclass(frozen=True)
class LayerWork:
    """The work of one layer's arithmetic, for the whole batch.

    Attributes:
        op: ONNX's name of it: "Conv", "Gemm", "MatMul", "ConvTranspose".
        macs: multiply-accumulates.
        size_bytes: of what it reads (weights too) and writes.
        channels: input and output channels.
    """

    op: str
    macs: float
    size_bytes: float
    channels: tuple[int, int]


def layer_work(model: bytes) -> dict[str, LayerWork]:
    """Layers that multiply, in the order of the graph.

    Several products of one layer (those of an attention) count together.

    Args:
        model: a serialised ONNX model with fixed shapes.
    """
    import onnx

    proto = onnx.load_from_string(model)
    del proto.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: _shape(value) for value in values}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, LayerWork] = {}
    for node in graph.node:
        inputs = [shapes[name] for name in node.input if name in shapes]
        output = shapes.get(node.output[0], ())
        macs, channels = _macs(node, inputs, output)
        if not macs:
            continue
        size = 4.0 * sum(math.prod(shape) for shape in (*inputs, output))
        layer = layer_of(node)
        before = found.get(layer)
        if before is not None:
            macs, size, channels = (
                macs + before.macs, size + before.size_bytes, before.channels
            )  # fmt: skip
        found[layer] = LayerWork(str(node.op_type), macs, size, channels)
    return found


def _macs(
    node: Any, inputs: list[tuple[int, ...]], output: tuple[int, ...]
) -> tuple[float, tuple[int, int]]:
    """Multiply-accumulates of a node, 0 for one that does not multiply; its channels."""
    if len(inputs) < 2 or not output or len(inputs[1]) < 2:
        return 0.0, (0, 0)
    weight = inputs[1]
    if node.op_type == "Conv":
        return float(math.prod(output) * math.prod(weight[1:])), (inputs[0][1], output[1])
    if node.op_type == "ConvTranspose":
        return float(math.prod(inputs[0]) * math.prod(weight[1:])), (inputs[0][1], output[1])
    if node.op_type == "Gemm":
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        depth = inputs[0][0 if turned else -1]
        return float(math.prod(output) * depth), (depth, output[-1])
    if node.op_type == "MatMul":
        return float(math.prod(output) * inputs[0][-1]), (inputs[0][-1], output[-1])
    return 0.0, (0, 0)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(d.dim_value) for d in value.type.tensor_type.shape.dim)
