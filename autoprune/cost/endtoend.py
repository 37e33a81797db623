"""From summed kernel times to the latency of the whole network, learned from end-to-end runs.

What kernels do not explain (launches, caches, what the runtime's own profiler costs) is a Gaussian
process on top of the sum, relative to it: an offset and a slope, a factor for each kernel
signature, a time for each kernel that runs (a profile adds some to each, so that the sum of many
small kernels is too large), a smooth function of what is kept, and what is particular to a single
candidate. The last makes the standard deviation honest for candidates never run, and lets one that
was run be predicted as measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from autoprune.core.cost import Floats

#: Prior medians of the standard deviations: offset (in units of the reference's latency), slope,
#: factor of a signature, all kernels' own time, network, smooth, single candidate; last a factor on
#: the stated noise.
_PRIOR = np.log([0.15, 0.15, 0.1, 0.15, 0.02, 0.01, 0.01, 1.0])
_PRIOR_SPREAD = np.array([1.0, 1.0, 1.0, 1.0, 0.7, 1.0, 1.0, 0.25])
#: Length scale of the smooth part: root mean square difference of kept fractions.
_LENGTH = 0.15
#: Sums below this fraction of the reference count as this, where they divide.
_SMALLEST = 0.01


@dataclass(frozen=True, eq=False)
class Points:
    """Candidates as the end-to-end model sees them.

    Attributes:
        parts: (N, P) summed kernel times by part.
        nodes: (N,) number of kernels that run, over the reference's.
        network: (N,) number of the network.
        kept: N arrays (G,) of kept fractions.
    """

    parts: Floats
    nodes: Floats
    network: npt.NDArray[np.intp]
    kept: list[Floats]

    def at(self, rows: Sequence[int]) -> Points:
        """Some of the candidates."""
        kept = [self.kept[row] for row in rows]
        return Points(self.parts[rows], self.nodes[rows], self.network[rows], kept)

    @property
    def total(self) -> Floats:
        """(N,) summed kernel times."""
        return np.asarray(self.parts.sum(axis=1))


class EndToEnd:
    """Latency ratio of whole networks.

    Args:
        points: N candidates that were measured.
        ratio: (N,) their latency over the reference's.
        noise: (N,) standard deviation of each ratio.
        factor: prior standard deviation of a part's factor: small where kernels were timed, large
            where they are guessed.
    """

    def __init__(
        self, points: Points, ratio: Floats, noise: Floats, *, factor: float = 0.1
    ) -> None:
        self._points = points
        scale = np.maximum(points.total, _SMALLEST)
        self._noise = np.maximum(noise / scale, 1e-4)
        self._residual = (ratio - points.total) / scale
        self._terms = _terms(points, points)
        self._prior = _PRIOR.copy()
        self._prior[2] = np.log(factor)
        start = self._prior.copy()
        found = minimize(self._loss, start, method="L-BFGS-B", options={"maxiter": 60})
        self._theta = found.x if np.isfinite(found.fun) else start
        gram = self._gram(self._theta)
        # Noise keeps it well conditioned, and predicting comes far more often than fitting.
        self._inverse = np.linalg.inv(gram)
        self._alpha = self._inverse @ self._residual
        self.widening = self._widening()

    def _gram(self, theta: Floats) -> Floats:
        variances = np.exp(2 * theta)
        gram = np.tensordot(variances[:-1], self._terms, axes=1)
        gram[np.diag_indices(len(gram))] += variances[-1] * self._noise**2 + 1e-10
        return np.asarray(gram)

    def _loss(self, theta: Floats) -> float:
        """Negative log posterior of the hyper-parameters."""
        if np.abs(theta - self._prior).max() > 6:
            return 1e9
        try:
            factor = cho_factor(self._gram(theta), lower=True)
        except np.linalg.LinAlgError:
            return 1e9
        fit = 0.5 * self._residual @ cho_solve(factor, self._residual)
        prior = 0.5 * (((theta - self._prior) / _PRIOR_SPREAD) ** 2).sum()
        return float(fit + np.log(np.diag(factor[0])).sum() + prior)

    def _widening(self) -> float:
        """Factor by which leave-one-out errors exceed their intervals (at least 1)."""
        if len(self._inverse) < 10:
            return 1.0
        z = np.abs(self._alpha) / np.sqrt(np.diag(self._inverse))
        return float(np.clip(np.quantile(z, 0.9) / 1.645, 1.0, 3.0))

    def predict(self, points: Points) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the ratio, each (N,)."""
        variances = np.exp(2 * self._theta[:-1])
        cross = np.tensordot(variances, _terms(points, self._points), axes=1)
        scale = np.maximum(points.total, _SMALLEST)
        mean = points.total + scale * (cross @ self._alpha)
        own = (
            variances[0] / scale**2
            + variances[1]
            + variances[2] * ((points.parts / scale[:, None]) ** 2).sum(axis=1)
            + variances[3] * (points.nodes / scale) ** 2
            + variances[4:].sum()
        )
        explained = (cross * (cross @ self._inverse)).sum(axis=1)
        std = self.widening * scale * np.sqrt(np.maximum(own - explained, 1e-8))
        return mean, std


def _terms(a: Points, b: Points) -> Floats:
    """(7, N, M) the covariance of each part of the model, before its variance."""
    same = (a.network[:, None] == b.network[None, :]).astype(np.float64)
    smooth, equal = np.zeros_like(same), np.zeros_like(same)
    for network in set(a.network.tolist()) & set(b.network.tolist()):
        i, j = np.flatnonzero(a.network == network), np.flatnonzero(b.network == network)
        x = np.stack([a.kept[n] for n in i])
        y = np.stack([b.kept[n] for n in j])
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
        distance = np.maximum(squared, 0.0) / max(x.shape[1], 1)
        smooth[np.ix_(i, j)] = np.exp(-0.5 * distance / _LENGTH**2)
        equal[np.ix_(i, j)] = distance < 1e-12
    one, two = np.maximum(a.total, _SMALLEST), np.maximum(b.total, _SMALLEST)
    return np.stack(
        [
            1.0 / (one[:, None] * two[None, :]),
            np.ones_like(same),
            (a.parts / one[:, None]) @ (b.parts / two[:, None]).T,
            (a.nodes / one)[:, None] * (b.nodes / two)[None, :],
            same,
            smooth,
            equal,
        ]
    )
