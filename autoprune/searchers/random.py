"""Random search: points spread over the cube, each brought to the budget."""

from __future__ import annotations

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher


class RandomSearcher(ProposingSearcher):
    """Latin hypercube samples, scaled and filled so that each uses up the budget.

    Points come in blocks: in a block of B every decision takes each of B equal ranges once (McKay
    et al. 1979), so that a short search is spread evenly too.

    Args:
        context: the problem.
        block: points in a Latin hypercube.
    """

    replays = False

    def __init__(self, context: SearchContext, block: int = 16) -> None:
        super().__init__(context)
        if block < 1:
            raise ConfigError(f"block must be at least 1, got {block}")
        self.block = block
        self._again = False

    def _propose(self) -> Ints | None:
        if self._again:  # the point's candidate is known already
            return self._hold(self.space.units_at(self.rng.random(len(self.space))))
        number, place = divmod(self.known, self.block)
        rng = np.random.default_rng((*self._entropy, 0, number))
        points = latin_hypercube(self.block, len(self.space), rng)
        return self._hold(self.space.units_at(points[place]))

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._again = False

    def _refused(self, levels: Ints) -> None:
        self._again = True


def latin_hypercube(count: int, dimension: int, rng: np.random.Generator) -> Floats:
    """(count, dimension) points in [0, 1), one in each of `count` ranges of every dimension."""
    order = np.argsort(rng.random((count, dimension)), axis=0)
    points: Floats = (order + rng.random((count, dimension))) / count
    return points
