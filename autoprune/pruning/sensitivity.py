"""What pruning each group alone would lose, estimated without evaluating anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.graph.network import ChannelGroup, Network
from autoprune.pruning._batches import as_calls
from autoprune.pruning._consumers import consumers
from autoprune.pruning._surgeon import Surgeon, operate
from autoprune.pruning.fisher import output_power
from autoprune.pruning.importance import Scores

#: Group → (choices,) losses.
Losses = dict[str, npt.NDArray[np.float64]]


def reconstruction_losses(
    network: Network,
    batches: Iterable[Any],
    kept: Mapping[str, Sequence[int]],
    scores: Scores,
    *,
    positions: int = 40,
    ridge: float = 1e-3,
    seed: int = 0,
) -> Losses:
    """The squared error, relative to the output's power, of the layers that read each group.

    The layers are refitted by least squares to the units left (in closed form, from the
    covariance of the dense network's activations), so this is what `Reconstructor` can't make
    up for. One pass of the dense network in all.

    Args:
        network: the traced network.
        batches: calibration inputs.
        kept: group → counts of units, ascending, that a loss is wanted for.
        scores: which units of a group go first: those with the lowest.
        positions: sampled output positions per sample of a batch.
        ridge: relative to the mean variance of a layer's inputs.
        seed: of the positions.

    Returns:
        Group → losses, as many as counts, summed over the layers; groups that no layer that can
        be refitted reads are left out.

    Raises:
        ConfigError: there are no batches.
        SurgeryError: the network can't be run on the batches, or gives no finite values.
    """
    return _losses(network, batches, kept, scores, None, positions, ridge, seed)


def fisher_losses(
    network: Network,
    batches: Iterable[Any],
    kept: Mapping[str, Sequence[int]],
    scores: Scores,
    *,
    labelled: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    positions: int = 40,
    ridge: float = 1e-3,
    seed: int = 0,
) -> Losses:
    """The second-order change of the loss that those errors make.

    The squared error of each output channel (as in `reconstruction_losses`) counts by the
    diagonal of the Fisher information there (`output_power`), so that losses of different layers
    are in one unit. One pass of the dense network more, with gradients.

    Args:
        network: the traced network.
        batches: calibration inputs.
        kept: group → counts of units, ascending, that a loss is wanted for.
        scores: which units of a group go first: those with the lowest.
        labelled: batches of (inputs, targets), with `loss`; None takes the calibration inputs and
            the labels that the network itself predicts.
        loss: of the network's output and the targets.
        positions: sampled output positions per sample of a batch.
        ridge: relative to the mean variance of a layer's inputs.
        seed: of the positions and of the labels drawn.

    Returns:
        Group → losses, as many as counts.

    Raises:
        ConfigError: there are no batches, or the network gives no logits and no loss is given.
        EvaluationError: the loss raises.
        SurgeryError: the network can't be run on the batches, or gives no finite values.
    """
    batches = list(batches)
    found = {c.end: c.channel for c in consumers(network)}
    weigh = output_power(
        network,
        batches if labelled is None or loss is None else labelled,
        list(found),
        channels=list(found.values()),
        loss=None if labelled is None else loss,
        seed=seed,
    )
    for node in found:
        weigh.setdefault(node, torch.zeros(node.meta["val"].shape[found[node]]))
    return _losses(network, batches, kept, scores, weigh, positions, ridge, seed)


def _losses(
    network: Network,
    batches: Iterable[Any],
    kept: Mapping[str, Sequence[int]],
    scores: Scores,
    weigh: Mapping[Any, Tensor] | None,
    positions: int,
    ridge: float,
    seed: int,
) -> Losses:
    result: Losses = {}

    def take_out(group: ChannelGroup, layers: list[Surgeon]) -> None:
        order = np.argsort(scores[group.name], kind="stable")
        lost, loss, losses = 0, 0.0, []
        for count in sorted(kept[group.name], reverse=True):
            units = torch.from_numpy(order[lost : group.units - count].copy())
            if len(units):
                loss += sum(layer.remove(units) for layer in layers)
                lost += len(units)
            losses.append(max(loss, 0.0))
        result[group.name] = np.array(losses[::-1])

    operate(
        network,
        as_calls(batches),
        [group for group in network.groups if group.name in kept],
        take_out,
        positions=positions,
        ridge=ridge,
        seed=seed,
        weigh=weigh,
    )
    return result
