"""Normalisations that a forward writes out in ops: which means and variances belong to one.

RMSNorm written out is `x * rsqrt(mean(x²) + eps) * weight`, LayerNorm subtracts a mean too, global
response normalisation (Woo et al. 2023, ConvNeXt V2) divides by one. They are pruned as the norms
of torch.nn are: the statistic is taken over the channels that are kept. Any other mean over
channels tells something of all of them, and keeps its channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from autoprune.graph.names import words

#: Statistics that don't grow with the number of what they are taken over.
_STATISTICS = frozenset({"mean", "var", "std"})

#: What a statistic may go through before it meets what it was taken of.
_SCALAR = frozenset(
    words("add sub mul div pow sqrt rsqrt reciprocal neg square abs clamp clamp_min clamp_max")
    + words("to _to_copy float type_as clone contiguous expand expand_as slice squeeze unsqueeze")
    + words("view reshape")
)

#: What a tensor may go through between what is normalised and its statistic.
_POINTWISE = frozenset(
    words("add sub mul div pow square abs neg to _to_copy float type_as clone contiguous")
)

#: Where a statistic normalises.
_MEETS = frozenset(words("mul div sub"))


def normalising(graph: fx.Graph) -> frozenset[str]:
    """Names of the nodes whose statistic is only used to normalise what it was taken of."""
    return frozenset(
        node.name
        for node in graph.nodes
        if _name(node) in _STATISTICS
        and isinstance(node.args[0], fx.Node)
        and node.users
        and _normalises(node, _sources(node.args[0]))
    )


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name.removeprefix("aten::").rstrip("_")


def _sources(node: fx.Node) -> set[fx.Node]:
    """A node and what it is made of, element by element."""
    found = {node}
    waiting = [node]
    while waiting:
        last = waiting.pop()
        if _name(last) in _POINTWISE:
            new = [source for source in last.all_input_nodes if source not in found]
            found.update(new)
            waiting += new
    return found


def _normalises(statistic: fx.Node, sources: set[fx.Node]) -> bool:
    """Whether every use of a statistic is to shift or scale one of the sources by it."""
    for user in statistic.users:
        if not _tensors(user.meta.get("val")):  # a check of its type or size
            continue
        name = _name(user)
        others = [n for n in user.all_input_nodes if n is not statistic and _varies(n)]
        if name in _MEETS and any(not sources.isdisjoint(_sources(other)) for other in others):
            continue
        single = not others or name in ("type_as", "expand_as")
        if name not in _SCALAR or not single or not user.users:
            return False
        if not _normalises(user, sources):
            return False
    return True


def _tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _varies(node: fx.Node) -> bool:
    """Whether a node is a tensor of more than one number."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.ndim > 0
