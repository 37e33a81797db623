"""Layers whose bias can make up for how far pruning moved the mean of what they give."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from autoprune.graph.network import Network
from autoprune.pruning._consumers import BIASES, Names, channel_of
from autoprune.pruning._sites import arguments_of, op_name


@dataclass
class Mean:
    """Mean of each channel of a layer's output over any number of batches, in float64.

    Attributes:
        bias: dotted name of the layer's bias, which nothing else uses.
        channel: dimension of the output's channels.
    """

    bias: str
    channel: int
    _count: int = 0
    _sum: Tensor = field(default_factory=lambda: torch.zeros(()))

    def new(self) -> Mean:
        """The same layer's, of no batch yet."""
        return Mean(self.bias, self.channel)

    def add(self, value: Tensor) -> None:
        """Add a batch of outputs."""
        channel = self.channel % value.ndim
        other = [dim for dim in range(value.ndim) if dim != channel]
        count = value.numel() // max(value.shape[channel], 1)
        if count:
            value = value.to(torch.promote_types(value.dtype, torch.float32))
            self._sum = self._sum + value.mean(other).double() * count
            self._count += count

    def since(self, earlier: Mean, kept: npt.NDArray[np.int64] | None) -> Tensor:
        """(channels,) by how much it is above an earlier one.

        Args:
            earlier: the dense network's.
            kept: (channels,) where these channels are among the earlier ones; None: all, in order.
        """
        if not self._count or not earlier._count:
            return torch.zeros_like(self._sum)
        index = slice(None) if kept is None else torch.from_numpy(kept)
        return self._sum / self._count - earlier._sum[index] / earlier._count


def means(network: Network) -> dict[fx.Node, Mean]:
    """Convolutions, linear layers and norms over channels that have a bias of their own."""
    names = Names(network)
    found = {}
    for node in network.program.graph.nodes:
        op = op_name(node) if node.op == "call_function" else ""
        if op not in BIASES:
            continue
        name = names.alone(arguments_of(node).get(BIASES[op]))
        if name is None or (op == "layer_norm" and len(arguments_of(node)["normalized_shape"]) > 1):
            continue
        if op == "addmm" and arguments_of(node).get("beta", 1) != 1:
            continue
        found[node] = Mean(name, channel_of(op))
    return found


def whole(network: Network, node: fx.Node, channel: int, keep: npt.NDArray[np.bool_]) -> bool:
    """Whether an output loses nothing but channels, so that its mean is of the same positions."""
    labels = list(network.labels.get(node.name, ()))
    if labels:
        labels.pop(channel)
    return all(label is None or bool(keep[label].all()) for label in labels)
