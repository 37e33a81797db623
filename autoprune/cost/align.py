"""Which kernel of the network each node of the runtime stands for.

A runtime fuses, renames and inserts nodes. Every node's time is charged to exactly one kernel of
the network, so that the charges add up to the whole run: to the kernel it names, else to a heavy
kernel of its kind and shape in order, else (a layout change that the runtime put in) to the kernel
that comes next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.device import KernelTime
from autoprune.core.workload import Ints
from autoprune.cost.layout import Layout
from autoprune.cost.signatures import HEAVY

#: Kinds of heavy runtime nodes, by a pattern on the runtime's op type.
_KINDS = (
    (re.compile(r"conv.?transpose|deconv", re.I), "conv_transpose"),
    (re.compile(r"conv", re.I), "conv"),
    (re.compile(r"gemm|matmul|linear|fullyconnected|addmm", re.I), "linear"),
    (re.compile(r"attention", re.I), "attention"),
)
_DECORATION = re.compile(r"(^node_|_nchwc$|_token_\d+$|/.*$)")

#: The exporter's name of a normalisation.
_NORM = re.compile(r"^_native_(\w+?)_legit(?:_no_training)?")


def charge(layout: Layout, kept: Ints, times: Sequence[KernelTime]) -> Floats:
    """Time of each kernel of a network, in ms; 0 for one that was fused into another.

    Args:
        layout: K kernels.
        kept: (G,) of the candidate that was run.
        times: the runtime's nodes, in the order of execution.

    Returns:
        (K,) milliseconds; their sum is that of `times`.
    """
    index = {k.name: i for i, k in enumerate(layout.kernels)}
    layers: dict[str, list[int]] = {}
    for i, kernel in enumerate(layout.kernels):
        layers.setdefault(kernel.layer, []).append(i)
    targets = [_named(layout, t, index, layers) for t in times]
    _in_order(layout, kept, times, targets)
    result = np.zeros(len(layout.kernels))
    pending = 0.0
    last = None
    for time, target in zip(times, targets, strict=True):
        if target is None:
            pending += time.latency_ms
        else:
            result[target] += time.latency_ms + pending
            pending, last = 0.0, target
    if pending:
        result[len(result) - 1 if last is None else last] += pending
    return result


def _named(
    layout: Layout, time: KernelTime, index: dict[str, int], layers: dict[str, list[int]]
) -> int | None:
    """The kernel that a node's names tell: the heavy one of those it covers, else the first.

    A heavy node that is named only after the light ops fused into it stands for the heavy kernel
    before the first of those.
    """
    kind = _kind(time.op)
    found: list[int] = []
    for name in (*time.layers, time.name):
        plain = _plain_name(name)
        if plain in index:
            found.append(index[plain])
            continue
        for path in (name, name.rsplit(".", 1)[0]):
            heavy = [i for i in layers.get(path, ()) if layout.kernels[i].op in HEAVY]
            if path and len(heavy) == 1 and kind == _plain(layout.kernels[heavy[0]].op):
                found.append(heavy[0])
                break
    heavy = [i for i in found if layout.kernels[i].op in HEAVY]
    if heavy:
        return heavy[0]
    if kind is None or not found:
        return found[0] if found and kind is None else None
    before = range(min(found) - 1, -1, -1)
    return next((i for i in before if _plain(layout.kernels[i].op) == kind), None)


def _plain_name(name: str) -> str:
    """A runtime's or exporter's name of a node as the traced graph has it."""
    return _NORM.sub(r"\1", _DECORATION.sub("", name))


def _in_order(
    layout: Layout, kept: Ints, times: Sequence[KernelTime], targets: list[int | None]
) -> None:
    """Give heavy nodes without a name the next free heavy kernel of their kind and shape."""
    taken = {t for t in targets if t is not None}
    emptied = layout.emptied(kept[None])[0]
    free: dict[str, list[int]] = {}
    for i, kernel in enumerate(layout.kernels):
        if kernel.op in HEAVY and i not in taken and not emptied[i]:
            free.setdefault(_plain(kernel.op), []).append(i)
    for n, time in enumerate(times):
        kind = _kind(time.op)
        if kind is None or targets[n] is not None or not free.get(kind):
            continue
        candidates = free[kind]
        match = next((i for i in candidates if _fits(layout, i, kept, time)), None)
        if match is not None:
            candidates.remove(match)
            targets[n] = match


def _fits(layout: Layout, index: int, kept: Ints, time: KernelTime) -> bool:
    """Whether a node's weights have the kernel's channel counts (padded ones count as equal)."""
    if len(time.input_shapes) < 2 or len(time.input_shapes[1]) < 2:
        return True
    x = layout.channels([index], kept[None])[0, 0]
    shape = sorted(time.input_shapes[1][:2])
    spatial = "x".join(map(str, time.input_shapes[1][2:]))
    kernel = layout.kernels[index]
    if spatial and f"kernel_size={spatial}" not in kernel.signature:
        return False
    padded = ({-(-int(c) // b) * b for b in (1, 4, 8, 16, 32, 64)} for c in sorted(x[:2]))
    return all(s in sizes for sizes, s in zip(padded, shape, strict=False))


def _kind(op: str) -> str | None:
    return next((kind for pattern, kind in _KINDS if pattern.search(op)), None)


def _plain(op: str) -> str:
    if op.startswith("conv_transpose"):
        return "conv_transpose"
    if op.startswith("conv"):
        return "conv"
    return "linear" if op in ("matmul", "bmm") else op
