"""Layers without channels: what is left of a group that is removed whole.

torch runs linear layers of no inputs or outputs, but neither convolutions nor BatchNorm. A
convolution that makes no channel gives an empty tensor of the right size; one that reads none
gives its bias everywhere, which is set to zero where a branch is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten
_CONVOLUTIONS = {
    aten.conv1d.default: 1,
    aten.conv1d.padding: 1,
    aten.conv2d.default: 2,
    aten.conv2d.padding: 2,
    aten.conv3d.default: 3,
    aten.conv3d.padding: 3,
}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> Tensor:
    """A convolution whose weight has no element: nothing, or its bias at every position.

    Args:
        x: (batch, channels, *spatial).
        weight: (0, inputs, *kernel) or (outputs, 0, *kernel).
        bias: (outputs,) or None.
        stride: of each spatial dimension.
        padding: of each spatial dimension, "valid" or "same".
        dilation: of each spatial dimension.

    Returns:
        (batch, outputs, *spatial).
    """
    sizes = []
    for d, size in enumerate(x.shape[2:]):
        reach = dilation[d] * (weight.shape[2 + d] - 1)
        by_name = {"same": reach, "valid": 0}
        added = by_name[padding] if isinstance(padding, str) else 2 * padding[d]
        sizes.append((size + added - reach - 1) // stride[d] + 1)
    shape = (x.shape[0], weight.shape[0], *sizes)
    if bias is None or not len(weight):
        return x.new_zeros(shape)
    return bias.view(1, -1, *[1] * len(sizes)).expand(shape).contiguous()


class _Empty:
    """A convolution that runs without channels, and as ever with them."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.numel():
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc,no-any-return]
        own: Any = self
        return convolve(input, weight, bias, own.stride, own.padding, own.dilation)


class EmptyConv1d(_Empty, nn.Conv1d):
    """`nn.Conv1d` that may have no input or output channels."""


class EmptyConv2d(_Empty, nn.Conv2d):
    """`nn.Conv2d` that may have no input or output channels."""


class EmptyConv3d(_Empty, nn.Conv3d):
    """`nn.Conv3d` that may have no input or output channels."""


class _EmptyNorm:
    def forward(self, input: Tensor) -> Tensor:
        if not input.shape[1]:
            return input
        return super().forward(input)  # type: ignore[misc,no-any-return]


class EmptyBatchNorm1d(_EmptyNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` that may have no channels."""


class EmptyBatchNorm2d(_EmptyNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that may have no channels."""


class EmptyBatchNorm3d(_EmptyNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` that may have no channels."""


#: Class → the one that runs without channels too.
EMPTY: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: EmptyConv1d,
    nn.Conv2d: EmptyConv2d,
    nn.Conv3d: EmptyConv3d,
    nn.BatchNorm1d: EmptyBatchNorm1d,
    nn.BatchNorm2d: EmptyBatchNorm2d,
    nn.BatchNorm3d: EmptyBatchNorm3d,
}


def plain(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of torch.nn that a class of this file stands for; any other as it is."""
    return next((usual for usual, empty in EMPTY.items() if kind is empty), kind)


def settle(model: nn.Module) -> None:
    """Give layers that were left without channels a class that runs so, in place."""
    for module in model.modules():
        kind = EMPTY.get(type(module))
        if kind is None:
            continue
        tensor: Any = getattr(module, "weight", None)
        width = getattr(module, "num_features", 1)
        if width == 0 or (tensor is not None and not tensor.numel()):
            module.__class__ = kind


def silence(model: nn.Module, names: Iterable[str]) -> None:
    """Set biases and running means of a removed branch to zero, for good: none is trained on."""
    for name in names:
        path, _, attribute = name.rpartition(".")
        tensor: Tensor = getattr(model.get_submodule(path), attribute)
        with torch.no_grad():
            tensor.zero_()
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)


def call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an op of a traced graph, whose tensors may be without channels."""
    dims = _CONVOLUTIONS.get(target)
    if dims is not None:
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        weight = given["weight"]
        if not weight.numel():
            stride, padding, dilation = (
                _each(given.get(name, usual), dims)
                for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1))
            )
            return convolve(given["input"], weight, given.get("bias"), stride, padding, dilation)
    elif target is aten.batch_norm.default:
        x = args[0] if args else kwargs["input"]
        if not x.shape[1]:
            return x
    return target(*args, **kwargs)


def _each(value: Any, dims: int) -> Any:
    """A setting for each spatial dimension; "same" and "valid" as they are."""
    if isinstance(value, str):
        return value
    found = list(value) if isinstance(value, (list, tuple)) else [value]
    return found if len(found) == dims else found * dims
