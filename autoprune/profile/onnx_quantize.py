"""Symmetric quantisation of ONNX networks by pairs of QuantizeLinear and DequantizeLinear.

Weights and activations of convolutions and matrix products; biases stay as they are, since
TensorRT adds them in higher precision. A network so marked needs no calibration by the runtime
(explicit quantisation). Scales: Jacob et al. 2018 (CVPR), without zero points; FP8 is E4M3 of
Micikevicius et al. 2022 (arXiv 2209.05433).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.core.errors import ProfilerError

#: The largest magnitude in 8 bits.
LARGEST = {"int8": 127.0, "fp8": 448.0}

_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: 16-bit scales and FP8 came with this opset.
OPSET = 19


def quantize(model: Any, ranges: Mapping[str, tuple[float, float]], kind: str) -> None:
    """Put pairs of quantisation before every heavy op, in place.

    Weights have a scale for each output channel (int8) or one (fp8); activations have one. The
    other operand of a residual addition is quantised too, so that it can be fused into the
    convolution before it. Convolutions that TensorRT has no FP8 kernels for stay as they are.

    Args:
        model: an `onnx.ModelProto` of opset 19 or later.
        ranges: least and largest value of the activations, by name.
        kind: "int8" or "fp8".

    Raises:
        ProfilerError: no value is known of an activation.
    """
    _Quantizer(model, ranges, kind).run()


class _Quantizer:
    def __init__(self, model: Any, ranges: Mapping[str, tuple[float, float]], kind: str) -> None:
        from onnx import TensorProto, numpy_helper

        self.graph, self.ranges, self.kind = model.graph, ranges, kind
        self.type = int(TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN)
        self.arrays = {
            t.name: numpy_helper.to_array(t)
            for t in self.graph.initializer
            if t.data_type == TensorProto.FLOAT
        }
        self.readers: dict[str, int] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.nodes: list[Any] = []
        self.done: dict[str, str] = {}
        self.heavy: set[str] = set()  # outputs of ops that were quantised

    def run(self) -> None:
        for node in list(self.graph.node):
            if node.op_type in _HEAVY and self._has_kernel(node):
                node.input[0] = self._activation(node.input[0])
                node.input[1] = self._weight(node) or self._activation(node.input[1])
                self.heavy.add(node.output[0])
            elif node.op_type == "Add":
                self._residual(node)
            self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]

    def _has_kernel(self, node: Any) -> bool:
        """Whether it is run in 8 bits: of floats, and for fp8 of a shape that has a kernel."""
        first, second = node.input[0], node.input[1]
        if first in self.arrays or not self._known(first):
            return False  # a product of constants, or of something else than floats
        weight = self.arrays.get(second)
        if weight is None:
            return node.op_type == "MatMul" and self._known(second)
        if self.kind == "int8" or not node.op_type.startswith("Conv"):
            return True
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        out, into = weight.shape[:2]
        small = min(out, into) < 16 or out % 16 != into % 16
        return not (node.op_type != "Conv" or groups > 1 or small or max(weight.shape[2:]) >= 32)

    def _known(self, name: str) -> bool:
        return name in self.ranges or name in self.done

    def _residual(self, node: Any) -> None:
        for index, other in ((0, 1), (1, 0)):
            name, beside = node.input[index], node.input[other]
            fused = beside in self.heavy and self.readers.get(beside) == 1
            if fused and name in self.ranges and name not in self.heavy:
                node.input[index] = self._activation(name)
                return

    def _activation(self, name: str) -> str:
        if name not in self.done:
            low, high = self.ranges[name]
            self.done[name] = self._pair(name, np.float32(max(-low, high)), None)
        return self.done[name]

    def _weight(self, node: Any) -> str:
        """The weight behind its pair, or "" where there is none."""
        name = node.input[1]
        if name not in self.arrays:
            return ""
        array = np.abs(self.arrays[name])
        axis = None if self.kind == "fp8" else _channels(node, array.ndim)
        key = f"{name}@{axis}"
        if key not in self.done:
            others = tuple(i for i in range(array.ndim) if i != axis)
            largest = array.max(axis=others) if axis is not None else array.max()
            self.done[key] = self._pair(name, largest, axis)
        return self.done[key]

    def _pair(self, name: str, largest: Any, axis: int | None) -> str:
        """QuantizeLinear and DequantizeLinear after a tensor; gives the latter's output."""
        from onnx import helper, numpy_helper

        stem = f"{name}_q{'' if axis is None else axis}"
        # A channel of zeros has any scale.
        scale = np.where(largest > 0, largest, 1.0) / LARGEST[self.kind]
        zeros = np.zeros(scale.shape, helper.tensor_dtype_to_np_dtype(self.type))
        self.graph.initializer.append(
            numpy_helper.from_array(scale.astype(np.float32), f"{stem}_scale")
        )
        self.graph.initializer.append(numpy_helper.from_array(zeros, f"{stem}_zero"))
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        for op, source, target in (
            ("QuantizeLinear", name, f"{stem}_quantized"),
            ("DequantizeLinear", f"{stem}_quantized", f"{stem}_dequantized"),
        ):
            self.nodes.append(
                helper.make_node(
                    op,
                    [source, f"{stem}_scale", f"{stem}_zero"],
                    [target],
                    name=f"{op}_{stem}",
                    **attributes,
                )
            )
        return f"{stem}_dequantized"


def _channels(node: Any, dimensions: int) -> int | None:
    """The axis of a weight that counts output channels; None where there is no such one."""
    settings = {a.name: a.i for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if settings.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if settings.get("transB", 0) else 1
    return dimensions - 1 if dimensions == 2 else None


def at_least_opset(model: Any, wanted: int = OPSET) -> Any:
    """The model in an opset that has what is needed; itself where it is that late already.

    Raises:
        ProfilerError: it can't be converted.
    """
    from onnx import version_converter

    have = next((int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    if have >= wanted:
        return model
    try:
        return version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter raises RuntimeError and its own kinds
        raise ProfilerError(
            f"it must be of opset {wanted} or convertible to it, is of {have}: {error}"
        ) from error
