"""A Gaussian process for accuracy over keep ratios: additive, with some interaction."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky

from autoprune.core.cost import Floats
from autoprune.core.errors import SearchError

#: Length scales, shares of the additive part, and noise variances that are tried.
_LENGTHS = (0.3, 0.7, 1.5)
_SHARES = (0.5, 0.9, 0.99)
_NOISES = (1e-4, 1e-2, 1e-1)


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process whose kernel adds one part for each dimension and one for all.

    Pruning's damage is nearly a sum over groups (each with a curve of its own), which a kernel
    that adds one-dimensional kernels learns from few points (Duvenaud et al. 2011); the joint
    kernel takes what is left. Hyper-parameters are those of a small grid with the greatest
    marginal likelihood.

    Attributes:
        points: (N, d) in [0, 1].
        values: (N,) standardised scores.
        center: what was taken off the scores.
        scale: what they were divided by.
        length: of the kernels.
        share: of the variance in the additive part.
        noise: variance of the noise.
        factor: Cholesky factor of the covariance.
        weights: its inverse times the values.
    """

    points: Floats
    values: Floats
    center: float
    scale: float
    length: float
    share: float
    noise: float
    factor: Floats
    weights: Floats

    @classmethod
    def fit(cls, points: Floats, scores: Floats, like: Surrogate | None = None) -> Surrogate:
        """Fit to (N, d) points and their (N,) scores; with the hyper-parameters of `like` if given.

        Raises:
            SearchError: there is no point.
        """
        if not len(points):
            raise SearchError("a surrogate must be fitted to at least one point, got none")
        center, scale = float(np.mean(scores)), float(np.std(scores)) or 1.0
        # Scores of collapsed networks would rule the fit: what is far below counts as not so far.
        values = np.clip((scores - center) / scale, -3.0, None)
        if like is not None:
            kernels = _kernels(points, points, like.length)
            settings = (like.length, like.share, like.noise)
            return cls._solve(points, values, center, scale, *settings, kernels)
        fitted = []
        for length in _LENGTHS:
            kernels = _kernels(points, points, length)
            for share, noise in itertools.product(_SHARES, _NOISES):
                fitted.append(
                    cls._solve(points, values, center, scale, length, share, noise, kernels)
                )
        return max(fitted, key=lambda surrogate: surrogate.likelihood)

    @classmethod
    def _solve(
        cls,
        points: Floats,
        values: Floats,
        center: float,
        scale: float,
        length: float,
        share: float,
        noise: float,
        kernels: tuple[Floats, Floats],
    ) -> Surrogate:
        additive, joint = kernels
        covariance = share * additive + (1 - share) * joint
        covariance[np.diag_indices(len(points))] += noise
        factor = cholesky(covariance, lower=True)
        weights = cho_solve((factor, True), values)
        return cls(points, values, center, scale, length, share, noise, factor, weights)

    @property
    def likelihood(self) -> float:
        """Logarithm of the marginal likelihood, up to a constant."""
        return float(-0.5 * self.values @ self.weights - np.log(np.diag(self.factor)).sum())

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """(M,) means and standard deviations of the scores of (M, d) points."""
        additive, joint = _kernels(points, self.points, self.length)
        cross = self.share * additive + (1 - self.share) * joint
        mean = cross @ self.weights
        explained = np.einsum("ij,ji->i", cross, cho_solve((self.factor, True), cross.T))
        variance = np.maximum(1.0 - explained, 1e-12)
        return self.center + self.scale * mean, self.scale * np.sqrt(variance)

    def believing(self, points: Floats) -> Surrogate:
        """This one, taking its own means at (M, d) points for observed ("kriging believer")."""
        mean, _ = self.predict(points)
        everything = np.concatenate([self.points, points])
        values = np.concatenate([self.values, (mean - self.center) / self.scale])
        kernels = _kernels(everything, everything, self.length)
        settings = (self.length, self.share, self.noise)
        return self._solve(everything, values, self.center, self.scale, *settings, kernels)


def _kernels(left: Floats, right: Floats, length: float) -> tuple[Floats, Floats]:
    """The additive and the joint kernel of (N, d) and (M, d) points, each (N, M) with 1 at 0."""
    if not left.shape[1]:
        ones = np.ones((len(left), len(right)))
        return ones, ones
    additive = np.zeros((len(left), len(right)))
    total = np.zeros_like(additive)
    for column in range(left.shape[1]):
        square = (left[:, column, None] - right[None, :, column]) ** 2
        total += square
        square *= -0.5 / length**2
        additive += np.exp(square, out=square)
    dimension = left.shape[1]
    joint: Floats = np.exp(-0.5 * total / dimension / (0.5 * length) ** 2)
    return additive / dimension, joint
