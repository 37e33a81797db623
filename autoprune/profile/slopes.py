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
LINE, UNSURE = np.array([0.7, -0.3]), np.array([0.2, 0.15])
#: How much slopes differ from their line: what is tried, which of it is usual, and by what factor
#: (log) that may be off.
DIFFER = np.array([0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5])
USUALLY, OFTEN = 0.05, 0.5
#: How much networks' visits scatter beside what their slopes tell: likewise.
SCATTER = np.geomspace(0.003, 0.5, 24)
USUAL_SCATTER, SCATTERS = 0.03, 1.0
#: A network's slope is so many times less sure than the scatter of its visits tells: what is at
#: work beside one is not what is beside another, of the same slowness.
LESS_SURE = 2.0
#: What else is at work makes no network quicker, and none much slower than it makes the core.
FLATTEST, STEEPEST = 0.0, 2.0


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
    spread = np.maximum(spread, 1e-12)
    own = np.array([(y * x).sum() for y, x in both]) / spread
    squares = [((y - slope * x) ** 2).sum() for (y, x), slope in zip(both, own, strict=True)]
    free = sum(len(y) - 2 for (y, _), t in zip(both, told, strict=True) if t)
    middle = np.array([y.mean() for y in levels])
    middle -= np.average(middle[told], weights=1 / (USUALLY**2 + USUAL_SCATTER**2 / spread[told]))
    along = np.stack([np.ones_like(middle), middle], axis=1)
    left = float(np.sum(np.array(squares)[told]))
    differ, scatter = _likeliest(own[told], spread[told], along[told], left, free)
    # A slope is told by its own visits as exactly as this.
    noise = (LESS_SURE * scatter) ** 2 / spread
    line, precision, _ = _lines(own[told], noise[told] + differ**2, along[told])
    drawn = noise / (noise + differ**2)
    values = np.clip((1 - drawn) * own + drawn * (along @ line), FLATTEST, STEEPEST)
    of_line = (along * np.linalg.solve(precision, along.T).T).sum(axis=1)
    stds = np.sqrt((1 - drawn) * noise + drawn**2 * of_line)
    return [Slope(float(value), float(std)) for value, std in zip(values, stds, strict=True)]


def _lines(own: Floats, variances: Floats, along: Floats) -> tuple[Floats, Floats, Floats]:
    """The line that slopes lie along, for each way they may scatter about it.

    Args:
        own: (networks,) what their own visits tell.
        variances: (..., networks) of that about the line.
        along: (networks, 2) what the line's two numbers are multiplied by.

    Returns:
        (..., 2) the line, (..., 2, 2) the inverse covariance of that, and (...) the logarithm of
        how likely the slopes are.
    """
    off = own - along @ LINE
    precision = np.einsum("...n,ni,nj->...ij", 1 / variances, along, along) + np.diag(UNSURE**-2)
    pull = np.einsum("...n,ni->...i", off / variances, along)
    line = np.linalg.solve(precision, pull[..., None])[..., 0]
    squares = (off**2 / variances).sum(axis=-1) - (pull * line).sum(axis=-1)
    spans = np.log(variances).sum(axis=-1) + np.linalg.slogdet(precision)[1]
    return LINE + line, precision, -0.5 * (squares + spans)


def _likeliest(
    own: Floats, spread: Floats, along: Floats, left: float, free: int
) -> tuple[float, float]:
    """How much slopes differ from their line, and visits scatter: the likeliest of what is tried.

    Few visits tell nothing of their scatter by themselves (two lie on a line), but slopes that no
    core explains do.

    Args:
        own: (networks,) what their own visits tell, where they scatter by 1 as exactly as
        spread: (networks,) one by the square root of it;
        along: as of `_lines`.
        left: the visits' squared distances from their own slopes, of
        free: so many degrees of freedom.
    """
    differ, scatter = DIFFER[:, None], SCATTER[None, :]
    _, _, likely = _lines(
        own, differ[..., None] ** 2 + (LESS_SURE * scatter[..., None]) ** 2 / spread, along
    )
    likely = likely - free * np.log(scatter) - left / (2 * scatter**2)
    likely -= 0.5 * (np.log(differ / USUALLY) / OFTEN) ** 2
    likely -= 0.5 * (np.log(scatter / USUAL_SCATTER) / SCATTERS) ** 2
    best = np.unravel_index(np.argmax(likely), likely.shape)
    return float(DIFFER[best[0]]), float(SCATTER[best[1]])
