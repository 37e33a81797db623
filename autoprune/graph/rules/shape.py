"""Reshaping: dimensions are split, merged, moved and repeated."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from autoprune.core.workload import Ints
from autoprune.graph.names import words
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value


@rule(
    *words("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"),
    *words("_reshape_alias ravel squeeze_ unsqueeze_ atleast_1d"),
)
def reshape(op: Op) -> Labels:
    """Any change of shape that keeps the order of the elements."""
    x = op.first
    op.weight = x.weight
    return reshaped(op, x, op.shape)


def reshaped(op: Op, x: Value, shape: tuple[int, ...]) -> Labels:
    """Labels of a tensor after a reshape.

    The dimensions fall into blocks of equal product; in each, every input dimension is split at
    the boundaries of the output dimensions, and what falls into one output dimension is merged.
    """
    result: list[Ints | None] = [None] * len(shape)
    inputs = [(size, label) for size, label in zip(x.shape, x.labels, strict=True) if size != 1]
    outputs = [(dim, size) for dim, size in enumerate(shape) if size != 1]
    while inputs and outputs:
        taken, given = [inputs.pop()], [outputs.pop()]
        while (a := prod(s for s, _ in taken)) != (b := prod(s for _, s in given)):
            if (a < b and not inputs) or (a > b and not outputs):
                break
            if a < b:
                taken.insert(0, inputs.pop())
            else:
                given.insert(0, outputs.pop())
        for (dim, _), label in zip(given, _block(op, taken, given), strict=True):
            result[dim] = label
    return tuple(result)


def _block(
    op: Op, taken: list[tuple[int, Ints | None]], given: list[tuple[int, int]]
) -> list[Ints | None]:
    if all(label is None for _, label in taken):
        return [None] * len(given)
    ends_in = _ends([size for size, _ in taken])
    ends_out = _ends([size for _, size in given])
    ends = sorted({*ends_in, *ends_out})
    if any(b % a for a, b in pairwise(ends)):
        for _, label in taken:
            op.freeze(label, f"a reshape mixes dimensions ({op.where()})")
        return [None] * len(given)
    factors: dict[int, Ints | None] = {}
    for (size, label), high in zip(taken, ends_in[:-1], strict=True):
        factors.update(_split(op, label, size, high, ends))
    result: list[Ints | None] = []
    for (_, size), high in zip(given, ends_out[:-1], strict=True):
        low = high // size
        inside = [end for end in ends if low <= end < high]
        result.append(_merge(op, [(factors[end], _next(ends, end) // end) for end in inside]))
    return result


def _ends(sizes: list[int]) -> list[int]:
    """Suffix products: [prod(sizes), ..., sizes[-1], 1]."""
    ends = [1]
    for size in reversed(sizes):
        ends.insert(0, ends[0] * size)
    return ends


def _next(ends: list[int], end: int) -> int:
    return ends[ends.index(end) + 1]


def _split(
    op: Op, label: Ints | None, size: int, high: int, ends: list[int]
) -> dict[int, Ints | None]:
    """Split one dimension at every boundary inside it; keyed by the lower boundary."""
    low = high // size
    inside = [end for end in ends if low <= end < high]
    if label is None:
        return dict.fromkeys(inside)
    factors: dict[int, Ints | None] = {}
    rest: Ints | None = label
    for end in reversed(inside[1:]):
        if rest is None:
            factors[end] = None
        else:
            factors[end], rest = op.atoms.split(rest, len(rest) // (end // low))
    factors[low] = rest
    return factors


def _merge(op: Op, factors: list[tuple[Ints | None, int]]) -> Ints | None:
    """Merge factors, the fastest first."""
    label, size = factors[0]
    for outer, count in factors[1:]:
        if label is None and outer is not None:
            label = np.repeat(outer, size)
        elif label is not None and outer is None:
            label = np.tile(label, count)
        elif label is not None and outer is not None:
            label = op.atoms.merge(outer, label)
        size *= count
    return label


def _permuted(op: Op, order: list[int]) -> Labels:
    op.weight = op.first.weight
    return tuple(op.first.labels[d] for d in order)


@rule("permute", "transpose", "t", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint", "transpose_")
def permute(op: Op) -> Labels:
    """Dimensions change places."""
    ndim = op.first.ndim
    if op.name == "permute":
        return _permuted(op, [op.dim(d, ndim) for d in op["dims"]])
    order = list(range(ndim))
    if op.name == "numpy_T":
        return _permuted(op, order[::-1])
    if op.name in ("t", "mT", "adjoint"):
        a, b = (ndim - 2, ndim - 1) if ndim > 1 else (0, 0)
    else:
        names = ("dim0", "axis0"), ("dim1", "axis1")
        a, b = (op.dim(next(op[n] for n in pair if n in op.args), ndim) for pair in names)
    order[a], order[b] = order[b], order[a]
    return _permuted(op, order)


@rule("movedim", "moveaxis")
def movedim(op: Op) -> Labels:
    """Some dimensions move, the others close up."""
    ndim = op.first.ndim
    source, target = op["source"], op["destination"]
    source = [op.dim(d, ndim) for d in ([source] if isinstance(source, int) else source)]
    target = [op.dim(d, ndim) for d in ([target] if isinstance(target, int) else target)]
    order = [d for d in range(ndim) if d not in source]
    for place, dim in sorted(zip(target, source, strict=True)):
        order.insert(place, dim)
    return _permuted(op, order)


@rule("expand", "expand_as", "broadcast_to")
def expand(op: Op) -> Labels:
    """A repeated dimension is the same everywhere: any part of it will do."""
    x, shape = op.first, op.shape
    added = len(shape) - x.ndim
    labels: list[Ints | None] = []
    for position, size in enumerate(shape):
        dim = position - added
        if dim >= 0 and x.shape[dim] == size:
            labels.append(x.labels[dim])
        else:
            labels.append(op.atoms.fresh(size))
    op.weight = x.weight and prod(shape) == prod(x.shape)
    return tuple(labels)


@rule("repeat", "tile")
def repeat(op: Op) -> Labels:
    """A dimension is laid end to end."""
    x, shape = op.first, op.shape
    added = len(shape) - x.ndim
    labels: list[Ints | None] = []
    for position, size in enumerate(shape):
        dim = position - added
        label = x.labels[dim] if dim >= 0 else None
        if dim < 0 or (x.shape[dim] == 1 and size > 1):
            label = op.atoms.fresh(size)
        elif label is not None:
            label = np.tile(label, size // x.shape[dim])
        labels.append(label)
    return tuple(labels)


@rule("repeat_interleave")
def repeat_interleave(op: Op) -> Labels:
    """Each index is repeated."""
    x = op.first
    dim, repeats = op.args.get("dim"), op.args.get("repeats")
    if dim is None or not isinstance(repeats, int):
        op.freeze_all(x, f"a repeat of a form that has no rule ({op.where()})")
        return op.inert()  # type: ignore[return-value]
    labels = list(x.labels)
    place = op.dim(dim, x.ndim)
    label = labels[place]
    if x.shape[place] == 1:
        labels[place] = op.atoms.fresh(repeats)
    elif label is not None:
        labels[place] = np.repeat(label, repeats)
    return tuple(labels)


@rule("pixel_shuffle")
def pixel_shuffle(op: Op) -> Labels:
    """Channels (C r^2, H, W) → (C, H r, W r): the channels left over are the units."""
    return _outer(op, op["upscale_factor"] ** 2, -3)


@rule("pixel_unshuffle")
def pixel_unshuffle(op: Op) -> Labels:
    """Channels (C, H r, W r) → (C r^2, H, W)."""
    return _spread(op, op["downscale_factor"] ** 2, -3)


@rule("im2col")
def im2col(op: Op) -> Labels:
    """Channels (C, H, W) → (C k^2, positions)."""
    x = op.first
    label = x.labels[-3]
    spread = None if label is None else np.repeat(label, prod(op["kernel_size"]))
    return (*x.labels[:-3], spread, None)


@rule("col2im")
def col2im(op: Op) -> Labels:
    """Channels (C k^2, positions) → (C, H, W)."""
    return (*_outer(op, prod(op["kernel_size"]), -2), None)


def _outer(op: Op, inner: int, dim: int) -> Labels:
    """Keep the slow factor of a dimension; its fast one, of `inner`, goes elsewhere."""
    x = op.first
    labels = list(x.labels)
    label = labels[dim]
    if label is not None:
        grouped = label.reshape(-1, inner)
        op.atoms.unify(grouped[:, :1], grouped)
        labels[dim] = grouped[:, 0]
        if len(grouped) == 1:
            op.freeze(label, f"{op.where()} leaves one channel of them")
    return tuple(labels)


def _spread(op: Op, inner: int, dim: int) -> Labels:
    labels = list(op.first.labels)
    label = labels[dim]
    if label is not None:
        labels[dim] = np.repeat(label, inner)
    elif op.first.shape[dim] == 1 and op.shape[dim] > 1:
        labels[dim] = None
    return tuple(labels)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: Op) -> Labels:
    """Channels (g, C / g) → (C / g, g)."""
    x, groups = op.first, op["groups"]
    batch, channels, *rest = x.shape
    split = (batch, groups, channels // groups, *rest)
    labels = reshaped(op, x, split)
    moved = (labels[0], labels[2], labels[1], *labels[3:])
    return reshaped(op, Value((batch, split[2], groups, *rest), moved), op.shape)
