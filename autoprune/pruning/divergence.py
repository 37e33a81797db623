"""How far the output moves from the dense network's when one group alone is pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.core.candidate import Candidate
from autoprune.core.errors import SurgeryError
from autoprune.graph.network import Network
from autoprune.pruning._batches import Call, as_calls
from autoprune.pruning._compare import evaluating
from autoprune.pruning._teaching import class_dim
from autoprune.pruning.importance import Scores
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.sensitivity import Losses, reconstruction_losses
from autoprune.pruning.surgery import apply

#: Shares of a group's units at which it is measured, the nearest of the counts asked for.
WIDTHS = (0.5, 0.25, 0.125)

#: Softens logits before they are compared, so that all classes of all samples count.
TEMPERATURE = 4.0


def divergence_losses(
    network: Network,
    batches: Iterable[Any],
    kept: Mapping[str, Sequence[int]],
    scores: Scores,
    *,
    classifies: bool = True,
) -> Losses:
    """What the output loses when one group is pruned and the layers that read it are refitted.

    Each group is pruned alone to a few widths (`WIDTHS`), refitted by `Reconstructor` on one half
    of the batches, and the output compared with the dense network's on the other half: by the
    KL divergence of softened logits (T = 4, the distance that distillation takes, Hinton et al.
    2015), or by the squared error relative to the output's variance. Unlike accuracy it tells
    small losses apart on few samples, and unlike second-order estimates it is the network that
    says how an error travels on. Between the widths the loss follows the group's reconstruction
    error. No labels are needed. Costs about 3 × groups passes over the batches.

    Args:
        network: the traced network.
        batches: calibration inputs; with one batch alone, it serves for both.
        kept: group → counts of units, ascending, that a loss is wanted for.
        scores: which units of a group go first: those with the lowest.
        classifies: whether a single output is logits: (N, classes), (N, positions, classes) or
            (N, classes, height, width, ...). Several outputs, and one of a single channel, are
            compared by their values.

    Returns:
        Group → losses, as many as counts.

    Raises:
        ConfigError: there are no batches.
        SurgeryError: the network can't be run on the batches, or its output is not finite.
    """
    batches = list(batches)
    half = (len(batches) + 1) // 2
    fitted, held = batches[:half], as_calls(batches[half:] or batches)
    reconstructor = Reconstructor(network, fitted)
    dense = [_outputs(network.model, call) for call in held]
    if not all(bool(out.isfinite().all()) for outs in dense for out in outs):
        raise SurgeryError(
            "the dense network must give finite outputs on the calibration batches, but gives NaN "
            "or infinity"
        )
    whole = {group.name: group.units for group in network.groups}
    every = {name: [*range(1, whole[name] + 1)] for name in kept}
    shapes = reconstruction_losses(network, fitted, every, scores)
    result: Losses = {}
    for name, counts in kept.items():
        points: dict[int, float] = {}
        for count in _widths(counts, whole[name]):
            candidate = Candidate.of({**whole, name: count})
            selection = select(network, candidate, scores=scores)
            pruned = apply(network, selection)
            reconstructor.apply(pruned, selection)
            moved = _distance(dense, [_outputs(pruned, call) for call in held], classifies)
            if np.isfinite(moved):
                points[count] = moved
        if points:
            lost = shapes.get(name)
            if lost is None or not lost[0] > 0:
                lost = 1.0 - np.arange(1, whole[name] + 1) / whole[name]
            result[name] = _curve(points, lost)[np.asarray(counts)]
    return result


def _widths(counts: Sequence[int], units: int) -> list[int]:
    """The counts to measure, the widest first."""
    below = [count for count in counts if 0 < count < units]
    near = {min(below, key=lambda c: abs(c - w * units)) for w in WIDTHS} if below else set()
    near |= {0} & set(counts)
    return sorted(near, reverse=True)


@torch.no_grad()
def _outputs(model: nn.Module, call: Call) -> list[Tensor]:
    """The floating-point tensors that a network gives in evaluation mode."""
    args, kwargs = call
    with evaluating(model):
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _distance(dense: list[list[Tensor]], pruned: list[list[Tensor]], classifies: bool) -> float:
    """How far outputs moved, the mean over the batches."""
    found = []
    for before, after in zip(dense, pruned, strict=True):
        single = classifies and len(before) == 1 and before[0].ndim >= 2
        dim = class_dim(before[0]) if single else 0
        if single and before[0].shape[dim] > 1:
            own, wanted = (
                (out[0].double() / TEMPERATURE).log_softmax(dim) for out in (after, before)
            )
            pointwise = F.kl_div(own, wanted, reduction="none", log_target=True)
            found.append(float(pointwise.sum(dim).mean()))
        else:
            found.append(sum(_relative(a, b) for a, b in zip(after, before, strict=True)))
    return max(float(np.mean(found)), 0.0)


def _relative(after: Tensor, before: Tensor) -> float:
    before, after = before.double(), after.double()
    spread = float((before - before.mean()).square().mean())
    return float((after - before).square().mean()) / max(spread, 1e-30)


def _curve(points: Mapping[int, float], lost: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(units + 1,) the loss at every count from 0, through the measured points.

    Amplitudes (square roots) are interpolated over the reconstruction error's; past the narrowest
    point the loss grows with the error squared. With no unit left it is what was measured then
    (ten times the worst where
    the output was not finite), and at least that of one.

    Args:
        points: count → measured loss.
        lost: (units,) reconstruction error of 1, 2, ... units.
    """
    counts = sorted((count for count in points if count), reverse=True)
    lost = np.maximum.accumulate(lost[::-1])[::-1]
    at = np.sqrt(np.array([0.0, *(lost[count - 1] for count in counts)]))
    measured = np.maximum.accumulate(np.sqrt([0.0, *(points[count] for count in counts)]))
    amplitude = np.interp(np.sqrt(lost), at, measured)
    beyond = np.sqrt(lost) > at[-1]
    if at[-1] > 0:
        amplitude[beyond] = measured[-1] * lost[beyond] / at[-1] ** 2
    curve: npt.NDArray[np.float64] = np.append(np.inf, amplitude**2)
    curve[-1] = 0.0
    curve[0] = max(points.get(0, 10.0 * curve[1]), curve[1])
    return curve
