"""How much each network slows down by what else is at work on its core.

A network's logarithmic latency rises in proportion to how much slower its core is beside it
(`neighbours`), each network's by its own slope: between a half and twice. A network has few visits,
but those of one call have been slowed down by the same neighbours, and their slopes are alike: each
is drawn towards their mean, the more the less its own visits tell (the empirical Bayes estimate for
normal means of unequal variances, Efron and Morris, "Data Analysis Using Stein's Estimator and its
Generalizations", Journal of the American Statistical Association 70 (1975)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.profile.throttling import Floats

#: Slopes of networks before any is measured, their mean and its standard deviation; and how much
#: they differ from their mean.
USUAL, UNSURE, DIFFER = 0.8, 0.5, 0.5
#: No visits scatter less than this about their line.
LEAST = 0.003


@dataclass(frozen=True)
class Slope:
    """By how much a network's logarithmic latency rises with that of its core's slowness.

    Attributes:
        value: 1 where it slows down as much as the core.
        std: standard deviation of that.
    """

    value: float = USUAL
    std: float = math.hypot(UNSURE, DIFFER)


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
    told = np.flatnonzero(spread > 0)
    if not len(told):
        return [UNKNOWN] * len(both)
    own = np.array([(y * x).sum() for y, x in both]) / np.maximum(spread, 1e-12)
    squares = sum(float(((both[i][0] - own[i] * both[i][1]) ** 2).sum()) for i in told)
    free = sum(len(both[i][0]) - 2 for i in told)
    variance = max(squares / max(free, 1), LEAST**2)
    # A slope is told by its own visits as exactly as this, and the mean of all by all.
    weights = 1.0 / (DIFFER**2 + variance / spread[told])
    precision = float(weights.sum()) + UNSURE**-2
    mean = (float(weights @ own[told]) + USUAL * UNSURE**-2) / precision
    found = []
    for slope, each in zip(own, spread, strict=True):
        known = each / variance + DIFFER**-2
        drawn = DIFFER**-2 / known
        std = math.sqrt(1.0 / known + drawn**2 / precision)
        found.append(Slope((1 - drawn) * float(slope) + drawn * mean, std))
    return found
