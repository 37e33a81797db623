"""Whether a network's weights are 2:4 sparse, as sparse tensor cores take them.

Of each four weights in a row along the input channels two at least are zero (Mishra et al. 2021,
arXiv 2104.08378).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.profile.tensorrt_build import BuildSettings


def sparse(settings: BuildSettings, onnx: bytes) -> bool:
    """Whether a network is to run with kernels for 2:4 sparse weights: asked for, and it has some.

    Args:
        settings: of the builder.
        onnx: the serialised model, in any precision.
    """
    return settings.sparse_weights and has_sparse_weights(onnx)


def has_sparse_weights(onnx: bytes) -> bool:
    """Whether a convolution or matrix product of a network reads 2:4 sparse weights.

    Args:
        onnx: the serialised model, in any precision.
    """
    import onnx as package
    from onnx import numpy_helper

    graph = package.load_from_string(onnx).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # Quantised weights stand behind a pair of nodes.
    behind = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast")
    }
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = node.input[1]
        while name in behind:
            name = behind[name]
        if name in weights and is_sparse(numpy_helper.to_array(weights[name]), _axis(node)):
            return True
    return False


def is_sparse(array: npt.NDArray[Any], axis: int) -> bool:
    """Whether two at least of each four elements in a row along an axis are zero.

    Args:
        array: weights; all zeros count as none.
        axis: counts input channels; a number of them that 4 does not divide is none.
    """
    if array.ndim < 2 or array.shape[axis] % 4 or not array.any():
        return False
    rows = np.moveaxis(array, axis, -1)
    fours = rows.reshape(*rows.shape[:-1], -1, 4)
    return bool(((fours != 0).sum(axis=-1) <= 2).all())


def _axis(node: Any) -> int:
    """The axis of a node's weight that counts input channels."""
    if node.op_type == "Conv":
        return 1
    transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
    return 1 if node.op_type == "Gemm" and transposed else -2
