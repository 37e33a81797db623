"""What a chain of operations on each channel alone does: a scale and an offset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from autoprune.pruning._consumers import Consumer
from autoprune.pruning._walk import Walk


def affine(
    walk: Walk, layer: Consumer, start: fx.Node, chain: Sequence[fx.Node], weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and offset of each channel through a chain, found by sending 0 and 1 through it.

    Args:
        walk: runs the chain's nodes.
        layer: whose output goes through it.
        start: the node that the chain follows.
        chain: nodes, each reading the one before.
        weight: the layer's; gives the number of channels, dtype and device.

    Returns:
        scale and offset, (channels,) each.
    """
    shape = [1] * layer.node.meta["val"].ndim
    shape[layer.channel] = len(weight)

    def through(value: float) -> Tensor:
        result: Tensor = torch.full(shape, value, dtype=weight.dtype, device=weight.device)
        previous = start
        for step in chain:
            result = walk.call(step, {previous.name: result})
            previous = step
        return result.flatten()

    offset = through(0.0)
    return through(1.0) - offset, offset
