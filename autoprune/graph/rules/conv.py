"""Convolutions, transposed ones too, with groups."""

from __future__ import annotations

from autoprune.core.workload import Ints
from autoprune.graph.atoms import Product
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value


@rule("conv1d", "conv2d", "conv3d", "convolution")
def conv(op: Op) -> Labels:
    """Weight (out, in / groups, *kernel): dim 0 makes channels, dim 1 consumes them."""
    return _conv(op, transposed=bool(op.args.get("transposed", False)))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(op: Op) -> Labels:
    """Weight (in, out / groups, *kernel)."""
    return _conv(op, transposed=True)


def _conv(op: Op, transposed: bool) -> Labels:
    x, weight, bias = op["input"], op["weight"], op.tensor("bias")
    groups = int(op["groups"])
    channel = x.ndim - (weight.ndim - 1)
    for dim in range(channel + 1, x.ndim):
        op.freeze(x.labels[dim], f"a convolution runs along it ({op.where()})")
    if not weight.weight:
        _freeze(op, x, weight, bias, op.shape[channel])
        return op.inert()  # type: ignore[return-value]
    for label in weight.labels[2:]:
        op.freeze(label, "a kernel's size is fixed")
    if groups == 1:
        made, used = weight.labels[:2] if not transposed else weight.labels[1::-1]
        if x.labels[channel] is not None or used is not None:
            op.unify(x.labels[channel], used)
    elif transposed:
        made, used = _grouped_transposed(op, x, weight, channel, groups)
    else:
        made, used = _grouped(op, x, weight, channel, groups)
    if used is not None:
        op.atoms.consume(used)
    op.produce(made)
    if bias is not None and made is not None:
        made = op.unify(made, bias.labels[0])
    labels: list[Ints | None] = [None] * len(op.shape)
    labels[:channel] = x.labels[:channel]
    labels[channel] = made
    return tuple(labels)


def _prefer(groups: int, width: int) -> str:
    """Many small groups shrink by whole groups, few large ones by the position inside."""
    return "outer" if groups >= width else "inner"


def _grouped(
    op: Op, x: Value, weight: Value, channel: int, groups: int
) -> tuple[Ints | None, Ints | None]:
    """Tie input and output channels through the group dimension."""
    inputs = op.solid(x.labels[channel], x.shape[channel])
    made = op.solid(weight.labels[0], weight.shape[0])
    prefer = _prefer(groups, weight.shape[1])
    op.groups = op.atoms.fresh(groups)
    used = weight.labels[1]
    _tie(op, inputs, used, prefer)
    _tie(op, made, None, prefer)
    return made, used


def _grouped_transposed(
    op: Op, x: Value, weight: Value, channel: int, groups: int
) -> tuple[Ints | None, Ints | None]:
    """As `_grouped`, for a weight (in, out / groups, *kernel)."""
    inputs = op.solid(x.labels[channel], x.shape[channel])
    used = op.solid(weight.labels[0], weight.shape[0])
    op.atoms.unify(inputs, used)
    prefer = _prefer(groups, weight.shape[1])
    op.groups = op.atoms.fresh(groups)
    _tie(op, inputs, None, prefer)
    inner = weight.labels[1]
    made = op.groups if inner is None else op.atoms.merge(op.groups, inner, prefer)
    return made, used


def _tie(op: Op, channels: Ints, inner: Ints | None, prefer: str) -> None:
    """Say that channels are (groups, inner); `inner` None has no name of its own."""
    group = op.groups
    if group is None:
        raise ValueError("the group dimension has no atoms yet")
    if len(channels) == len(group):
        op.atoms.unify(group, channels)
        return
    width = len(channels) // len(group)
    if inner is None:
        inner = op.atoms.fresh(width)
    op.atoms.products.append(Product(group, inner, channels.reshape(-1, width), prefer))


def _freeze(op: Op, x: Value, weight: Value, bias: Value | None, made: int) -> None:
    reason = f"the weight of {op.where()} is computed, not a parameter"
    for value in (x, weight, bias):
        if value is not None:
            op.freeze_all(value, reason)
    channels = op.atoms.fresh(made)
    op.freeze(channels, reason)
    op.produce(channels)
