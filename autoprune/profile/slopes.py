"""How much each network slows down by what else is at work on its core.

A network's logarithmic latency rises in proportion to how much slower its core is beside it
(`neighbours`), each network's by its own slope: small ones by up to as much as the core, large ones
by less, for what was at work before and after a long run may not have been during all of it. A
network has few visits, but those of one call have been slowed down by the same neighbours: slopes
scatter about a line over the logarithm of latency, and each is drawn towards that line, the more
the less its own visits tell and the closer all are to it (empirical Bayes: Morris, "Parametric
Empirical Bayes Inference: Theory and Applications", Journal of the American Statistical Association
78 (1983)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.profile.throttling import Floats

#: The line before any network is measured: the slope of a network of the call's usual latency, by
#: how much that changes where latency is e times as long, and the standard deviations of both.
LINE, UNSURE = np.array([0.8, -0.2]), np.array([0.5, 0.2])
#: How much slopes differ from their line: what is tried, which of it is usual, and by what factor
#: (log) that may be off.
DIFFER = np.array([0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5])
USUALLY, OFTEN = 0.15, 1.0
#: No visits scatter less than this about their line.
LEAST = 0.003


@dataclass(frozen=True)
class Slope:
    """By how much a network's logarithmic latency rises with that of its core's slowness.

    Attributes:
        value: 1 where it slows down as much as the core.
        std: standard deviation of that.
    """

    value: float = float(LINE[0])
    std: float = math.hypot(float(UNSURE[0]), USUALLY)


#: That of a network which has not been slowed down yet.
UNKNOWN = Slope()


def slopes(levels: Sequence[Floats], slowed: Sequence[Floats]) -> list[Slope]:
    """The slope of each network.

    Args:
        levels: for each network (visits,) logarithms of its latency.
        slowed: for each (visits,) logarithms of how many times slower its core was.
    """
    both = [(y - y.mean(), x - x.mean()) for y, x in zip(levels, slowed, strict=True)]
    spread = np.array([(x**2).sum() for _, x in both])
    told = spread > 0
    if not told.any():
        return [UNKNOWN] * len(both)
    own = np.array([(y * x).sum() for y, x in both]) / np.maximum(spread, 1e-12)
    squares = [((y - slope * x) ** 2).sum() for (y, x), slope in zip(both, own, strict=True)]
    free = sum(len(y) - 2 for (y, _), t in zip(both, told, strict=True) if t)
    variance = max(float(np.sum(np.array(squares)[told])) / max(free, 1), LEAST**2)
    # A slope is told by its own visits as exactly as this.
    noise = variance / np.maximum(spread, 1e-12)
    middle = np.array([y.mean() for y in levels])
    middle -= np.average(middle[told], weights=1.0 / (USUALLY**2 + noise[told]))
    along = np.stack([np.ones_like(middle), middle], axis=1)
    differ = _differ(own[told], noise[told], along[told])
    precision = along[told].T @ (along[told] / (differ**2 + noise[told])[:, None])
    precision += np.diag(UNSURE**-2)
    line = np.linalg.solve(
        precision,
        along[told].T @ (own[told] / (differ**2 + noise[told])) + LINE / UNSURE**2,
    )
    drawn = noise / (noise + differ**2)
    values = (1 - drawn) * own + drawn * (along @ line)
    of_line = (along * np.linalg.solve(precision, along.T).T).sum(axis=1)
    stds = np.sqrt((1 - drawn) * noise + drawn**2 * of_line)
    return [Slope(float(value), float(std)) for value, std in zip(values, stds, strict=True)]


def _differ(own: Floats, noise: Floats, along: Floats) -> float:
    """How much slopes differ from their line: the likeliest of what is tried."""
    off = own - along @ LINE
    of_line = (along * UNSURE**2) @ along.T
    found, best = USUALLY, -math.inf
    for differ in DIFFER:
        covariance = of_line + np.diag(noise + differ**2)
        likely = off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(covariance)[1]
        likely = -0.5 * (likely + (math.log(differ / USUALLY) / OFTEN) ** 2)
        if likely > best:
            found, best = float(differ), float(likely)
    return found
