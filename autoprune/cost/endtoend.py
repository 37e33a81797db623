"""From summed kernel times to the latency of the whole network, learned from end-to-end runs.

What kernels do not explain (launches, caches, what the runtime's own profiler costs) is a Gaussian
process on top of the sum, relative to it: an offset and a slope, a factor for each kernel
signature and what it depends on, what is particular to shapes (see `landmarks`), a time for each
kernel that runs (a profile adds some to each, so that the sum of many small kernels is too large),
a smooth function of how many elements the network writes (which cache they fit into), and what is
particular to a single candidate: in proportion to its latency, and a time whatever that is. The
last two make the standard deviation honest for candidates never run, small ones too, and let one
that was run be predicted as measured. Candidates measured in one batch share the deviation of the
reference that they were measured beside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from autoprune.core.cost import Floats

#: Prior medians of the standard deviations: offset (in units of the reference's latency), slope,
#: factor of a signature, shapes, all kernels' own time, network, smooth, single candidate in
#: proportion and in units of the reference's latency, batch; last a factor on the stated noise.
_PRIOR = np.log([0.05, 0.15, 0.1, 0.02, 0.07, 0.02, 0.03, 0.01, 0.003, 0.005, 1.0])
_PRIOR_SPREAD = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 1.0, 1.0, 1.0, 1.0, 0.1])
_FACTOR, _BATCH = 2, -2
#: No hyper-parameter is further from its prior's median (log).
_FAR = 6.0
#: Length scale of the smooth part: so many times the elements (log).
_LENGTH = 1.0
#: Sessions of the reference whose mean ratios are told to, each as noisy as a candidate's: where
#: it is not known what was measured in one batch.
_REFERENCES = 3
#: Fewer candidates than so many tell nothing of how wide intervals must be, and what those drawn at
#: random tell counts against so many of which the model's own word holds: from table to table it
#: is off by a good tenth, as is the 90 % quantile of so many.
_FEWEST, _BELIEVED = 10, 60.0
#: Sums below this fraction of the reference count as this, where they divide.
_SMALLEST = 0.01


@dataclass(frozen=True, eq=False)
class Points:
    """Candidates as the end-to-end model sees them.

    Attributes:
        total: (N,) summed kernel times.
        features: (N, F) sums over kernels whose factors are to be learned (see `KernelSums`).
        shapes: (N, S) sums over kernels, by what is particular to their shapes (see `KernelSums`).
        nodes: (N,) number of kernels that run, over the reference's.
        written: (N,) elements that all kernels write.
        network: (N,) number of the network.
        kept: N arrays (G,) of kept fractions.
    """

    total: Floats
    features: Floats
    shapes: Floats
    nodes: Floats
    written: Floats
    network: npt.NDArray[np.intp]
    kept: list[Floats]

    @classmethod
    def concatenate(cls, several: Sequence[Points]) -> Points:
        """Several as one."""
        arrays = {
            f.name: np.concatenate([getattr(p, f.name) for p in several])
            for f in fields(cls)
            if f.name != "kept"
        }
        return cls(**arrays, kept=[k for p in several for k in p.kept])

    def at(self, rows: Sequence[int]) -> Points:
        """Some of the candidates."""
        some = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "kept"}
        return Points(**some, kept=[self.kept[row] for row in rows])


class EndToEnd:
    """Latency ratio of whole networks.

    Args:
        points: N candidates that were measured.
        ratio: (N,) their latency over the reference's.
        noise: (N,) standard deviation of each ratio.
        batch: (N,) number of the batch in which it was measured; below 0 where not known.
        drawn: (N,) which of them were drawn at random. The others were chosen as those that the
            model knew least of, or for another reason, and are no measure of how far it is off.
        factor: prior standard deviation of a signature's factor: small where kernels were timed,
            large where they are guessed.
    """

    def __init__(
        self,
        points: Points,
        ratio: Floats,
        noise: Floats,
        batch: npt.NDArray[np.intp] | None = None,
        *,
        drawn: npt.NDArray[np.bool_] | None = None,
        factor: float = 0.1,
    ) -> None:
        self._points = points
        scale = np.maximum(points.total, _SMALLEST)
        self._noise = np.maximum(noise / scale, 1e-4)
        self._residual = (ratio - points.total) / scale
        together = _together(batch, len(ratio))
        self._terms = np.stack([*_terms(points, points), together])
        self._prior = _PRIOR.copy()
        self._prior[_FACTOR] = np.log(factor)
        start = self._prior.copy()
        bounds = [(at - _FAR, at + _FAR) for at in start]
        found = minimize(
            self._loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 60}
        )
        self._theta = found.x if np.isfinite(found.fun) else start
        gram = self._gram(self._theta)
        # Noise keeps it well conditioned, and predicting comes far more often than fitting.
        self._inverse = np.linalg.inv(gram)
        self._alpha = self._inverse @ self._residual
        self.widening = self._widening(drawn)
        self._shared = 0.0
        if not together.any():
            self._shared = float(np.median(noise / np.maximum(ratio, 1e-9)) / np.sqrt(_REFERENCES))

    def _gram(self, theta: Floats) -> Floats:
        variances = np.exp(2 * theta)
        gram = np.tensordot(variances[:-1], self._terms, axes=1)
        gram[np.diag_indices(len(gram))] += variances[-1] * self._noise**2 + 1e-10
        return np.asarray(gram)

    def _loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log posterior of the hyper-parameters, and its gradient.

        Rasmussen and Williams 2006, equations 5.8 and 5.9.
        """
        try:
            factor = cho_factor(self._gram(theta), lower=True)
        except np.linalg.LinAlgError:
            return 1e9, np.zeros_like(theta)
        inverse = cho_solve(factor, np.eye(len(self._residual)))
        alpha = inverse @ self._residual
        off = (theta - self._prior) / _PRIOR_SPREAD
        loss = 0.5 * self._residual @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        pull = inverse - np.outer(alpha, alpha)
        slopes = np.append(np.tensordot(self._terms, pull, axes=2), np.diag(pull) @ self._noise**2)
        return float(loss), np.exp(2 * theta) * slopes + off / _PRIOR_SPREAD

    def _widening(self, drawn: npt.NDArray[np.bool_] | None) -> float:
        """Factor on standard deviations, by how far candidates are off without themselves.

        Where enough were drawn at random: such that nine in ten of them lie in the 90 % interval.
        Else of all, and intervals are not made narrower.
        """
        z = np.abs(self._alpha) / np.sqrt(np.diag(self._inverse))
        if drawn is not None and drawn.sum() >= _FEWEST:
            z = z[drawn]
            squared = (_BELIEVED + len(z) * _spread(z) ** 2) / (_BELIEVED + len(z))
            return float(np.clip(np.sqrt(squared), 0.5, 3.0))
        return float(np.clip(_spread(z), 1.0, 3.0)) if len(z) >= _FEWEST else 1.0

    def predict(self, points: Points) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the ratio, each (N,).

        Of the true one: what it comes to in many batches, beside many sessions of the reference.
        One that was measured is off from that by `measuring_std` besides.
        """
        variances = np.exp(2 * self._theta[:_BATCH])
        parts = zip(variances, _terms(points, self._points), strict=True)
        cross = np.asarray(sum(variance * part for variance, part in parts))
        scale = np.maximum(points.total, _SMALLEST)
        mean = points.total + scale * (cross @ self._alpha)
        one = np.ones_like(scale)
        squares = [(f**2).sum(axis=1) for f in (points.features, points.shapes)]
        own = np.stack([one, scale**2, *squares, points.nodes**2, *[scale**2] * 3, one], axis=1)
        explained = (cross * (cross @ self._inverse)).sum(axis=1)
        left = own @ variances / scale**2 - explained
        std = self.widening * scale * np.sqrt(np.maximum(left, 1e-8))
        return mean, np.hypot(std, self._shared * mean)

    def measuring_std(self, points: Points, noise: Floats, batches: int = 1) -> Floats:
        """(N,) standard deviation of measured ratios from the true ones.

        Args:
            points: N candidates.
            noise: (N,) standard deviation of each ratio, as its rounds tell it.
            batches: that each was measured in; all ratios of one share the error of the reference.
        """
        batch, factor = self.widening * np.exp(self._theta[_BATCH:])
        session = self._shared or batch
        shared = session / math.sqrt(batches) * points.total
        return np.asarray(np.hypot(factor * noise, shared))


def _spread(z: Floats) -> float:
    """What the standard deviation of |z| would be, were its 90 % quantile of a normal one."""
    return float(np.quantile(z, 0.9)) / 1.645


def _terms(a: Points, b: Points) -> Iterator[Floats]:
    """(N, M) the covariance of each part of the model but the batch's, before its variance."""
    one, two = np.maximum(a.total, _SMALLEST), np.maximum(b.total, _SMALLEST)
    constant = 1.0 / (one[:, None] * two[None, :])
    yield constant
    yield np.ones_like(constant)
    yield (a.features / one[:, None]) @ (b.features / two[:, None]).T
    yield (a.shapes / one[:, None]) @ (b.shapes / two[:, None]).T
    yield (a.nodes / one)[:, None] * (b.nodes / two)[None, :]
    yield (a.network[:, None] == b.network[None, :]).astype(np.float64)
    further = np.log(np.maximum(a.written, 1.0))[:, None] - np.log(np.maximum(b.written, 1.0))
    yield np.exp(-0.5 * (further / _LENGTH) ** 2)
    equal = _equal(a, b)
    yield equal
    yield equal * constant


def _equal(a: Points, b: Points) -> Floats:
    """(N, M) 1 for the same candidate of the same network."""
    equal = np.zeros((len(a.total), len(b.total)))
    for network in set(a.network.tolist()) & set(b.network.tolist()):
        i, j = np.flatnonzero(a.network == network), np.flatnonzero(b.network == network)
        x = np.stack([a.kept[n] for n in i])
        y = np.stack([b.kept[n] for n in j])
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
        equal[np.ix_(i, j)] = squared < 1e-12 * max(x.shape[1], 1)
    return equal


def _together(batch: npt.NDArray[np.intp] | None, count: int) -> Floats:
    """(count, count) 1 for two that were measured in one batch."""
    if batch is None:
        return np.zeros((count, count))
    same = (batch[:, None] == batch[None, :]) & (batch >= 0)[:, None]
    return np.asarray(same, dtype=np.float64)
