"""The time of one kernel signature as a function of its channel counts: a staircase with slopes.

Kernels work on blocks of channels, so that time steps at multiples of a block and is flat, or has
a smaller slope, in between; some run finer below the first block. The mean is a non-negative
combination of such functions (products over the channel counts), found by non-negative least
squares, which picks few of them and never falls where the measurements rise. Where a runtime takes
another algorithm for other counts of channels read (below a block, in blocks, ragged), each of
these regimes has functions of its own, if that is the likelier. A Gaussian process on what is left
bends it to the measurements and gives the standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.context import BLOCK
from autoprune.cost.matern import distance, matern
from autoprune.cost.steps import basis, basis_by_regime, merge_regimes, surrounded, volume

#: At most this many points condition the Gaussian process.
_POINTS = 400
#: So many shapes are predicted at once: each is compared with all points, which takes memory.
_AT_ONCE = 4096
#: At most this many points choose the process's covariance.
_CHOOSING = 80
#: What that is chosen from: the block that matters, the multiple whose lack sets shapes beyond it
#: apart and how far, the length scale in octaves, and the share of what is particular to a shape.
_EMBEDDINGS = (
    (1, 1, 0.0),
    (8, 4, 1.0),
    (8, 8, 1.0),
    (16, 4, 1.0),
    (16, 4, 4.0),
    (16, 16, 1.0),
    (32, 8, 1.0),
    (32, 32, 1.0),
)
_LENGTHS = (0.3, 1.0, 3.0, 9.0)
_OWN = (0.05, 0.3)
_FOLDS = 5
#: So many shapes at least before regimes are told apart, and of each of them.
_ENOUGH, _OF_EACH = 15, 4
#: Counts at which regimes lean on what all shapes together say, and how much (to 1 of a shape).
_ENDS = np.array([1, 4, 8, 15, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 256, 512, 1024])
_LEAN = 0.1
#: How often the mean is fitted, each time relative to the one before (and to so much of the mean
#: time at least).
_REWEIGHTED, _LEAST_TIME = 3, 0.02


class Staircase:
    """A fitted signature.

    Args:
        x: (N, D + flags) distinct channel counts, and flags of what surrounds the kernel.
        y: (N,) their mean times, not negative.
        noise: (N,) standard deviation of each mean.
        choose: whether to choose the process's covariance; else an ordinary one is taken, which
            is quicker and does for what takes little time.
        flags: how many there are.
        block: channels in a block of the runtime's (see `context`).
    """

    def __init__(
        self,
        x: Ints,
        y: Floats,
        noise: Floats,
        *,
        choose: bool = True,
        flags: int = 0,
        block: int = BLOCK,
    ) -> None:
        self._flags, self.block = flags, block
        self.low, self.high = x.min(axis=0), x.max(axis=0)
        self._known = {tuple(row) for row in x.tolist()}
        self._floor = max(0.02 * float(y.max()), 1e-12)
        # One or two points: proportional to the product of the channel counts.
        self._few = len(x) < 3
        pick = np.arange(len(x))
        if len(x) > _POINTS:
            pick = np.lexsort(x.T[::-1])[np.linspace(0, len(x) - 1, _POINTS).astype(int)]
        self._index = {tuple(row): i for i, row in enumerate(x[pick].tolist())}
        self._grid = (_EMBEDDINGS, _LENGTHS, _OWN) if choose else (_EMBEDDINGS[:1], (1.0,), (0.3,))
        self._least = 0.002 if len(x) >= 6 else 0.1  # a few points tell nothing of the others
        self._norm: Floats
        self._coefficients: Floats
        self._basis: Callable[[Ints], Floats] = basis
        features = self._choose_basis(x, y)
        mean = features @ self._coefficients
        scale = mean + self._floor
        residual = (y - mean) / scale
        self._condition(x[pick], residual[pick], (noise / scale)[pick])
        self._widening = 1.0
        if choose and len(pick) >= 15:
            self._widening = self._cross_validated(features[pick], y[pick], noise[pick])

    def _features(self, x: Ints) -> Floats:
        counts, flags = self._split(x)
        if self._few:
            return volume(counts)[:, None]
        return np.hstack([self._basis(counts), *surrounded(counts, flags, self.block)])

    def _choose_basis(self, x: Ints, y: Floats) -> Floats:
        """Fit the mean, apart for each regime where that is the likelier; its (N, B) features."""
        features = self._features(x)
        unlikely = self._fit_all(features, y)
        if len(x) < _ENOUGH or x.shape[1] - self._flags != 2:
            return features
        together = self._basis, self._norm, self._coefficients, features
        # A regime's own shapes say nothing of its ends where they were not measured: there it leans
        # on what all shapes together say.
        ends = [np.unique(np.clip(_ENDS, x[:, d].min(), x[:, d].max())) for d in (0, 1)]
        grid = np.zeros((len(ends[0]) * len(ends[1]), x.shape[1]), dtype=x.dtype)
        grid[:, 0] = np.repeat(ends[0], len(ends[1]))
        grid[:, 1] = np.tile(ends[1], len(ends[0]))
        believed = self._mean(grid)
        self._basis = partial(
            basis_by_regime, merged=merge_regimes(x, _OF_EACH, self.block), block=self.block
        )
        features = self._features(x)
        if self._fit_all(features, y, (self._features(grid), believed)) > unlikely:
            self._basis, self._norm, self._coefficients, features = together
        return features

    def _fit_all(
        self, features: Floats, y: Floats, lean: tuple[Floats, Floats] | None = None
    ) -> float:
        """Fit the mean to all shapes; how unlikely they are by it.

        By Akaike's criterion for few points (Hurvich and Tsai 1989), of errors relative to what is
        fitted.
        """
        self._norm = np.maximum(features.max(axis=0), 1e-12)
        self._coefficients = self._fit_mean(features, y, lean)
        scale = features @ self._coefficients + self._floor
        square = float((((y + self._floor) / scale - 1.0) ** 2).mean())
        used = int(np.count_nonzero(self._coefficients))
        spread = len(y) * np.log(max(square, 1e-12)) + 2.0 * float(np.log(scale).sum())
        return float(spread + 2.0 * used * len(y) / max(len(y) - used - 1, 1))

    def _split(self, x: Ints) -> tuple[Ints, Ints]:
        """Channel counts, and flags."""
        at = x.shape[1] - self._flags
        return x[:, :at], x[:, at:]

    def _fit_mean(
        self, features: Floats, y: Floats, lean: tuple[Floats, Floats] | None = None
    ) -> Floats:
        """Least squares of relative deviations.

        They are relative to what is fitted: relative to the measurements themselves, the sum of
        many kernels would be too low by the square of what is left. `lean` is features and times
        that count a little too.
        """
        about = y
        for _ in range(_REWEIGHTED):
            weight = 1.0 / (about + self._floor)
            scaled, wanted = features / self._norm * weight[:, None], y * weight
            if lean is not None:
                less = _LEAN / (lean[1] + self._floor)
                scaled = np.vstack([scaled, lean[0] / self._norm * less[:, None]])
                wanted = np.append(wanted, lean[1] * less)
            coefficients = fit_nonnegative(scaled, wanted) / self._norm
            about = features @ coefficients + _LEAST_TIME * float(y.mean())
        return np.asarray(coefficients)

    def _cross_validated(self, features: Floats, y: Floats, noise: Floats) -> float:
        """Factor by which errors at points left out exceed their intervals (at least 1).

        The likelihood can't know it: the mean was fitted to the same points.
        """
        fold = np.random.default_rng(0).permutation(len(y)) % _FOLDS
        correlation = matern(distance(self._where, self._where) / self._length)
        z = np.zeros(len(y))
        for k in range(_FOLDS):
            out, rest = fold == k, fold != k
            mean = features @ self._fit_mean(features[rest], y[rest])
            scale = mean + self._floor
            residual, error = (y - mean) / scale, noise / scale
            factor, alpha, _, _ = self._solve(
                correlation[np.ix_(rest, rest)], self._own, residual[rest], error[rest]
            )
            cross = correlation[np.ix_(out, rest)]
            left = 1.0 + self._own**2 - (cross * cho_solve(factor, cross.T).T).sum(axis=1)
            std = np.sqrt(self._variance * np.maximum(left, 1e-6) + error[out] ** 2)
            z[out] = np.abs(residual[out] - cross @ alpha) / std
        return float(np.clip(np.quantile(z, 0.9) / 1.645, 1.0, 4.0))

    def _embed(self, x: Ints, embedding: tuple[int, int, float]) -> Floats:
        counts, flags = self._split(x)
        where = _embed(counts, *embedding)
        return np.hstack([where, flags.astype(np.float64)]) if embedding[2] > 0 else where

    def _mean(self, x: Ints) -> Floats:
        return np.asarray(self._features(x) @ self._coefficients, dtype=np.float64)

    def _condition(self, x: Ints, residual: Floats, noise: Floats) -> None:
        """Choose the process by its likelihood (the amplitude in closed form) and condition it."""
        some = np.arange(len(x))
        if len(x) > _CHOOSING:
            some = np.random.default_rng(0).permutation(len(x))[:_CHOOSING]
        best = -np.inf
        embeddings, lengths, shares = self._grid
        for embedding in embeddings:
            where = self._embed(x[some], embedding)
            apart = distance(where, where)
            for length in lengths:
                correlation = matern(apart / length)
                for own in shares:
                    found = self._solve(correlation.copy(), own, residual[some], noise[some])
                    if found[3] > best:
                        best, self._own, self._length = found[3], own, length
                        self._embedding = embedding
        self._where = self._embed(x, self._embedding)
        correlation = matern(distance(self._where, self._where) / self._length)
        self._factor, self._alpha, self._variance, _ = self._solve(
            correlation, self._own, residual, noise
        )

    def _solve(
        self, gram: Floats, own: float, residual: Floats, noise: Floats
    ) -> tuple[Any, Floats, float, float]:
        """Factor of the covariance over its amplitude, solution, amplitude², log likelihood."""
        guess = max(float(np.sqrt((residual**2).mean())), self._least)
        gram[np.diag_indices(len(gram))] += own**2 + (noise / guess) ** 2 + 1e-6
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        alpha = cho_solve(factor, residual, check_finite=False)
        variance = max(float(residual @ alpha) / len(gram), self._least**2)
        half_log_det = float(np.log(np.diag(factor[0])).sum())
        return factor, alpha, variance, -0.5 * len(gram) * np.log(variance) - half_log_det

    def measured(self, x: Ints) -> npt.NDArray[np.bool_]:
        """(N,) whether the very shape was measured."""
        return np.array([tuple(row) in self._known for row in x.tolist()], dtype=bool)

    def inside(self, x: Ints) -> npt.NDArray[np.bool_]:
        """(N,) whether a shape lies within the range that was measured."""
        return np.asarray(((x >= self.low) & (x <= self.high)).all(axis=1))

    def predict(self, x: Ints) -> tuple[Floats, Floats]:
        """Mean and standard deviation, each (N,), of (N, D) channel counts."""
        parts = [self._predict(x[at : at + _AT_ONCE]) for at in range(0, len(x) or 1, _AT_ONCE)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _predict(self, x: Ints) -> tuple[Floats, Floats]:
        mean = self._mean(x)
        scale = mean + self._floor
        cross = matern(distance(self._embed(x, self._embedding), self._where) / self._length)
        for i, row in enumerate(x.tolist()):
            j = self._index.get(tuple(row))
            if j is not None:
                cross[i, j] += self._own**2
        solved = cho_solve(self._factor, cross.T)
        unexplained = 1.0 + self._own**2 - (cross * solved.T).sum(axis=1)
        value = np.maximum(mean + scale * (cross @ self._alpha), 0.0)
        relative = self._widening * np.sqrt(self._variance * np.maximum(unexplained, 1e-6))
        return value, scale * relative


def _embed(x: Ints, block: int, multiple: int, weight: float) -> Floats:
    """(N, 3·D) where two shapes lie close if they take like times.

    Octaves of the counts and of their blocks, and whether a count beyond one block is ragged.
    """
    octaves: Floats = np.log2(np.maximum(x, 1).astype(np.float64))
    if weight == 0:
        return octaves
    blocks = np.log2(np.maximum(-(-x // block), 1).astype(np.float64))
    ragged = ((x > block) & (x % multiple != 0)).astype(np.float64) * weight
    result: Floats = np.hstack([octaves, blocks, ragged])
    return result


def fit_nonnegative(a: Floats, b: Floats) -> Floats:
    """Non-negative least squares, a little of the coefficients' sum added so that few are used."""
    used = np.flatnonzero(np.abs(a).max(axis=0) > 0)
    penalty = np.full((1, len(used)), 1e-3)
    solution = np.zeros(a.shape[1])
    solution[used], _ = nnls(
        np.vstack([a[:, used], penalty]), np.append(b, 0.0), maxiter=30 * len(used) + 100
    )
    return solution
