"""What a metric will be anywhere between a narrow and the dense network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.searchers.losses import LossFitter, LossModel
from autoprune.searchers.surrogate import Surrogate
from autoprune.space.space import SearchSpace


@dataclass(frozen=True)
class FrontModel:
    """A metric over the whole range of costs: growing convex curves, and a process for the rest.

    What is lost against the best adds up over the groups as long as it is little, and saturates
    where the network collapses; its logarithm beyond `scale` is what the curves are fitted to
    (see `LossFitter`), and a Gaussian process to what they leave unexplained.

    Attributes:
        space: the choices.
        best: the greatest value seen, from which losses count.
        scale: losses beyond it count by their logarithm.
        curves: what each group's choice loses.
        rest: what the curves leave unexplained.
    """

    space: SearchSpace
    best: float
    scale: float
    curves: LossModel
    rest: Surrogate

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        fitter: LossFitter,
        levels: Ints,
        values: Floats,
        like: FrontModel | None = None,
    ) -> FrontModel:
        """Fit to (N, n) levels and their (N,) values, of which more is better.

        Args:
            space: the choices.
            fitter: of the space.
            levels: of the trials.
            values: of the metric.
            like: a model whose hyper-parameters are kept.
        """
        best = float(values.max())
        lost = best - values
        scale = float(np.median(lost[lost > 0])) if (lost > 0).any() else 1.0
        compressed = scale * np.log1p(lost / scale)
        curves = fitter.fit(levels, compressed)
        rest = Surrogate.fit(
            _features(space, levels),
            compressed - curves.predict(levels),
            None if like is None else like.rest,
        )
        return cls(space, best, scale, curves, rest)

    def predict(self, levels: Ints, explore: float = 0.0) -> Floats:
        """(K,) values of (K, n) levels, `explore` standard deviations on the good side."""
        mean, std = self.rest.predict(_features(self.space, levels))
        lost = self.curves.predict(levels) + mean - explore * std
        # No network is believed to be much better than the best that was seen.
        value: Floats = self.best - self.scale * np.expm1(np.clip(lost / self.scale, -0.5, 30.0))
        return value


def _features(space: SearchSpace, levels: Ints) -> Floats:
    position: Floats = space.position(levels)[:, space.free]
    return position
