"""Importance of channels by what least-squares reconstruction loses without them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from autoprune.core.errors import ConfigError
from autoprune.graph.network import ChannelGroup, Network
from autoprune.pruning._batches import as_calls
from autoprune.pruning._consumers import Consumer, consumers, order
from autoprune.pruning._probe import affine
from autoprune.pruning._ridge import Moments, factor
from autoprune.pruning._rows import as_matrix, draw, patches
from autoprune.pruning._walk import Walk, lookup
from autoprune.pruning.importance import Importance, Scores, scores


class ReconstructionImportance(Importance):
    """The order in which units go, each time the one that can best be made up for by the others.

    Optimal brain surgeon (Hassibi and Stork 1993, "Second order derivatives for network pruning")
    on whole units and on the error that a layer makes at its output: with the covariance H of a
    layer's inputs on calibration data, losing the inputs of a unit costs
    trace(Wᵤᵀ (H⁻¹ᵤᵤ)⁻¹ Wᵤ) after the others' weights were refitted. The unit that costs least is
    taken out, W and H⁻¹ are updated, and so on. A group that several layers read is scored by
    the sum of their costs, each divided by the variance of the layer's output. It is meant for
    use with `Reconstructor`, which does the refitting.

    Scores are computed once for a network, on its dense activations, and remembered.

    Args:
        batches: calibration inputs; each a tensor, a tuple of positional inputs or a mapping.
        positions: sampled output positions per sample of a batch.
        ridge: relative to the mean variance of a layer's inputs.
        seed: of the positions.
        steps: at most so many eliminations for a group; larger groups lose several units at once.
        fallback: what scores groups that no layer that can be refitted reads.

    Raises:
        ConfigError: no batches, or a setting out of range.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        *,
        positions: int = 40,
        ridge: float = 1e-3,
        seed: int = 0,
        steps: int = 128,
        fallback: str | Importance = "l1",
    ) -> None:
        if positions < 1 or steps < 1:
            raise ConfigError(
                f"positions and steps must be at least 1, got {positions!r} and {steps!r}"
            )
        if not ridge > 0:
            raise ConfigError(f"ridge must be greater than 0, got {ridge!r}")
        self._calls = as_calls(batches)
        self.positions = positions
        self.ridge = ridge
        self.seed = seed
        self.steps = steps
        self.fallback = fallback
        self._known: WeakKeyDictionary[Network, Scores] = WeakKeyDictionary()

    def scores(self, network: Network) -> Scores:
        """See `Importance.scores`: 0 for the unit that goes first.

        Raises:
            SurgeryError: the network can't be run on the batches, or gives no finite values.
        """
        if network not in self._known:
            with torch.no_grad():
                self._known[network] = self._compute(network)
        return {name: values.copy() for name, values in self._known[network].items()}

    def _compute(self, network: Network) -> Scores:
        by_weight = {c.weight: c for c in consumers(network)}
        readers = {
            group.name: [
                (by_weight[member.tensor], member.indices)
                for member in group.members
                if member.tensor in by_weight
                and member.role == "in"
                and member.dim == by_weight[member.tensor].reads
            ]
            for group in network.groups
        }
        wanted = {c.node: c for found in readers.values() for c, _ in found}
        layers = self._layers(network, wanted)
        result: Scores = {}
        for group in network.groups:
            found = [(layers[c.node], indices) for c, indices in readers[group.name]]
            if found:
                result[group.name] = self._eliminate(group, found)
        if len(result) < len(network.groups):
            other = scores(network, self.fallback)
            result.update({n: other[n] for n in other if n not in result})
        return result

    def _layers(
        self, network: Network, wanted: dict[fx.Node, Consumer]
    ) -> dict[fx.Node, tuple[Tensor, Tensor, int]]:
        """Inverse covariance, weights and kernel offsets of each layer, from one dense pass."""
        generator = torch.Generator().manual_seed(self.seed)
        nodes = order(network, (), [*wanted])
        dense = Walk(network.program, nodes, lookup(network.model), self._calls)
        result = {}

        def before(node: fx.Node) -> None:
            layer = wanted.get(node)
            if layer is None:
                return
            weight = layer.oriented(lookup(network.model)(layer.weight))
            groups = dense.values(layer.input)[0].shape[layer.channel] // weight.shape[1]
            rows = []
            for batch, value in enumerate(dense.values(layer.input)):
                shape = dense.call(node, {}, batch).shape
                count = len(value) * self.positions
                drawn = draw(shape, layer.channel, count, generator)
                rows.append(patches(value, layer.window, drawn, groups))
            covariance = Moments(torch.cat(rows, 1)).xx
            scale, _ = affine(dense, layer, layer.node, layer.chain, weight)
            matrix = as_matrix(weight * scale.view(-1, *[1] * (weight.ndim - 1)), groups)
            matrix = matrix.to(covariance.dtype)
            power = (matrix * (covariance @ matrix)).sum().clamp_min(1e-30)
            inverse = torch.cholesky_inverse(factor(covariance, self.ridge, layer.weight))
            offsets = layer.window.offsets
            result[node] = inverse, matrix / power.sqrt(), offsets

        dense.run(before=before)
        return result

    def _eliminate(
        self,
        group: ChannelGroup,
        found: list[tuple[tuple[Tensor, Tensor, int], npt.NDArray[np.int64]]],
    ) -> npt.NDArray[np.float64]:
        """(units,) the step at which each unit goes."""
        layers = [
            _Layer(inverse, matrix, offsets, indices)
            for (inverse, matrix, offsets), indices in found
        ]
        alive = torch.ones(group.units, dtype=torch.bool)
        result = np.zeros(group.units)
        at_once = -(-group.units // self.steps)
        gone = 0
        while gone < group.units:
            cost = torch.stack([layer.costs(alive) for layer in layers]).sum(0)
            cost[~alive] = torch.inf
            count = min(at_once, group.units - gone)
            first = torch.argsort(cost, stable=True)[:count]
            alive[first] = False
            for unit in first.tolist():
                result[unit] = gone
                gone += 1
            for layer in layers:
                layer.remove(first)
        return result


class _Layer:
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

    def remove(self, units: Tensor) -> None:
        """Take units out: the other weights are refitted."""
        rows = self.rows[units].flatten()
        columns = self.inverse[:, :, rows]
        block = columns[:, rows]
        self.matrix -= columns @ torch.linalg.solve(block, self.matrix[:, rows])
        self.inverse -= columns @ torch.linalg.solve(block, columns.transpose(1, 2))
        # What is gone stays gone, in spite of rounding.
        self.matrix[:, rows] = 0
        self.inverse[:, rows] = 0
        self.inverse[:, :, rows] = 0
