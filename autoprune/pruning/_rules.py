"""One rule per op: what the constants among its arguments become under a selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from autoprune.core.errors import SurgeryError
from autoprune.core.workload import Ints
from autoprune.pruning._sites import Keep, Site, along, count, op_name

aten = torch.ops.aten

#: (site, keep) → argument → new value; `target` among them is another op to call.
Rule = Callable[[Site, Keep], dict[str, Any]]


def _sizes(name: str) -> Rule:
    """A list with one size for each output dimension."""

    def rule(site: Site, keep: Keep) -> dict[str, Any]:
        sizes = list(site.arguments[name])
        for dim, label in enumerate(site.output):
            if label is not None and sizes[dim] != -1:
                sizes[dim] = site.size(sizes[dim], label, keep)
        return {name: sizes}

    return rule


def _unflatten(site: Site, keep: Keep) -> dict[str, Any]:
    sizes = list(site.arguments["sizes"])
    start = site.arguments["dim"] % (len(site.output) - len(sizes) + 1)
    for i, size in enumerate(sizes):
        label = site.output[start + i]
        if label is not None and size != -1:
            sizes[i] = site.size(size, label, keep)
    return {"sizes": sizes}


def _repeat(site: Site, keep: Keep) -> dict[str, Any]:
    name = "repeats" if "repeats" in site.arguments else "dims"
    repeats = [1] * (len(site.output) - len(site.arguments[name])) + list(site.arguments[name])
    offset = len(repeats) - len(site.inputs)
    for dim, label in enumerate(site.output):
        if label is None:
            continue
        before = along(site.inputs, dim - offset) if dim >= offset else None
        have = 1 if before is None else count(before, keep)
        if before is None and dim >= offset:
            have = len(label) // repeats[dim]
        repeats[dim] = _exact(site, count(label, keep), have)
    return {name: repeats}


def _repeat_interleave(site: Site, keep: Keep) -> dict[str, Any]:
    dim, repeats = site.arguments.get("dim"), site.arguments.get("repeats")
    if dim is None or not isinstance(repeats, int):
        return {}
    label, before = site.output[dim], along(site.inputs, dim)
    if label is None:
        return {}
    have = len(label) // repeats if before is None else count(before, keep)
    return {"repeats": _exact(site, count(label, keep), have)}


def _exact(site: Site, total: int, part: int) -> int:
    if part == 0 or total % part:
        raise SurgeryError(
            f"{site.node.name} ({op_name(site.node)}) repeats {part} kept indices to {total}, "
            "which is no whole number of times"
        )
    return total // part


def _split(site: Site, keep: Keep) -> dict[str, Any]:
    """chunk, split and split_with_sizes: equal parts as long as they stay what the op makes."""
    dim = site.arguments["dim"]
    label = along(site.inputs, dim)
    if label is None:
        return {}
    # A part that is frozen has no label of its own: it keeps its size.
    before = [int(value.shape[dim]) for value in site.node.meta["val"]]
    parts = [
        size if part[dim] is None else count(part[dim], keep)
        for part, size in zip(site.output, before, strict=True)
    ]
    op = op_name(site.node).removeprefix("unsafe_")
    if op == "chunk" and _by_step(parts, -(-sum(parts) // site.arguments["chunks"])):
        return {}
    if op == "split" and isinstance(site.arguments["split_size"], list):
        return {"split_size": parts}
    if op == "split" and _by_step(parts, parts[0]):
        return {"split_size": parts[0]}
    if op == "split_with_sizes":
        return {"split_sizes": parts}
    if op == "tensor_split" and parts == before:
        return {}
    return {"split_sizes": parts, "dim": dim, "target": aten.split_with_sizes.default}


def _by_step(parts: Sequence[int], step: int) -> bool:
    """Whether cutting into pieces of `step` gives these parts."""
    return all(part == step for part in parts[:-1]) and 0 < parts[-1] <= step


def _slice(site: Site, keep: Keep) -> dict[str, Any]:
    dim = site.arguments["dim"]
    label = along(site.inputs, dim)
    if label is None:
        return {}
    start, end, step = (site.arguments.get(n) for n in ("start", "end", "step"))
    taken = range(len(label))[slice(start, end, step)]
    kept = keep[label]
    if kept.all():
        return {}
    where = (np.cumsum(kept) - 1)[[i for i in taken if kept[i]]]
    if len(where) == 0:
        return {"start": 0, "end": 0}
    steps = np.unique(np.diff(where))
    if len(steps) > 1:
        raise SurgeryError(
            f"{site.node.name} takes every {step}th of some indices; the kept ones "
            f"{where.tolist()} of them are at no constant step"
        )
    stride = int(steps[0]) if len(steps) else 1
    first, last = int(where[0]), int(where[-1])
    if taken[0] > 0 and start is not None and start < 0:  # counted from the end
        first -= int(kept.sum())
    begin = first if taken[0] > 0 else start
    if stride == step == 1 and taken[-1] == len(label) - 1:  # up to the end, in whatever words
        return {"start": begin, "end": end, "step": step}
    return {"start": begin, "end": last + 1, "step": stride}


def _narrow(site: Site, keep: Keep) -> dict[str, Any]:
    label = along(site.inputs, site.arguments["dim"])
    if label is None:
        return {}
    start, length = site.arguments["start"], site.arguments["length"]
    first = count(label[:start], keep)
    return {"start": first, "length": count(label[start : start + length], keep)}


def _select(site: Site, keep: Keep) -> dict[str, Any]:
    label = along(site.inputs, site.arguments["dim"])
    if label is None or keep[label].all():
        return {}
    index = site.arguments["index"] % len(label)
    if not keep[label[index]]:
        raise SurgeryError(f"{site.node.name} selects index {index}, which is pruned")
    return {"index": count(label[:index], keep)}


def _pad(site: Site, keep: Keep) -> dict[str, Any]:
    """Sizes from the last dimension backwards; a negative one crops."""
    pads = list(site.arguments["pad"])
    rank = len(site.output)
    for pair in range(len(pads) // 2):
        dim = rank - 1 - pair
        before, after = along(site.inputs, dim), site.output[dim]
        for side in (0, 1):
            size = pads[2 * pair + side]
            if not isinstance(size, int) or size == 0:
                continue
            label = after if size > 0 else before
            if label is None:
                continue
            part = label[: abs(size)] if side == 0 else label[len(label) - abs(size) :]
            pads[2 * pair + side] = count(part, keep) * (1 if size > 0 else -1)
    return {"pad": pads}


def blocks(label: Ints, keep: Keep, groups: int, what: str) -> int:
    """How many of `groups` equal blocks of channels are left, all of them equal again.

    A convolution that is left without channels counts as one block.

    Raises:
        SurgeryError: they are not equal.
    """
    counts = keep[label].reshape(groups, -1).sum(axis=1)
    left = counts[counts > 0]
    if not len(left):
        return 1
    if len(np.unique(left)) != 1:
        raise SurgeryError(f"{what} must keep as much in each group, got {counts.tolist()}")
    return len(left)


def _conv(site: Site, keep: Keep) -> dict[str, Any]:
    groups, label = site.arguments["groups"], along(site.inputs, 1)
    if groups == 1 or label is None:
        return {}
    return {"groups": blocks(label, keep, groups, site.node.name)}


def _group_norm(site: Site, keep: Keep) -> dict[str, Any]:
    label = along(site.inputs, 1)
    if label is None:
        return {}
    return {"num_groups": blocks(label, keep, site.arguments["num_groups"], site.node.name)}


def _trailing(site: Site, keep: Keep) -> dict[str, Any]:
    shape = list(site.arguments["normalized_shape"])
    labels = site.inputs[len(site.inputs) - len(shape) :]
    return {
        "normalized_shape": [
            size if label is None else count(label, keep)
            for size, label in zip(shape, labels, strict=True)
        ]
    }


def _arange(site: Site, keep: Keep) -> dict[str, Any]:
    """The numbers that are left, as a list: a table that forward writes out, not a width."""
    label = site.output[0]
    if label is None or keep[label].all():
        return {}
    value = site.node.meta["val"]
    if any(isinstance(argument, fx.Node) for argument in site.arguments.values()):
        raise SurgeryError(f"{site.node.name} counts up to a size that is not fixed")
    start, end, step = (site.arguments.get(name) for name in ("start", "end", "step"))
    numbers = torch.arange(start or 0, end or 0, step or 1, dtype=value.dtype)
    kept = tuple(numbers[torch.from_numpy(keep[label])].tolist())
    return {"numbers": kept, "dtype": value.dtype, "device": value.device, "target": listed}


def listed(
    first: Any, numbers: Sequence[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor of numbers; what the op that is replaced was called with goes unread."""
    del first
    return torch.tensor(numbers, dtype=dtype, device=device)


_CONVOLUTIONS = [f"conv{d}d" for d in (1, 2, 3)] + ["conv_transpose1d"]
#: By the op's name.
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "expand", "full", "zeros", "ones"), _sizes("size")),
    **dict.fromkeys(
        ("broadcast_to", "new_zeros", "new_ones", "new_full", "new_empty", "empty"), _sizes("size")
    ),
    "reshape": _sizes("shape"),
    "unflatten": _unflatten,
    "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave": _repeat_interleave,
    "chunk": _split,
    "split": _split,
    "split_with_sizes": _split,
    "unsafe_chunk": _split,
    "unsafe_split": _split,
    "tensor_split": _split,
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    "pad": _pad,
    "constant_pad_nd": _pad,
    **dict.fromkeys(_CONVOLUTIONS, _conv),
    "conv_transpose2d": _conv,
    "conv_transpose3d": _conv,
    "group_norm": _group_norm,
    "arange": _arange,
    "layer_norm": _trailing,
    "rms_norm": _trailing,
}
