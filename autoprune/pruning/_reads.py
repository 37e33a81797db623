"""Whether a model's forward looks at widths: `b, c, h, w = x.shape` and works with c.

Constants that a forward works out from widths stand in the traced graph like any others. So where
a forward looks at a width that is pruned, it can't be told from the graph what it will do in the
pruned network, and it must be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autoprune.graph.network import Network
from autoprune.pruning._compare import outputs_of

#: What is noted of a look: (number of dimensions, dimension, size).
Look = tuple[int, int, int]

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
#: Functions that look at every dimension of their first argument out of sight.
_OPAQUE = (Tensor.numel, Tensor.nelement, Tensor.__len__, F.multi_head_attention_forward)
_FOUND: WeakKeyDictionary[Network, bool] = WeakKeyDictionary()


def reads_widths(network: Network) -> bool:
    """Whether forward looks at a size that may be a pruned one; runs it once a network."""
    if network not in _FOUND:
        _FOUND[network] = bool(_looks(network) & _widths(network))
    return _FOUND[network]


def _widths(network: Network) -> set[Look]:
    """Every dimension of every tensor of the graph that may be pruned."""
    found: set[Look] = set()
    entry: Any
    for entry in network.labels.values():
        several = any(isinstance(part, tuple) for part in entry)
        for labels in entry if several else (entry,):
            for dim, label in enumerate(labels):
                if label is not None and bool((label >= 0).any()):
                    found.add((len(labels), dim, len(label)))
    return found


def _looks(network: Network) -> set[Look]:
    looks: set[Look] = set()
    try:
        with _Watch(lambda *look: looks.add(look)):
            outputs_of(network.model, network)
    except Exception:  # the user's forward, given sizes that are a plain tuple: any error
        return _widths(network)
    return looks


class _Sizes(tuple[int, ...]):
    """A shape that tells which of its dimensions are looked at."""

    note: Callable[[int, int, int], Any]

    def _all(self) -> tuple[int, ...]:
        plain = tuple(super().__iter__())
        for dim, size in enumerate(plain):
            self.note(len(plain), dim, size)
        return plain

    def __getitem__(self, index: Any) -> Any:
        plain = tuple(super().__iter__())
        chosen = range(len(plain))[index]
        for dim in [chosen] if isinstance(chosen, int) else chosen:
            self.note(len(plain), dim, plain[dim])
        return plain[index] if isinstance(chosen, int) else torch.Size(plain[index])

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == other

    def __ne__(self, other: object) -> bool:
        return self._all() != other

    def __hash__(self) -> int:
        return hash(self._all())

    def __add__(self, other: Any) -> Any:
        return torch.Size((*self._all(), *other))

    def numel(self) -> int:
        return torch.Size(self._all()).numel()


class _Watch(TorchFunctionMode):
    """Notes every look at a tensor's size."""

    def __init__(self, note: Callable[[int, int, int], Any]) -> None:
        super().__init__()
        self.note = note

    def _sizes(self, shape: Any) -> _Sizes:
        sizes = _Sizes(shape)
        sizes.note = self.note
        return sizes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _SHAPE or (func is Tensor.size and len(args) == 1 and not kwargs):
            return self._sizes(func(*args))
        if func is Tensor.size:
            return self._sizes(args[0].size())[args[1] if len(args) > 1 else kwargs["dim"]]
        if func in _OPAQUE:
            self._sizes(args[0].size())._all()
        return func(*_plain(args), **{k: _plain(v) for k, v in kwargs.items()})


def _plain(value: Any) -> Any:
    """Shapes among an op's arguments as they are; every dimension counts as looked at."""
    if isinstance(value, _Sizes):
        return torch.Size(value._all())
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value
