"""What our searchers share: proposals projected onto the budget, none of them twice."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import CandidateError, ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext, Searcher
from autoprune.space.projection import Fill, Oracle, check_feasible, project_levels


class ProposingSearcher(Searcher):
    """A searcher that proposes; this class sees to the budget and to repeats.

    A subclass gives `_propose`, and `_learn` if it learns. `suggest` asks it for proposals until
    one is new, `tries` times at most; then it gives fewer candidates than were asked for, and []
    means exhausted. Each suggestion has random numbers of its own in `rng`, which depend on the
    seed and on how many candidates are `known` alone, so that a resumed run need not draw all
    those before it again.

    Raises:
        InfeasibleBudgetError: nothing in the space holds the budget.
    """

    #: Proposals in a row that may be repeats before the searcher counts as exhausted.
    tries: ClassVar[int] = 64

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        check_feasible(context.space, context.budget, context.cost_model, z=context.z)
        self.space = context.space
        self.oracle = Oracle(context.space, context.budget, context.cost_model, context.z)
        self._entropy = (context.seed, zlib.crc32(type(self).__name__.encode()))
        self.rng = np.random.default_rng(self._entropy)
        self._seen: set[Candidate] = set()
        self._exhausted = False

    @property
    def known(self) -> int:
        """How many candidates were suggested, or told of by others."""
        return len(self._seen)

    def suggest(self, count: int = 1) -> list[Candidate]:
        """Up to `count` new candidates that hold the budget; [] when nothing is left to try.

        Raises:
            ConfigError: `count` is below 1.
        """
        if count < 1:
            raise ConfigError(f"count must be at least 1, got {count}")
        found: list[Candidate] = []
        while len(found) < count and not self._exhausted:
            candidate = self._next()
            if candidate is None:
                self._exhausted = not found
                break
            found.append(candidate)
        return found

    def update(self, completed: Sequence[Trial], pending: Sequence[Candidate] = ()) -> None:
        """Learn from finished trials; those of other searchers too, which aren't repeated."""
        self._exhausted = False  # what is learned may lead somewhere new
        self._seen.update(trial.candidate for trial in completed)
        self._seen.update(pending)
        placed = dict(self._placed(trial.candidate for trial in completed))
        known = [(t, placed[t.candidate]) for t in completed if t.candidate in placed]
        self._learn(known, pending)

    def _placed(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, Ints]]:
        """Candidates with their (n,) levels, but for those outside the space (the dense one)."""
        for candidate in candidates:
            try:
                yield candidate, self.space.levels(candidate)
            except CandidateError:
                continue

    def _within(self, trial: Trial) -> bool:
        """Whether a trial holds the budget as it was predicted when it was suggested."""
        broken = self.context.budget.violations(trial.predicted, self.context.z)
        return max(broken.values()) <= 1e-6

    def _next(self) -> Candidate | None:
        self.rng = np.random.default_rng((*self._entropy, 1 + self.known))
        for _ in range(self.tries):
            levels = self._propose()
            if levels is None:
                return None
            candidate = self.space.candidate(levels)
            if candidate not in self._seen:
                self._seen.add(candidate)
                self._taken(candidate, levels)
                return candidate
            self._refused(levels)
        return None

    def _spread(
        self, step: int, design: Floats, startup: int, growth: float, around: Floats | None = None
    ) -> Ints:
        """The uniform candidate, then keep ratios around it, spread more and more.

        Args:
            step: from 0.
            design: (startup, n) points in [0, 1]; beyond it points are drawn.
            startup: steps until the spread is widest.
            growth: of the spread until then.
            around: (n,) kept units of another candidate to spread around.
        """
        units = self.space.units.astype(np.float64)
        if step == 0 and around is None:
            return self._hold(units, fill="target")
        point = design[step] if step < len(design) else self.rng.random(len(self.space))
        spread = 0.2 + growth * min(step / startup, 1.0)
        wanted = (units if around is None else around) * np.exp(spread * (2 * point - 1))
        return self._hold(np.minimum(wanted, units))

    def _hold(self, wanted: Floats, fill: Fill = "budget") -> Ints:
        """(n,) levels near (n,) wanted units that hold the budget."""
        return project_levels(self.oracle, wanted, fill=fill)

    @abstractmethod
    def _propose(self) -> Ints | None:
        """(n,) levels that hold the budget, or None when there is nothing more to propose."""

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        """A proposal was new and is suggested."""

    def _refused(self, levels: Ints) -> None:
        """A proposal had been seen before."""

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        """Learn from finished trials and their (n,) levels."""
