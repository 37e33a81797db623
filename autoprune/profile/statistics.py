"""A robust mean of a few rounds, with an interval that needs no normal distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Values up to which the distribution of the signed-rank statistic is counted out.
EXACT = 100
#: Of autocorrelations: more can't be told from a drift.
MOST = 0.8


@lru_cache(maxsize=512)
def _signed_rank_tail(count: int, alpha: float) -> int:
    """The largest k with P(T <= k) <= alpha / 2 for Wilcoxon's signed-rank T, or -1.

    Beyond `EXACT` values from the normal distribution that T tends to.
    """
    if count > EXACT:
        mean, variance = count * (count + 1) / 4, count * (count + 1) * (2 * count + 1) / 24
        return math.floor(mean - 0.5 + NormalDist().inv_cdf(alpha / 2) * math.sqrt(variance))
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, count + 1):
        ways[rank:] = ways[rank:] + ways[:-rank]
    cumulative = np.cumsum(ways / 2.0**count)
    return int(np.searchsorted(cumulative, alpha / 2 * (1 + 1e-12), side="right")) - 1


def autocorrelation(series: Sequence[Floats]) -> float:
    """Lag-1 autocorrelation that several series have in common, in [0, 0.8].

    What makes rounds depend on each other is the machine, which they share: taken together they
    tell it far better than one of a few values can. The estimate is corrected for its bias
    (Marriott and Pope, "Bias in the Estimation of Autocorrelations", Biometrika 41 (1954)) and
    taken half a standard error higher, since intervals that are too narrow are the worse mistake.
    Negative values count as 0: they never narrow an interval.

    Args:
        series: each (n,), in the order the values were taken; those of less than 4 tell nothing.
    """
    found, counts = [], []
    for values in series:
        count = len(values)
        if count < 4:
            continue
        centred = np.clip(values - np.median(values), *_fences(values))
        centred = centred - centred.mean()
        square = float(centred @ centred)
        if square > 0:
            found.append(float(centred[:-1] @ centred[1:]) / square)
            counts.append(count)
    if not counts:
        return 0.0
    total = sum(counts)
    raw = float(np.average(found, weights=counts))
    rho = min(max(raw + (1 + 4 * raw) / float(np.mean(counts)), -MOST), MOST)
    rho += 0.5 * math.sqrt((1 - rho * rho) / total)
    return min(max(rho, 0.0), MOST, total / (total + 12))  # a few values can't tell a large one


def _fences(values: Floats) -> tuple[float, float]:
    spread = float(np.median(np.abs(values - np.median(values))))
    return -4 * spread, 4 * spread


@lru_cache(maxsize=4096)
def _student(confidence: float, freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def _widening(count: int, rho: float, confidence: float) -> float:
    """By how much an interval for independent values is widened, for dependent ones.

    The variance of a mean of values with lag-1 autocorrelation rho (a process of first order) is
    that of so many fewer independent ones; their spread is underestimated, and known with fewer
    degrees of freedom.
    """
    inflation = (1 + rho) / (1 - rho)
    freedom = max((count - 1) / inflation, 1.0)
    spread = math.sqrt((count - 1) / max(count - inflation, 1.0))
    quantiles = _student(confidence, round(freedom, 1)) / _student(confidence, count - 1)
    return math.sqrt(inflation) * spread * quantiles


def robust_mean(
    values: npt.ArrayLike, confidence: float = 0.95, rho: float | None = None
) -> tuple[float, float, float]:
    """Hodges and Lehmann's estimate with the interval of Wilcoxon's signed-rank test.

    The median of all pairwise means: nearly as efficient as the mean where the values are normal,
    and unmoved by up to 29 % of outliers. The interval is exact for independent values of any
    symmetric distribution; it is widened for the values' autocorrelation, since rounds on a
    drifting machine are not independent. With so few values that the test can't reach the
    confidence, Student's t is used, and one value alone has an infinite interval.

    Hodges and Lehmann, "Estimates of Location Based on Rank Tests", Annals of Mathematical
    Statistics 34 (1963).

    Args:
        values: (n,) in the order they were taken, n at least 1.
        confidence: two-sided, in (0, 1).
        rho: their autocorrelation, where more is known of it than they tell themselves.

    Returns:
        The estimate and the lower and upper end of its interval.
    """
    taken = np.asarray(values, dtype=np.float64)
    count = len(taken)
    first, second = np.triu_indices(count)
    walsh = np.sort((taken[first] + taken[second]) / 2)
    centre = float(np.median(walsh))
    if count == 1:
        return centre, -math.inf, math.inf
    widen = _widening(count, autocorrelation([taken]) if rho is None else rho, confidence)
    tail = _signed_rank_tail(count, round(1 - confidence, 12))
    if tail < 0:
        half = _student(confidence, count - 1) * float(np.std(taken, ddof=1)) / math.sqrt(count)
        return centre, centre - widen * half, centre + widen * half
    low, high = float(walsh[tail]), float(walsh[len(walsh) - 1 - tail])
    return centre, centre - widen * (centre - low), centre + widen * (high - centre)
