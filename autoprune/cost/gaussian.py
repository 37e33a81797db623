"""A Gaussian process for times: what two Matérn processes at different scales say of a shape.

A kernel's time is smooth in its shape over most of the range and jumps where the runtime takes
another algorithm, so the covariance is a sum of two Matérn 3/2 terms, each with a length scale for
every feature. The scales are those of the greatest marginal likelihood (Rasmussen and Williams,
"Gaussian Processes for Machine Learning", 2006, chapter 5); its gradient needs only matrix
products. Measurements that contradict their neighbours (a spike of the machine) are given noise of
their own size, so that they bend nothing, and the standard deviation is scaled so that errors at
points left out fit it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from scipy.optimize import minimize
from scipy.special import erfc

from autoprune.core.cost import Floats

#: Where the search for the scales begins: root mean square length of each term in features of
#: unit variance, its share of the amplitude, and the relative noise; and how freely they move.
_SCALES, _SHARES, _NOISE, _STIFFNESS = (0.5, 0.15), (1.0, 0.25), 0.05, 0.02
#: At most this many points choose the scales at first, in so many steps; all of them, up to so
#: many, improve them in a few steps more.
_FIRST, _FIRST_STEPS, _ALL, _ALL_STEPS = 700, 60, 2500, 20
#: Points weighed in full when choosing one to measure: those that lower the variance the most.
_WEIGHED = 150
#: Errors of so many standard deviations at points left out are those of the measurement.
_SPIKE = 3.0
#: No scale moves further from where it began (log).
_FARTHEST = 15.0
_JITTER = 1e-8


class GaussianProcess:
    """Conditioned on N points of D features.

    Args:
        x: (N, D) features of about unit variance.
        y: (N,) values around 0.
        seed: of the choice of points that the scales are fitted to.

    Attributes:
        theta: (2·(D + 1) + 1,) logarithms of each term's inverse lengths and amplitude, and of
            the noise.
        widening: factor on the standard deviation, from errors at points left out.
    """

    def __init__(self, x: Floats, y: Floats, seed: int = 0) -> None:
        self._x, self._y = x, y
        start = self.theta = self._start()
        order = np.random.default_rng(seed).permutation(len(x))
        self.theta = self._improve(start, order[:_FIRST], np.ones(len(x)), _FIRST_STEPS)
        weight = self._spikes()
        self.theta = self._improve(start, order[:_ALL], weight, _ALL_STEPS)
        weight = self._spikes()
        self._condition(weight)
        self.widening = self._calibrated()

    def predict(self, x: Floats, chunk: int = 2000) -> tuple[Floats, Floats]:
        """Mean and standard deviation, each (M,), of one measurement at (M, D) points."""
        mean, std = np.empty(len(x)), np.empty(len(x))
        for i in range(0, len(x), chunk):
            cross = self._covariance(x[i : i + chunk])
            mean[i : i + chunk] = cross @ self._alpha
            explained = ((cross @ self._inverse) * cross).sum(axis=1)
            left = np.maximum(self._amplitude - explained, 0.0) + self._noise
            std[i : i + chunk] = self.widening * np.sqrt(left)
        return mean, std

    def most_telling(
        self, x: Floats, count: int, within: float
    ) -> tuple[npt.NDArray[np.intp], Floats]:
        """Which of (M, D) points to measure next, one after the other.

        Each is the one that lifts the expected number of the M points predicted with an error of
        at most `within` the most, given those before it (their values don't matter to it). The
        point with the largest variance of its own would lie at the rim, where it tells little of
        the others (Cohn, "Neural Network Exploration Using Optimal Experiment Design", 1996), and
        where predictions are good enough more points bring nothing.

        Returns:
            (count,) indices, and (count,) by how many points each lifts that number.
        """
        cross = self._covariance(x)
        covariance = self._covariance(x, x) - cross @ self._inverse @ cross.T
        count = min(count, len(x))
        chosen, gains = np.empty(count, dtype=np.intp), np.empty(count)
        free = np.ones(len(x), dtype=bool)
        for i in range(count):
            variance = np.maximum(np.diag(covariance), 0.0)
            total = variance + self._noise
            lowered = np.where(free, (covariance**2).sum(axis=1) / total, -1.0)
            best = np.argsort(-lowered)[:_WEIGHED]
            left = np.maximum(variance - covariance[best] ** 2 / total[best, None], 0.0)
            missed = self._missed(variance, within).sum() - self._missed(left, within).sum(axis=1)
            gain = np.where(free[best], missed, -1.0)
            j = int(best[np.argmax(gain)])
            chosen[i], gains[i] = j, gain.max()
            free[j] = False
            covariance -= np.outer(covariance[j], covariance[j]) / total[j]
        return chosen, gains

    def _missed(self, variance: Floats, within: float) -> Floats:
        """Probability of an error beyond `within`, of a measurement."""
        std = self.widening * np.sqrt(2.0 * (variance + self._noise))
        return np.asarray(erfc(within / std))

    def _start(self) -> Floats:
        features = self._x.shape[1]
        spread = max(float(self._y.std()), 1e-3)
        parts = [
            np.append(np.full(features, np.log(scale / np.sqrt(features))), np.log(spread * share))
            for scale, share in zip(_SCALES, _SHARES, strict=True)
        ]
        return np.append(np.concatenate(parts), np.log(_NOISE))

    def _improve(
        self, prior: Floats, rows: npt.NDArray[np.intp], weight: Floats, steps: int
    ) -> Floats:
        """Climb the marginal likelihood of some of the points."""
        x, y, own = self._x[rows], self._y[rows], weight[rows]

        def loss(at: Floats) -> tuple[float, Floats]:
            off = at - prior
            if np.abs(off).max() > _FARTHEST:
                return 1e10, np.zeros_like(at)
            value, gradient = _likelihood(at, x, y, own)
            return value + 0.5 * _STIFFNESS * float(off @ off), gradient + _STIFFNESS * off

        found = minimize(loss, self.theta, jac=True, method="L-BFGS-B", options={"maxiter": steps})
        return np.asarray(found.x) if np.isfinite(found.fun) else self.theta

    def _spikes(self) -> Floats:
        """(N,) factors on the noise variance: above 1 for what contradicts its neighbours."""
        weight = np.ones(len(self._x))
        for _ in range(2):
            self._condition(weight)
            square = self._left_out**2
            spike = square > _SPIKE**2 * self._left_out_variance
            weight = np.where(spike, np.maximum(square / self._noise, 1.0), 1.0)
        return weight

    def _condition(self, weight: Floats) -> None:
        self._noise = float(np.exp(2 * self.theta[-1]))
        self._amplitude = sum(float(np.exp(2 * a)) for _, a in _terms(self.theta))
        gram = self._covariance(self._x, self._x)
        gram[np.diag_indices(len(gram))] += self._noise * weight + _JITTER
        factor, _ = lapack.dpotrf(gram, lower=1)
        self._inverse = _mirrored(lapack.dpotri(factor, lower=1)[0])
        self._alpha = self._inverse @ self._y
        # Leave-one-out errors in closed form (Rasmussen and Williams 2006, section 5.4.2), and
        # their variance for ordinary noise.
        variance = 1.0 / np.diag(self._inverse)
        self._left_out = self._alpha * variance
        self._left_out_variance = np.maximum(variance - self._noise * (weight - 1), self._noise)

    def _calibrated(self) -> float:
        if len(self._x) < 20:
            return 1.0
        z = np.abs(self._left_out) / np.sqrt(self._left_out_variance)
        return float(np.clip(np.quantile(z, 0.9) / 1.645, 0.7, 3.0))

    def _covariance(self, a: Floats, b: Floats | None = None) -> Floats:
        b = self._x if b is None else b
        result = np.zeros((len(a), len(b)))
        for inverse, amplitude in _terms(self.theta):
            lengths = np.exp(inverse)
            value, _ = _matern(_squared(a * lengths, b * lengths))
            result += np.exp(2 * amplitude) * value
        return result


def _terms(theta: Floats) -> list[tuple[Floats, float]]:
    """Each term's log inverse lengths and log amplitude."""
    parts = theta[:-1].reshape(len(_SCALES), -1)
    return [(part[:-1], float(part[-1])) for part in parts]


def _likelihood(theta: Floats, x: Floats, y: Floats, weight: Floats) -> tuple[float, Floats]:
    """Negative log marginal likelihood and its gradient."""
    noise = np.exp(2 * theta[-1]) * weight
    gram = np.diag(noise + _JITTER)
    kept = []
    for inverse, amplitude in _terms(theta):
        where = x * np.exp(inverse)
        value, slope = _matern(_squared(where, where))
        variance = np.exp(2 * amplitude)
        value *= variance
        slope *= variance
        gram += value
        kept.append((where, value, slope))
    factor, failed = lapack.dpotrf(gram, lower=1)
    if failed:
        return 1e10, np.zeros_like(theta)
    solved = _mirrored(lapack.dpotri(factor, lower=1)[0])
    alpha = solved @ y
    loss = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor)).sum())
    pull = np.outer(alpha, alpha) - solved
    gradient = []
    for where, value, slope in kept:
        # d/dlog w of the squared distance between i and j is 2·(x_i − x_j)²: the sum over all
        # pairs is a quadratic form of a graph Laplacian.
        slope *= pull
        lengths = (slope.sum(axis=1)[:, None] * where**2).sum(axis=0)
        lengths -= (where * (slope @ where)).sum(axis=0)
        gradient.append(np.append(lengths, -np.sum(pull * value)))
    gradient.append(np.array([-(noise * np.diag(pull)).sum()]))
    return loss, np.concatenate(gradient)


def _matern(squared: Floats) -> tuple[Floats, Floats]:
    """Matérn 3/2 of squared distances, and −2 times its derivative by them."""
    r = np.sqrt(3.0 * squared)
    decay = np.exp(-r)
    return (1.0 + r) * decay, 3.0 * decay


def _squared(a: Floats, b: Floats) -> Floats:
    result = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(result, 0.0))


def _mirrored(lower: Floats) -> Floats:
    """A symmetric matrix of which LAPACK filled the lower triangle."""
    result = np.tril(lower)
    result += np.tril(lower, -1).T
    return result
