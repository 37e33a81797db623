"""An additive model of what pruning costs: one growing, convex curve for each decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.space.profiles import kernels_touched
from autoprune.space.space import SearchSpace

#: Powers of the lost share that make up a curve; each grows and is convex.
POWERS = (1.0, 2.0, 4.0)
#: How much of a curve is put into each power before anything is known.
PRIOR = (0.1, 0.6, 0.3)
#: Strengths of the pull towards the prior that cross-validation chooses from.
PULLS = (0.03, 0.3, 3.0)
FOLDS = 5


@dataclass(frozen=True)
class LossModel:
    """Predicted loss of each choice of each decision; a candidate's is their sum.

    Attributes:
        table: (n, C) loss of each choice, 0 for a decision's dense width; rows of decisions with
            fewer choices are filled up with their last.
        floor: the predicted loss of the dense network.
        error: root mean square of what it gets wrong where it was not fitted.
    """

    table: Floats
    floor: float
    error: float

    def predict(self, levels: npt.ArrayLike) -> Floats:
        """(M,) predicted losses of (M, n) levels."""
        rows = np.atleast_2d(np.asarray(levels, dtype=np.int64))
        total: Floats = self.floor + self.table[np.arange(len(self.table)), rows].sum(axis=1)
        return total


class LossFitter:
    """Fits a `LossModel` to trials: non-negative least squares, pulled towards a prior.

    A decision's curve is a sum of powers of the share it loses (or, where given, its measured or
    estimated sensitivity too), with weights of at least 0: pruning more never helps, and each
    further channel costs more than the one before. The prior has all curves alike but for how
    many kernels share the channels, its scale fitted; how strongly curves are pulled to it is
    chosen by cross-validation.

    Args:
        space: the choices.
        sensitivity: decision's group → (choices,) loss of each choice in any unit, or None.
    """

    def __init__(self, space: SearchSpace, sensitivity: dict[str, Floats] | None = None) -> None:
        self.space = space
        n, widest = len(space), int(space.counts.max(initial=1))
        levels = np.minimum(np.arange(widest)[None], space.counts[:, None] - 1)
        kept = np.stack([space.choice(levels[:, c]) for c in range(widest)], axis=1)
        lost = 1.0 - kept / np.maximum(space.units[:, None], 1)
        shared = kernels_touched(space).astype(np.float64)
        usual = float(np.median(shared[space.free])) if len(space.free) else 1.0
        importance = np.maximum(shared, 1.0) / max(usual, 1.0)
        parts = [importance[:, None] * lost**power for power in POWERS]
        prior = [np.full(n, share) for share in PRIOR]
        if sensitivity is not None:
            given = np.zeros((n, widest))
            for index, decision in enumerate(space.decisions):
                if decision.group in sensitivity:
                    given[index] = sensitivity[decision.group][levels[index]]
            known = given.max(axis=1) > 0
            given /= max(float(given.max()), 1e-300)
            parts.append(given)
            prior = [np.where(known, 0.0, share) for share in prior] + [np.where(known, 1.0, 0.0)]
        #: (P, n, C) basis functions of each decision at each choice.
        self.basis: Floats = np.stack(parts)
        self._prior: Floats = np.stack(prior).ravel()

    def features(self, levels: npt.ArrayLike) -> Floats:
        """(M, P·n) basis functions of (M, n) levels."""
        rows = np.atleast_2d(np.asarray(levels, dtype=np.int64))
        picked = self.basis[:, np.arange(len(self.space)), rows]
        features: Floats = np.moveaxis(picked, 0, 1).reshape(len(rows), -1)
        return features

    def fit(self, levels: Ints, losses: Floats, weights: Floats | None = None) -> LossModel:
        """The model of (N, n) levels and their (N,) losses; (N,) weights count some more."""
        x = self.features(levels)
        w = np.sqrt(np.ones(len(x)) if weights is None else weights)
        folds = np.arange(len(x)) % min(FOLDS, len(x))
        errors = []
        for pull in PULLS:
            wrong = np.zeros(len(x))
            for fold in range(int(folds.max()) + 1):
                inside = folds != fold
                if not inside.any():
                    continue
                theta, floor = self._solve(x[inside], losses[inside], w[inside], pull)
                wrong[~inside] = losses[~inside] - floor - x[~inside] @ theta
            errors.append(float(np.sqrt(np.mean((w * wrong) ** 2))))
        pull = PULLS[int(np.argmin(errors))]
        theta, floor = self._solve(x, losses, w, pull)
        table = np.einsum("pn,pnc->nc", theta.reshape(self.basis.shape[:2]), self.basis)
        return LossModel(table, floor, min(errors))

    def _solve(self, x: Floats, y: Floats, w: Floats, pull: float) -> tuple[Floats, float]:
        """Weights of at least 0 near the scaled prior, and the loss at nothing pruned."""
        from scipy.optimize import nnls

        share = w**2 / (w**2).sum()
        centre, mean = share @ x, float(share @ y)
        common = (x - centre) @ self._prior
        slope = float((w**2 * common) @ (y - mean))
        spread = float((w**2 * common) @ common)
        # One scale for all, never negative; where the data say nothing, a small one.
        scale = max(slope / spread if spread > 0 else 0.0, 1e-3 * float(np.std(y)) + 1e-12)
        start = scale * self._prior
        # A weight as large as the prior's is pulled as hard as one trial's error of `unit`.
        unit = max(float(np.std(y)), 1e-12) / np.sqrt(max(len(y), 1))
        strength = np.sqrt(pull) * unit / (scale * max(float(self._prior.max()), 1e-12))
        rows = np.concatenate([w[:, None] * (x - centre), strength * np.eye(x.shape[1])])
        target = np.concatenate([w * (y - mean), strength * start])
        theta, _ = nnls(rows, target, maxiter=30 * x.shape[1] + 300)
        return theta, mean - float(centre @ theta)


def losses_of(scores: Floats) -> Floats:
    """Scores to losses that an additive model can fit: 0 for the best, collapse compressed.

    Far below the best, what is lost no longer adds up (accuracy can't fall below chance), so a
    loss counts by the logarithm once it is well past the median one. Failed trials (minus
    infinity) count as the worst that was seen.
    """
    finite = np.isfinite(scores)
    known = np.where(finite, scores, scores[finite].min() if finite.any() else 0.0)
    lost = known.max(initial=-np.inf) - known
    usual = float(np.median(lost[lost > 0])) if (lost > 0).any() else 1.0
    compressed: Floats = 2 * usual * np.log1p(lost / (2 * usual))
    return compressed


def nearness(losses: Floats) -> Floats:
    """(N,) weights: trials near the best count most, for that is where a search looks."""
    usual = max(float(np.median(losses)), 1e-12)
    near: Floats = 1.0 / (1.0 + (losses / usual) ** 2)
    return near
