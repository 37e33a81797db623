"""Importance of channels by what least-squares reconstruction loses without them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from autoprune.core.errors import ConfigError
from autoprune.graph.network import ChannelGroup, Network
from autoprune.pruning._activations import LIVE_BYTES
from autoprune.pruning._batches import as_calls
from autoprune.pruning._surgeon import Surgeon, operate
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
        max_live_bytes: of activations held in memory, as in `Reconstructor`.

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
        max_live_bytes: int = LIVE_BYTES,
    ) -> None:
        if positions < 1 or steps < 1:
            raise ConfigError(
                f"positions and steps must be at least 1, got {positions!r} and {steps!r}"
            )
        if not ridge > 0:
            raise ConfigError(f"ridge must be greater than 0, got {ridge!r}")
        if max_live_bytes < 0:
            raise ConfigError(f"max_live_bytes must be at least 0, got {max_live_bytes!r}")
        self._calls = as_calls(batches)
        self.positions = positions
        self.ridge = ridge
        self.seed = seed
        self.steps = steps
        self.fallback = fallback
        self.max_live_bytes = max_live_bytes
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
        result: Scores = {}

        def eliminate(group: ChannelGroup, layers: list[Surgeon]) -> None:
            result[group.name] = self._eliminate(group, layers)

        operate(
            network,
            self._calls,
            network.groups,
            eliminate,
            positions=self.positions,
            ridge=self.ridge,
            seed=self.seed,
            limit=self.max_live_bytes,
        )
        if len(result) < len(network.groups):
            other = scores(network, self.fallback)
            result.update({n: other[n] for n in other if n not in result})
        return result

    def _eliminate(self, group: ChannelGroup, layers: list[Surgeon]) -> npt.NDArray[np.float64]:
        """(units,) the step at which each unit goes."""
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
