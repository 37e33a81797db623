"""Statistics of a normalisation that is written out, taken over the kept channels only."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.network import Network
from autoprune.pruning._sites import Keep, arguments_of, op_name

#: Ops that tracing lets run over a pruned dimension where they only normalise.
STATISTICS = ("mean", "var", "std")


def mask_of(network: Network, node: fx.Node, keep: Keep) -> Tensor | None:
    """Which entries a statistic is taken over: 1 in the other dimensions; None where all are."""
    source, dims = node.args[0], arguments_of(node).get("dim")
    labels: Any = network.labels.get(getattr(source, "name", ""), ())
    if not dims or not labels:
        return None
    taken = {dim % len(labels) for dim in dims}
    found = torch.ones([1] * len(labels), dtype=torch.bool)
    for dim, label in enumerate(labels):
        if dim in taken and label is not None:
            shape = [-1 if d == dim else 1 for d in range(len(labels))]
            found = found & torch.from_numpy(keep[label]).view(shape)
    return None if bool(found.all()) else found.to(node.meta["val"].device)


def masked(node: fx.Node, graph: fx.Graph, source: fx.Node, where: fx.Node) -> fx.Node:
    """The node that stands for a statistic in the masked network's graph."""
    values = arguments_of(node)
    correction = None
    if op_name(node) != "mean":
        correction = values.get("correction")
        if correction is None:
            correction = int(values.get("unbiased", True))
    call = (source, where, tuple(values["dim"]), values["keepdim"], correction)
    made = graph.call_function(masked_statistic, (*call, op_name(node) == "std"))
    dtype = values.get("dtype")
    return made if dtype is None else graph.call_method("to", (made, dtype))


def masked_statistic(
    x: Tensor,
    where: Tensor,
    dims: tuple[int, ...],
    keepdim: bool,
    correction: float | None,
    root: bool,
) -> Tensor:
    """Mean, variance or standard deviation of the entries of `x` at which a mask is set.

    Args:
        x: any tensor.
        where: of the rank of `x`; of size 1 in the dimensions along which nothing is left out.
        dims: that the statistic is taken over.
        keepdim: keep them, at size 1.
        correction: of a variance's number of entries; None for the mean.
        root: the standard deviation in the variance's place.
    """
    set_ = where.to(x.dtype)
    repeated = prod(x.shape[d] for d in dims if where.shape[d] == 1)
    count = set_.sum() * repeated
    result = (x * set_).sum(dims, keepdim=True) / count
    if correction is not None:
        centred = (x - result) * set_
        result = centred.square().sum(dims, keepdim=True) / (count - correction).clamp(min=0)
    result = result.sqrt() if root else result
    return result if keepdim else result.squeeze(dims)
