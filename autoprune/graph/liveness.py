"""From when to when each activation is in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from autoprune.graph.names import words
from autoprune.graph.propagate import op_name

#: Always a view of the first input.
_VIEWS = set(
    words(
        "view _unsafe_view _reshape_alias unflatten squeeze unsqueeze view_as transpose permute t "
        "swapaxes swapdims movedim moveaxis numpy_T mT adjoint expand expand_as broadcast_to slice "
        "narrow select split split_with_sizes chunk tensor_split unbind alias detach lift_fresh "
        "dropout feature_dropout alpha_dropout unfold type_as lift"
    )
)

#: A view where the input is laid out for it.
_MAYBE = set(words("reshape flatten reshape_as ravel contiguous"))

_CAST = {"to", "float", "half", "double", "type_as"}


class Liveness:
    """Collects, node by node, which tensors are made and when they are last read."""

    def __init__(self) -> None:
        self._base: dict[fx.Node, fx.Node] = {}
        self._first: dict[fx.Node, int] = {}
        self._last: dict[fx.Node, int] = {}

    def input(self, node: fx.Node) -> None:
        """An input of the network."""
        self._make(node, -1)

    def item(self, node: fx.Node) -> None:
        """One of several outputs: it lives in what made it."""
        source = node.args[0]
        if isinstance(source, fx.Node) and source in self._base:
            self._base[node] = self._base[source]

    def call(self, node: fx.Node, index: int) -> None:
        """A kernel."""
        for source in node.all_input_nodes:
            base = self._base.get(source)
            if base is not None:
                self._last[base] = index
        viewed = self._viewed(node)
        if viewed is not None and viewed in self._base:
            self._base[node] = self._base[viewed]
        else:
            self._make(node, index)

    def output(self, node: fx.Node, count: int) -> None:
        """The network's outputs live to its end."""
        for source in node.all_input_nodes:
            base = self._base.get(source)
            if base is not None:
                self._last[base] = max(count - 1, -1)

    def spans(self) -> Iterator[tuple[fx.Node, int, int]]:
        """(node, first kernel, last kernel) of each tensor that takes memory."""
        for node, first in self._first.items():
            yield node, first, max(self._last[node], first)

    def _make(self, node: fx.Node, index: int) -> None:
        self._base[node] = node
        self._first[node] = index
        self._last[node] = index

    def _viewed(self, node: fx.Node) -> fx.Node | None:
        """The node whose memory this one's output is in, or None."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return None
        name = op_name(node)
        before, after = source.meta.get("val"), node.meta.get("val")
        if name.endswith("_") and not name.endswith("__"):
            return source
        if name in _VIEWS and not (name in _CAST and _cast(before, after)):
            return source
        if name in _MAYBE and isinstance(before, torch.Tensor) and before.is_contiguous():
            return source
        if name in _CAST and not _cast(before, after):
            return source
        return None


def _cast(before: object, after: object) -> bool:
    return not (
        isinstance(before, torch.Tensor)
        and isinstance(after, torch.Tensor)
        and before.dtype == after.dtype
    )
