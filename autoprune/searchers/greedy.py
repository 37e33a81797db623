"""NetAdapt's greedy steps: take a little cost away where it hurts least, and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.space.profiles import known_profiles, widely_shared

#: Groups that a step after the first evaluates anew, where the trials planned don't say.
WIDTH = 4


class GreedySearcher(ProposingSearcher):
    """NetAdapt (Yang et al., ECCV 2018): the reduction that costs least accuracy, step by step.

    Each step asks of every group how narrow it must become to save the step's share of the cost,
    as the cost model predicts, evaluates the networks that come of it, and keeps the best one.
    Three things differ from the paper. What is evaluated holds the budget at every step: what the
    proposal still lacks is taken from all other groups alike, so that every trial is a network
    that can be shipped. Known profiles (`autoprune.space.profiles`) come before the first step.
    And that evaluates every group, the later ones only the groups that came out best when they
    were last evaluated ("lazy" greedy, Minoux 1978), so that the steps fit into the trials
    planned. When the steps have reached the budget, exchanges around the best network follow: one
    group a choice wider, others narrower.

    Args:
        context: the problem.
        steps: reductions from the dense network to the budget; None fits them to the trials
            planned, 10 to 60.
        width: groups evaluated in each step after the first; None fits it to the trials planned,
            2 to 8.
    """

    def __init__(
        self, context: SearchContext, steps: int | None = None, width: int | None = None
    ) -> None:
        super().__init__(context)
        for name, value in (("steps", steps), ("width", width)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        free = len(self.space.free)
        left = max(0, (context.trials or free + 40 * WIDTH) * 3 // 4 - free)
        self._width = width or int(np.clip(left // 20, 2, 8))
        self._steps = steps or int(np.clip(left // self._width, 10, 60))
        self._base: Ints = self.space.counts - 1
        excess = float(self.oracle.worst(self.oracle.costs(self._base[None]))[0])
        self._step_size = max(excess, 0.0) / self._steps
        self._ranking = self._first_ranking()
        self._queue: list[int] = list(self._ranking)
        self._reduced: dict[int, Ints] = {}
        self._by_candidate: dict[Candidate, list[int]] = {}
        self._results: dict[int, float] = {}
        self._scored: dict[Candidate, float] = {}
        self._waiting: set[Candidate] = set()
        self._profiles = known_profiles(self.oracle)[: max(4, (context.trials or 100) // 10)]
        self._best: tuple[float, Ints] | None = None
        self._arrived = excess <= 0
        self._misses = 0

    def _propose(self) -> Ints | None:
        if self._profiles:
            return self._profiles.pop(0)
        while not self._arrived:
            while self._queue:
                index = self._queue.pop(0)
                reduced = self._reduce(index)
                if reduced is None:
                    continue
                self._reduced[index] = reduced
                levels = self._completed(reduced)
                self._by_candidate.setdefault(self.space.candidate(levels), []).append(index)
                return levels
            if self._waiting:
                break  # the step's results are not all in: try something beside it meanwhile
            self._advance()
        return self._exchange()

    def _first_ranking(self) -> list[int]:
        """Every group, those that few kernels share first."""
        free = self.space.free
        order = np.argsort(widely_shared(self.space)[free], kind="stable")
        return [int(i) for i in free[order]]

    def _reduce(self, index: int) -> Ints | None:
        """The base with one group as wide as saves the step's cost; None where none does."""
        count = int(self._base[index])
        if count == 0:
            return None
        rows = np.repeat(self._base[None], count + 1, axis=0)
        rows[:, index] = np.arange(count + 1)
        worst = self.oracle.worst(self.oracle.costs(rows))
        saves = np.flatnonzero(worst[:-1] <= worst[-1] - self._step_size)
        if len(saves):
            return np.array(rows[saves[-1]])
        # It can't save as much: its narrowest, if that saves a good part.
        return np.array(rows[0]) if worst[0] <= worst[-1] - 0.25 * self._step_size else None

    def _completed(self, reduced: Ints) -> Ints:
        """A reduced network brought to the budget by narrowing all groups alike."""
        return self._hold(self.space.choice(reduced).astype(np.float64), fill="target")

    def _advance(self) -> None:
        """Keep the best reduction of the step, and say which groups the next one evaluates."""
        known = {i: s for i, s in self._results.items() if i in self._reduced}
        fresh = {i: s for i, s in known.items() if np.isfinite(s)}
        if not fresh:
            self._arrived = True
            return
        winner = max(fresh, key=lambda i: (fresh[i], -i))
        self._base = self._reduced[winner]
        self._arrived = bool(self.oracle.holds(self._base[None])[0])
        self._ranking = sorted(self._ranking, key=lambda i: -self._results.get(i, -np.inf))
        self._queue = self._ranking[: self._width]
        if winner not in self._queue:
            self._queue.append(winner)
        self._reduced = {}

    def _exchange(self) -> Ints | None:
        """The best network with one group wider and others narrower."""
        units = self.space.units.astype(np.float64)
        base = self._hold(units) if self._best is None else self._best[1]
        free = self.space.free
        if not len(free):
            return base
        steps = 1 + self._misses // 8
        levels = base.copy()
        for _ in range(steps):
            up, down = self.rng.choice(free, 2, replace=len(free) < 2)
            levels[up] = min(levels[up] + self.rng.integers(1, 3), self.space.counts[up] - 1)
            levels[down] = max(levels[down] - self.rng.integers(1, 3), 0)
        wanted = self.space.choice(levels).astype(np.float64)
        return self._hold(wanted)

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._misses = 0
        if candidate in self._by_candidate:
            self._waiting.add(candidate)

    def _refused(self, levels: Ints) -> None:
        """Known already (steps come to the same network): what it scored then counts."""
        self._misses += 1
        candidate = self.space.candidate(levels)
        if candidate in self._scored:
            for index in self._by_candidate.pop(candidate, []):
                self._results[index] = self._scored[candidate]

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            score = trial.score(self.context.objective)
            self._scored[trial.candidate] = score
            self._waiting.discard(trial.candidate)
            for index in self._by_candidate.pop(trial.candidate, []):
                self._results[index] = score
            if np.isfinite(score) and (self._best is None or score > self._best[0]):
                self._best = (score, levels)
