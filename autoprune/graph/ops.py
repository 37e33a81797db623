"""Canonical names of ops, and the settings of a kernel that a cost may depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.graph.names import words

_NAMES = {
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "addbmm": "matmul",
    "einsum": "matmul",
    "addmm": "linear",
    "scaled_dot_product_attention": "attention",
    "cat": "concat",
    "concat": "concat",
    "concatenate": "concat",
    "hstack": "concat",
    "split_with_sizes": "split",
    "chunk": "split",
    "unsafe_split": "split",
    "unsafe_chunk": "split",
    "tensor_split": "split",
    "unbind": "split",
    "narrow": "slice",
    "constant_pad_nd": "pad",
    "sub": "add",
    "rsub": "add",
    "subtract": "add",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "_softmax": "softmax",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
    "_to_copy": "cast",
    "to": "cast",
    "pixel_unshuffle": "pixel_shuffle",
    "t": "transpose",
    "permute": "transpose",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "movedim": "transpose",
    "moveaxis": "transpose",
    "numpy_T": "transpose",
    "mT": "transpose",
    "broadcast_to": "expand",
    "expand_as": "expand",
    "tile": "repeat",
    "repeat_interleave": "repeat",
}

_RESHAPE = {
    *words("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"),
    *words("_reshape_alias ravel"),
}

_REDUCE = set(
    words("mean sum amax amin max min argmax argmin prod var std norm linalg_vector_norm")
)

_SETTINGS = (
    "stride",
    "padding",
    "dilation",
    "output_padding",
    "kernel_size",
    "ceil_mode",
    "output_size",
    "num_groups",
    "eps",
    "dim",
    "is_causal",
    "enable_gqa",
    "upscale_factor",
    "downscale_factor",
    "approximate",
)


def canonical(name: str, args: Mapping[str, Any]) -> str:
    """The usual name of an op; its ATen name where none is usual.

    An in-place op has the name of the plain one.
    """
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    if plain in _RESHAPE:
        return "reshape"
    if plain in _REDUCE and "other" not in args:
        return "reduce"
    if "_pool" in plain:
        return "pool"
    if plain.lstrip("_").startswith("upsample"):
        return "upsample"
    if plain == "convolution":
        kind = "conv_transpose" if args.get("transposed") else "conv"
        return f"{kind}{len(args['stride'])}d"
    return _NAMES.get(plain, plain)


def settings(args: Mapping[str, Any]) -> dict[str, int | float | str | tuple[int, ...]]:
    """The plain settings of an op, and the kernel size of a convolution."""
    result: dict[str, int | float | str | tuple[int, ...]] = {}
    for name in _SETTINGS:
        value = args.get(name)
        if isinstance(value, bool | int | float | str):
            result[name] = value
        elif isinstance(value, list | tuple) and all(isinstance(v, int) for v in value):
            result[name] = tuple(value)
    weight = args.get("weight")
    if "stride" in args and "kernel_size" not in result and weight is not None:
        result["kernel_size"] = tuple(weight.shape[2:])
    return result
