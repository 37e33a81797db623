"""Reductions and what else looks along a dimension: fixed along it, free across it."""

from __future__ import annotations

from autoprune.core.workload import Ints
from autoprune.graph.names import words
from autoprune.graph.network import Labels
from autoprune.graph.rules.elementwise import broadcast
from autoprune.graph.rules.registry import Op, Result, rule

_REDUCE = words(
    "mean sum nansum amax amin max min argmax argmin prod all any var std var_mean std_mean norm "
    "linalg_vector_norm logsumexp aminmax median nanmedian mode nanmean count_nonzero"
)

_ALONG = words(
    "softmax log_softmax _softmax _log_softmax cumsum cumprod cummax cummin logcumsumexp sort "
    "argsort topk flip roll kthvalue msort softmin"
)


def _dims(op: Op, ndim: int) -> list[int]:
    dims = op.args.get("dims", op.args.get("dim"))
    if dims is None or dims == []:
        return list(range(ndim))
    return [op.dim(d, ndim) for d in (dims if isinstance(dims, list | tuple) else [dims])]


@rule(*_REDUCE)
def reduce(op: Op) -> Result:
    """A statistic over a pruned dimension would change: it is fixed, but in a normalisation."""
    x = op.first
    if op.name in ("max", "min") and op.tensor("other") is not None:
        return broadcast(op, [x, op["other"]], op.shape)
    dims = _dims(op, x.ndim)
    for dim in dims if not op.normalises else []:
        op.freeze(x.labels[dim], f"its size enters the arithmetic: {op.where()} runs over it")
    kept: list[Ints | None] = []
    keepdim = len(op.shape) == x.ndim
    for dim, label in enumerate(x.labels):
        if dim not in dims:
            kept.append(label)
        elif keepdim:
            kept.append(None)
    return [tuple(kept)] * len(op.shapes) if len(op.shapes) > 1 else tuple(kept)


@rule(*_ALONG)
def along(op: Op) -> Result:
    """What is computed along a dimension depends on all of it."""
    x = op.first
    dims = _dims(op, x.ndim) if op.name != "topk" else [op.dim(op["dim"], x.ndim)]
    for dim in dims:
        op.freeze(x.labels[dim], f"{op.where()} runs along it")
    labels: Labels = tuple(None if d in dims else label for d, label in enumerate(x.labels))
    return [labels] * len(op.shapes) if len(op.shapes) > 1 else labels
