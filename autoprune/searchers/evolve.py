"""Local search from the best network so far, guided by a model of what has been seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.mutation import Bools, mutated, reach
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube
from autoprune.searchers.surrogate import Surrogate
from autoprune.space.profiles import known_profiles

#: Trials that the surrogate is fitted to at most: half of them the best, half the latest.
HISTORY = 400


class EvolveSearcher(ProposingSearcher):
    """Evolution with a surrogate: strong where evaluations are few.

    It begins with known profiles, the uniform candidate first (`autoprune.space.profiles`), and a
    small design around that one. Then each suggestion is
    the most promising of many mutants of the best candidates so far, all of which hold
    the budget: some groups give up units and others take them. A Gaussian process with one
    component for each group and one for all together (see `Surrogate`) says which is promising:
    its mean plus `explore` standard deviations. Mutations are large at first and small later.

    Args:
        context: the problem.
        startup: candidates to begin with; None takes a tenth of the trials planned, from 4 to 12.
        parents: how many of the best candidates are mutated.
        mutants: candidates that the surrogate chooses from.
        explore: standard deviations added to the surrogate's mean.
        surrogate: False takes a random mutant instead (plain evolution).
    """

    replays = False

    #: How many decisions a mutation moves on average, one of these for each mutant.
    changes: ClassVar[tuple[float, ...]] = (2.0, 4.0, 8.0)

    def __init__(
        self,
        context: SearchContext,
        startup: int | None = None,
        parents: int = 4,
        mutants: int = 160,
        explore: float = 1.0,
        surrogate: bool = True,
    ) -> None:
        super().__init__(context)
        for name, value in (("startup", startup), ("parents", parents), ("mutants", mutants)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not explore >= 0:
            raise ConfigError(f"explore must be at least 0, got {explore}")
        if startup is None:
            startup = 12 if context.trials is None else min(12, max(4, context.trials // 10))
        self._startup = startup
        self._parents = parents
        self._mutants = mutants
        self._explore = explore
        self._guided = surrogate
        self._misses = 0
        self._profiles = known_profiles(self.oracle)
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._levels: list[Ints] = []
        self._scores: list[float] = []
        self._held: list[bool] = []
        self._open: dict[Candidate, Ints] = {}
        self._surrogate: Surrogate | None = None
        self._settings: tuple[int, Surrogate] | None = None

    def _propose(self) -> Ints | None:
        if self.known < self._startup:
            return self._first(self.known if not self._misses else self._startup)
        finite = np.isfinite(self._scores)
        if not finite.any():
            return self._first(self._startup)
        mutants = self._mutate()
        new = [row for row in mutants if self.space.candidate(row) not in self._seen]
        if not new:
            return mutants[0] if len(mutants) else self._first(self._startup)
        rows = np.array(new)
        if not self._guided:
            return self._topped(rows[0])
        model = self._model()
        mean, std = model.predict(self._features(rows))
        return self._topped(rows[int(np.argmax(mean + self._explore * std))])

    def _first(self, step: int) -> Ints:
        """Known profiles, then keep ratios around the uniform one, more and more spread."""
        if step < min(len(self._profiles), self._startup):
            return self._profiles[step]
        return self._spread(step, self._design, self._startup, 0.6)

    def _mutate(self) -> Ints:
        """(M, n) changes of the best candidates that hold the budget."""
        order = self._best()
        return self._mutants_of(np.array([self._levels[i] for i in order]), self._mutants)

    def _best(self) -> list[int]:
        """The best trials that hold the budget; of any budget where none does.

        Those of a looser budget, which others may have told, would always seem better.
        """
        order = np.argsort(-np.array(self._scores), kind="stable")
        if len(order) > HISTORY:
            # Not all of thousands are predicted again: those first that held it when suggested.
            broke = ~np.array(self._held)[order]
            order = order[np.argsort(broke, kind="stable")][:HISTORY]
        found: list[int] = []
        for start in range(0, len(order), 64):
            some = order[start : start + 64]
            held = self.oracle.holds(np.array([self._levels[i] for i in some]))
            found += some[held].tolist()
            if len(found) >= self._parents:
                break
        return (found or order.tolist())[: self._parents]

    def _mutants_of(self, parents: Ints, count: int) -> Ints:
        """(M ≤ count, n) changes of (P, n) levels that hold the budget, most of the first ones."""
        free = self.space.free
        if not len(free):
            return parents
        weights = 0.5 ** np.arange(len(parents))
        rows = parents[self.rng.choice(len(parents), size=count, p=weights / weights.sum())]
        rows, touched = mutated(
            self.space, rows, self.rng, reach=self._reach(), changes=self.changes
        )
        return self._grown(self._shrunk(rows, touched))

    def _reach(self) -> float:
        """Standard deviation of a mutation's steps, in choices."""
        return reach(len(self._scores), self.context.trials, self._misses)

    def _shrunk(self, rows: Ints, touched: Bools) -> Ints:
        """Bring (M, n) levels to the budget by steps down where it is broken, in batches.

        Groups that were just mutated are mostly spared; the others pay.
        """
        free = self.space.free
        total = int((self.space.counts - 1).sum())
        rows = rows.copy()
        violation = self.oracle.worst(self.oracle.costs(rows))
        for _ in range(64):
            over = np.flatnonzero(violation > 0)
            if not len(over):
                break
            draw = self.rng.random((len(over), len(free)))
            draw[touched[over] & (self.rng.random(draw.shape) < 0.8)] += 1.0
            draw[rows[over][:, free] == 0] = np.inf
            # All steps of all groups make up the whole cost, roughly: half of what is too much.
            far = np.clip(violation[over] * total / 4, 1, len(free) / 2).astype(np.int64)
            rank = draw.argsort(axis=1).argsort(axis=1)
            down = (rank < far[:, None]) & np.isfinite(draw)
            rows[np.ix_(over, free)] -= down
            if not down.any():
                break
            violation[over] = self.oracle.worst(self.oracle.costs(rows[over]))
        held: Ints = rows[violation <= 0]
        return held

    def _grown(self, rows: Ints) -> Ints:
        """(M, n) levels that hold the budget with steps up, in batches, until it is used up."""
        free, rows = self.space.free, rows.copy()
        misses = np.zeros(len(rows), dtype=np.int64)
        for _ in range(32):
            active = np.flatnonzero(misses < 2)
            if not len(active):
                break
            draw = self.rng.random((len(active), len(free)))
            draw[rows[active][:, free] >= self.space.counts[free] - 1] = np.inf
            can = np.isfinite(draw.min(axis=1))
            grown = rows[active].copy()
            grown[np.arange(len(active)), free[draw.argmin(axis=1)]] += can
            fits = self.oracle.holds(grown) & can
            rows[active[fits]] = grown[fits]
            misses[active[~fits]] += 1
        return rows

    def _topped(self, levels: Ints) -> Ints:
        """Use up what is left of the budget, so that no group could take its next choice."""
        return self._hold(self.space.choice(levels).astype(np.float64))

    def _features(self, rows: Ints) -> Floats:
        position: Floats = self.space.position(rows)[:, self.space.free]
        return position

    def _model(self) -> Surrogate:
        """Fitted to trials; pending ones at their expected score, so that a batch spreads.

        Hyper-parameters are fitted anew when there is a tenth more to fit them to.
        """
        if self._surrogate is None:
            count = len(self._scores)
            last = self._last_fit(count)
            if self._settings is None or self._settings[0] != last:
                self._settings = last, self._fit(last, None)
            if last == count:
                self._surrogate = self._settings[1]
            else:
                self._surrogate = self._fit(count, self._settings[1])
        if not self._open:
            return self._surrogate
        return self._surrogate.believing(self._features(np.array(list(self._open.values()))))

    def _fit(self, count: int, like: Surrogate | None) -> Surrogate:
        """The model of the first trials, with the hyper-parameters of another if given."""
        levels, scores = self._window(count)
        finite = np.isfinite(scores)
        scores = np.where(finite, scores, scores[finite].min() if finite.any() else 0.0)
        return Surrogate.fit(self._features(levels), scores, like)

    def _window(self, count: int) -> tuple[Ints, Floats]:
        """(N, n) levels and (N,) scores of the first trials: all, or the best and the latest."""
        scores = np.array(self._scores[:count])
        if count <= HISTORY:
            return np.array(self._levels[:count]), scores
        best = np.argsort(-scores, kind="stable")[: HISTORY // 2]
        keep = np.union1d(best, np.arange(count - HISTORY // 2, count))
        return np.array([self._levels[i] for i in keep.tolist()]), scores[keep]

    def _last_fit(self, count: int) -> int:
        """How many trials the hyper-parameters are fitted to when `count` are finished."""
        last = min(count, self._startup)
        while (later := math.ceil(1.1 * last)) <= count and later > last:
            last = later
        return last

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._open[candidate] = levels
        self._misses = 0

    def _refused(self, levels: Ints) -> None:
        self._misses += 1  # mutate more, until something new comes up

    def _value(self, trial: Trial) -> float:
        """What is to be as great as can be; minus infinity for a failed trial."""
        return trial.score(self.context.objective)

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            self._open.pop(trial.candidate, None)
            self._levels.append(levels)
            self._scores.append(self._value(trial))
            self._held.append(self._within(trial))
            self._surrogate = None
        self._open.update(self._placed(c for c in pending if c not in self._open))
