"""Taking parts of a tensor, and putting parts together."""

from __future__ import annotations

import numpy as np

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, Result, rule
from autoprune.graph.values import Value


def part(op: Op, x: Value, dim: int, start: int, stop: int) -> Labels:
    """Labels of x[start:stop] along a dimension."""
    labels = list(x.labels)
    label = labels[dim]
    if label is not None and (start, stop) != (0, len(label)):
        labels[dim] = label[start:stop]
        op.cuts += [label[:start], label[:stop]]
        if stop - start == 1:
            op.freeze(label[start:stop], f"a single channel is sliced out ({op.where()})")
    return tuple(labels)


@rule("slice", "narrow")
def slice_(op: Op) -> Labels:
    """A range of indices; a stride does not commute with pruning."""
    x = op.first
    op.weight = x.weight
    dim, size = op.dim(op["dim"], x.ndim), x.shape[op["dim"]]
    start = op["start"] or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    if op.args.get("step", 1) != 1:
        op.freeze(x.labels[dim], f"a slice with a stride ({op.where()})")
        return tuple(None if d == dim else label for d, label in enumerate(x.labels))
    return part(op, x, dim, start, start + op.shape[dim])


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(op: Op) -> Result:
    """Consecutive ranges."""
    x = op.first
    op.weight = x.weight
    dim, start = op.dim(op["dim"], x.ndim), 0
    result = []
    for shape in op.shapes:
        result.append(part(op, x, dim, start, start + shape[dim]))
        start += shape[dim]
    return result


@rule("select")
def select(op: Op) -> Labels:
    """One index of a dimension, which must stay where it is."""
    x = op.first
    op.weight = x.weight
    return _select(op, x, op.dim(op["dim"], x.ndim))


@rule("unbind")
def unbind(op: Op) -> Result:
    """Every index of a dimension."""
    x = op.first
    op.weight = x.weight
    return [_select(op, x, op.dim(op["dim"], x.ndim))] * len(op.shapes)


def _select(op: Op, x: Value, dim: int) -> Labels:
    op.freeze(x.labels[dim], f"single indices are taken from it ({op.where()})")
    return tuple(label for d, label in enumerate(x.labels) if d != dim)


@rule("cat", "concat", "concatenate", "hstack")
def cat(op: Op) -> Labels:
    """Channels of one after those of the other."""
    tensors = [value for value in op["tensors"] if value.shape != (0,)]
    ndim = len(op.shape)
    dim = op.dim(op.args.get("dim", op.args.get("axis", 1 if ndim > 1 else 0)), ndim)
    op.weight = all(value.weight for value in tensors)
    labels: list[Ints | None] = []
    for d in range(ndim):
        if d == dim:
            labels.append(_joined(op, tensors, d))
        else:
            labels.append(_tied(op, tensors, d))
    return tuple(labels)


@rule("stack")
def stack(op: Op) -> Labels:
    """A new dimension, which is fixed."""
    tensors = list(op["tensors"])
    op.weight = all(value.weight for value in tensors)
    labels = [_tied(op, tensors, d) for d in range(tensors[0].ndim)]
    labels.insert(op.dim(op["dim"], len(op.shape)), None)
    return tuple(labels)


def _joined(op: Op, tensors: list[Value], dim: int) -> Ints | None:
    if all(value.labels[dim] is None for value in tensors):
        return None
    parts = [op.solid(value.labels[dim], value.shape[dim]) for value in tensors]
    return np.concatenate(parts)


def _tied(op: Op, tensors: list[Value], dim: int) -> Ints | None:
    label = tensors[0].labels[dim]
    for value in tensors[1:]:
        if label is not None or value.labels[dim] is not None:
            label = op.unify(label, value.labels[dim])
    return label


@rule("pad", "constant_pad_nd")
def pad(op: Op) -> Labels:
    """Constant padding makes channels that anything may be tied to; other padding looks inside."""
    x, pads = op.first, list(op["pad"])
    labels = list(x.labels)
    constant = op.args.get("mode", "constant") == "constant"
    for place in range(len(pads) // 2):
        before, after = pads[2 * place : 2 * place + 2]
        dim = x.ndim - 1 - place
        label = labels[dim]
        if before == after == 0:
            continue
        if label is None and x.shape[dim] == 1:
            labels[dim] = None
        elif label is None:
            continue
        elif not constant or before < 0 or after < 0:
            op.freeze(label, f"{op.args.get('mode', 'negative')} padding ({op.where()})")
            labels[dim] = None
        else:
            left, right = op.atoms.fresh(before), op.atoms.fresh(after)
            labels[dim] = np.concatenate([left, label, right])
    return tuple(labels)


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def mirror(op: Op) -> Labels:
    """Pads the last dimensions."""
    x = op.first
    count = int(op.name[-2])
    for label in x.labels[-count:]:
        op.freeze(label, f"{op.where()} looks along it")
    return (*x.labels[:-count], *[None] * count)


@rule("index_select")
def index_select(op: Op) -> Labels:
    """Indices picked by a tensor."""
    x = op.first
    dim = op.dim(op["dim"], x.ndim)
    op.freeze(x.labels[dim], f"its indices are picked by a tensor ({op.where()})")
    return tuple(None if d == dim else label for d, label in enumerate(x.labels))


@rule("index")
def index(op: Op) -> Labels:
    """Advanced indexing: what is indexed is fixed, the rest passes."""
    x, indices = op.first, list(op["indices"])
    taken = [d for d, value in enumerate(indices) if value is not None]
    if len(taken) == 1 and (known := indices[taken[0]].known) is not None:
        return _listed(op, x, taken[0], known)
    for dim, value in enumerate(indices):
        if value is None:
            continue
        op.freeze_all(value, f"indices are fixed ({op.where()})")
        covered = range(dim, dim + 1)
        for d in covered:
            op.freeze(x.labels[d], f"its indices are picked by a tensor ({op.where()})")
    added = len(op.shape) - (x.ndim - len(taken))
    rest = [label for d, label in enumerate(x.labels) if d not in taken]
    adjacent = taken == list(range(taken[0], taken[0] + len(taken)))
    place = taken[0] if adjacent else 0
    return (*rest[:place], *[None] * added, *rest[place:])


def _listed(op: Op, x: Value, dim: int, picked: Ints) -> Labels:
    """Indices that forward lists: they must stay where they are, from the start or the end."""
    label = x.labels[dim]
    if label is not None:
        for place in picked:
            reason = f"single indices are taken from it ({op.where()})"
            op.freeze(label[: place + 1] if place >= 0 else label[place:], reason)
    return tuple(None if d == dim else label for d, label in enumerate(x.labels))


@rule("gather")
def gather(op: Op) -> Labels:
    """Indices picked along a dimension; across the others the indices are cut as the tensor is."""
    x, picked, dim = op.first, op["index"], op.dim(op["dim"], op.first.ndim)
    result: list[Ints | None] = []
    for d, (label, other) in enumerate(zip(x.labels, picked.labels, strict=True)):
        if d == dim:
            op.freeze(label, f"its indices are picked by a tensor ({op.where()})")
            result.append(other)
        elif x.shape[d] == picked.shape[d]:
            both = label is not None or other is not None
            result.append(op.unify(label, other) if both else None)
        else:
            for one in (label, other):
                op.freeze(one, f"{op.where()} takes a part of it")
            result.append(None)
    return tuple(result)


@rule("tril", "triu")
def triangle(op: Op) -> Labels:
    """Depends on the position in the last two dimensions."""
    x = op.first
    for label in x.labels[-2:]:
        op.freeze(label, f"{op.where()} depends on the position")
    return (*x.labels[:-2], None, None)


@rule("unfold")
def unfold(op: Op) -> Labels:
    """Windows along a dimension."""
    x = op.first
    dim = op.dim(op["dimension"], x.ndim)
    op.freeze(x.labels[dim], f"windows run along it ({op.where()})")
    return (*(None if d == dim else label for d, label in enumerate(x.labels)), None)
