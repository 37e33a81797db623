"""Uniform pruning, and what lies around it: the baseline that every search must beat."""

from __future__ import annotations

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher


class UniformSearcher(ProposingSearcher):
    """One keep ratio for all groups, the largest that holds the budget; then its neighbours.

    In order: the same keep ratio everywhere, scaled until the budget holds; the same with what is
    left of the budget used up; then profiles that keep more in early or in late groups, in groups
    with many or with few units, by ±10 % to ±60 %; then random ones, each group's keep ratio off
    the uniform one by a factor whose spread grows from 5 % to 50 %. It does not learn.
    """

    replays = False

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        self._skipped = 0
        count = len(self.space)
        depth = np.linspace(-1.0, 1.0, count) if count > 1 else np.zeros(count)
        size = np.log(self.space.units)
        spread = float(np.ptp(size)) if count else 0.0
        wide = 2 * (size - size.min()) / spread - 1 if spread > 0 else np.zeros(count)
        self._profiles = [
            1.0 + slope * sign * profile
            for slope in (0.1, 0.2, 0.3, 0.45, 0.6)
            for profile in (depth, wide)
            for sign in (1.0, -1.0)
            if profile.any()
        ]

    def _propose(self) -> Ints | None:
        step = self.known + self._skipped
        units = self.space.units.astype(np.float64)
        if step == 0:
            return self._hold(units, fill="none")
        if step == 1:
            return self._hold(units, fill="target")
        step -= 2
        if step < len(self._profiles):
            return self._hold(units * self._profiles[step])
        spread = min(0.5, 0.05 * (1 + (step - len(self._profiles)) / 10))
        return self._hold(units * np.exp(spread * self.rng.standard_normal(len(units))))

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._skipped = 0

    def _refused(self, levels: Ints) -> None:
        self._skipped += 1
