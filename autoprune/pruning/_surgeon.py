"""Optimal brain surgeon: what a layer loses as inputs go and the others are refitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from autoprune.graph.network import ChannelGroup, Network
from autoprune.pruning._activations import LIVE_BYTES
from autoprune.pruning._batches import Call, recut
from autoprune.pruning._consumers import Consumer, consumers, order
from autoprune.pruning._probe import affine
from autoprune.pruning._ridge import Moments, factor
from autoprune.pruning._rows import as_matrix, draw, patches
from autoprune.pruning._walk import Walk, lookup

#: Inverse covariance, weights and kernel offsets of a layer.
_Solved = tuple[Tensor, Tensor, int]


class Surgeon:
    """One layer's weights and inverse covariance while units are taken out.

    Args:
        inverse: (groups, inputs, inputs) of the covariance.
        matrix: (groups, inputs, outputs) weights.
        offsets: kernel positions; inputs are ordered by offset, then channel.
        indices: (units, multiplicity) the weight's input channels of each unit.
    """

    def __init__(
        self, inverse: Tensor, matrix: Tensor, offsets: int, indices: npt.NDArray[np.int64]
    ) -> None:
        self.inverse, self.matrix = inverse.clone(), matrix.clone()
        channels = matrix.shape[1] // offsets
        start = torch.arange(offsets)[:, None, None] * channels
        # (units, offsets × multiplicity)
        self.rows = (start + torch.from_numpy(indices)).permute(1, 0, 2).flatten(1)

    def costs(self, alive: Tensor) -> Tensor:
        """(units,) squared error at the output that taking each unit out adds."""
        rows = self.rows[alive]
        block = self.inverse[:, rows[:, :, None], rows[:, None, :]]
        weights = self.matrix[:, rows]
        solved = torch.linalg.solve(block, weights)
        result = torch.full((len(alive),), torch.inf, dtype=self.matrix.dtype)
        result[alive] = (solved * weights).sum((0, 2, 3))
        return result

    def remove(self, units: Tensor) -> float:
        """Take units out: the other weights are refitted.

        Returns:
            The squared error at the output that this adds.
        """
        rows = self.rows[units].flatten()
        columns = self.inverse[:, :, rows]
        block = columns[:, rows]
        gone = self.matrix[:, rows]
        solved = torch.linalg.solve(block, gone)
        added = float((solved * gone).sum())
        self.matrix -= columns @ solved
        self.inverse -= columns @ torch.linalg.solve(block, columns.transpose(1, 2))
        # What is gone stays gone, in spite of rounding.
        self.matrix[:, rows] = 0
        self.inverse[:, rows] = 0
        self.inverse[:, :, rows] = 0
        return added


def operate(
    network: Network,
    calls: Sequence[Call],
    groups: Sequence[ChannelGroup],
    each: Callable[[ChannelGroup, list[Surgeon]], None],
    *,
    positions: int,
    ridge: float,
    seed: int,
    weigh: Mapping[fx.Node, Tensor] | None = None,
    limit: int = LIVE_BYTES,
) -> None:
    """Run the dense network once, and hand out each group's reading layers when all are known.

    A layer's inverse covariance is dropped as soon as the groups that it reads have been dealt
    with. Groups that no layer that can be refitted reads are left out.

    Args:
        network: the traced network.
        calls: calibration batches.
        groups: whose readers are wanted.
        each: called with a group and its readers, fresh ones.
        positions: sampled output positions per sample of a batch.
        ridge: relative to the mean variance of a layer's inputs.
        seed: of the positions.
        weigh: the last node that a layer's output passes through by itself (`Consumer.end`) →
            (channels,) what a squared error there counts; None makes errors relative to the
            output's power.
        limit: bytes of activations held in memory; see `Walk`.

    Raises:
        SurgeryError: the network can't be run on the batches, or gives no finite values.
    """
    readers = _readers(network, groups)
    wanted = {c.node: c for found in readers.values() for c, _ in found}
    left = {name: len(found) for name, found in readers.items() if found}
    by_name = {group.name: group for group in groups}
    users: dict[fx.Node, list[str]] = {}
    for name, found in readers.items():
        for consumer, _ in found:
            users.setdefault(consumer.node, []).append(name)
    known: dict[fx.Node, _Solved] = {}
    generator = torch.Generator().manual_seed(seed)
    nodes = order(network, (), [*wanted])
    calls = recut(calls, network.fixed_batch)
    dense = Walk(network.program, nodes, lookup(network.model), calls, limit=limit)

    def before(node: fx.Node) -> None:
        layer = wanted.get(node)
        if layer is None:
            return
        known[node] = _solved(network, dense, layer, generator, positions, ridge, weigh)
        for name in users[node]:
            left[name] -= 1
            if left[name] == 0:
                each(by_name[name], [Surgeon(*known[c.node], i) for c, i in readers[name]])
        done = [n for n in known if all(left[name] <= 0 for name in users[n])]
        for finished in done:
            del known[finished]

    with torch.no_grad():
        dense.run(before=before)


def _readers(
    network: Network, groups: Sequence[ChannelGroup]
) -> dict[str, list[tuple[Consumer, npt.NDArray[np.int64]]]]:
    """Group → the layers that read it, with the input channels of each unit."""
    by_weight = {c.weight: c for c in consumers(network) if c.separable}
    return {
        group.name: [
            (by_weight[member.tensor], member.indices)
            for member in group.members
            if member.tensor in by_weight
            and member.role == "in"
            and member.dim == by_weight[member.tensor].reads
        ]
        for group in groups
    }


def _solved(
    network: Network,
    dense: Walk,
    layer: Consumer,
    generator: torch.Generator,
    positions: int,
    ridge: float,
    weigh: Mapping[fx.Node, Tensor] | None,
) -> _Solved:
    weight, groups = layer.read(lookup(network.model), dense)
    moments = Moments()
    for batch, value in enumerate(dense.values(layer.input)):
        shape = dense.call(layer.node, {}, batch).shape
        drawn = draw(shape, layer.channel, len(value) * positions, generator)
        moments.add(patches(value, layer.window, drawn, groups))
    covariance = moments.xx
    scale, _ = affine(dense, layer, layer.node, layer.chain, weight)
    matrix = as_matrix(weight * scale.view(-1, *[1] * (weight.ndim - 1)), groups)
    matrix = matrix.to(covariance.dtype)
    if weigh is None:
        matrix = matrix / (matrix * (covariance @ matrix)).sum().clamp_min(1e-30).sqrt()
    else:
        matrix = matrix * weigh[layer.end].to(matrix.dtype).sqrt().view(groups, 1, -1)
    inverse = torch.cholesky_inverse(factor(covariance, ridge, layer.weight))
    return inverse, matrix, layer.window.offsets
