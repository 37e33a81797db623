"""Where a pruned network and the dense one have features of the same shape, and how far apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Points compared at most, spread evenly over the depth.
MOST_POINTS = 6


class Taps:
    """Outputs of named submodules, caught as a network runs.

    Args:
        model: the network.
        names: dotted names of its submodules.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.values: dict[str, Tensor] = {}
        self._handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names
        ]

    def _hook(self, name: str) -> Any:
        def catch(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                self.values[name] = output

        return catch

    def take(self) -> dict[str, Tensor]:
        """What was caught since the last time."""
        values = dict(self.values)
        self.values.clear()
        return values

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()


def points(
    model: nn.Module, teacher: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, ...]:
    """Submodules with children whose outputs have one shape in both networks; outermost ones.

    In a residual network with pruned inner channels these are its stages. Where a stage is
    a `ModuleList`, its blocks are found, and some of them taken, evenly spaced.

    Args:
        model: the pruned network, in eval mode.
        teacher: the dense one, in eval mode.
        args: positional inputs of one batch.
        kwargs: keyword inputs.
    """
    shapes = []
    for network in (model, teacher):
        names = [name for name, module in network.named_modules() if name and any_child(module)]
        with tapped(network, names) as taps:
            with torch.no_grad():
                network(*args, **kwargs)
            shapes.append({name: value.shape for name, value in taps.take().items()})
    own, dense = shapes
    equal = [name for name in own if dense.get(name) == own[name] and len(own[name]) > 2]
    found = [
        name
        for name in equal
        if not any(name.startswith(f"{other}.") for other in equal if other != name)
    ]
    if len(found) <= MOST_POINTS:
        return tuple(found)
    step = len(found) / MOST_POINTS
    return tuple(found[int((i + 1) * step) - 1] for i in range(MOST_POINTS))


def any_child(module: nn.Module) -> bool:
    """Whether a module is made of others."""
    return next(module.children(), None) is not None


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[Taps]:
    """Catch outputs in the block."""
    taps = Taps(model, names)
    try:
        yield taps
    finally:
        taps.remove()


def distance(own: dict[str, Tensor], dense: dict[str, Tensor]) -> Tensor:
    """Mean over the points of |own - dense|² / |dense|²; 0 is equal, 1 as far off as zeros are."""
    errors = []
    for name, wanted in dense.items():
        wanted = wanted.float()
        errors.append((own[name].float() - wanted).square().sum() / wanted.square().sum())
    return torch.stack(errors).mean()
