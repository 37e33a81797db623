"""Scaled dot-product attention: whole heads."""

from __future__ import annotations

import numpy as np

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels
from autoprune.graph.rules.matmul import HEAD
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value


@rule("scaled_dot_product_attention")
def attention(op: Op) -> Labels:
    """Query (..., heads, T, width): heads are tied, a key-value head with all its queries."""
    query, key, value, mask = op["query"], op["key"], op["value"], op.tensor("attn_mask")
    for tensor in (query, key, value):
        op.freeze(tensor.labels[-1], f"{HEAD} ({op.where()})")
        op.freeze(tensor.labels[-2], f"attention runs along it ({op.where()})")
    batch: list[Ints | None] = list(query.labels[:-2])
    for tensor in (key, value):
        _tie(op, batch, query, tensor, -3)
    if mask is not None:
        for label in mask.labels[-2:]:
            op.freeze(label, f"attention runs along it ({op.where()})")
        _tie(op, batch, query, mask, -3)
    return (*batch, None, None)


def _tie(op: Op, batch: list[Ints | None], query: Value, other: Value, first: int) -> None:
    """Tie the leading dimensions of `other` to those of the query, heads repeated if grouped."""
    for dim in range(first, -other.ndim - 1, -1):
        position = dim + 2
        size, wanted = other.shape[dim], query.shape[dim]
        label = other.labels[dim]
        if size == wanted and size > 1:
            batch[position] = op.unify(batch[position], label)
        elif size > 1:
            repeated = None if label is None else np.repeat(label, wanted // size)
            batch[position] = op.unify(batch[position], repeated)
