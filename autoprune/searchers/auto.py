"""Known profiles and the exact solver's candidates seed an evolution that learns from all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.evolve import EvolveSearcher
from autoprune.searchers.losses import LossFitter, LossModel, losses_of, nearness
from autoprune.searchers.programme import Programme
from autoprune.searchers.sensitivity import best_by, known_losses, loss_table
from autoprune.searchers.surrogate import Surrogate

#: Candidates of a round that the next one's mutants come from.
ELITE = 8
#: Of known losses, for seeds: the sum itself, spread over more groups, on fewer.
POWERS = (1.0, 1.4, 0.7)


class AutoSearcher(EvolveSearcher):
    """Seeds from what is known beforehand, then evolution and the exact solver by turns.

    Where a search can tell what pruning each group alone would lose, it begins with what the
    programme answers by that (and by powers of it, which spread the pruning more and less), the
    profile that loses least by it, the uniform candidate, and the other profiles that lose less
    than that one. Otherwise with profiles: the uniform candidate, and those that spare
    the channels which many layers share and prune early groups more than late ones
    (`autoprune.space.profiles`). Then come candidates around the best of them. From then on a
    growing convex curve for each group is fitted to all trials (`LossFitter`), and a Gaussian
    process to what those leave unexplained.
    Every `exact`-th suggestion is the curves' optimum under the budget by a mixed-integer
    programme (see `ExactSearcher`); the others are the most promising of mutants of the best
    candidates, and of mutants of the most promising among those, `rounds` times over. Its seeds
    are trials, so it never ends worse than they are.

    Args:
        context: the problem.
        startup: seeds; None takes a tenth of the trials planned, from 4 to 12.
        exact: every so many suggestions one is the programme's; 0 never.
        parents: how many of the best candidates are mutated.
        mutants: candidates in the first round, and in all later ones together.
        rounds: of mutating.
        explore: standard deviations added to the surrogate's mean.
        sensitivity: what pruning each group alone would lose, as `ExactSearcher` takes it; the
            curves are fitted to it, and deviate where trials speak for that.

    Raises:
        ConfigError: an option has a value that it can't have.
    """

    def __init__(
        self,
        context: SearchContext,
        startup: int | None = None,
        exact: int = 4,
        parents: int = 4,
        mutants: int = 160,
        rounds: int = 3,
        explore: float = 1.0,
        sensitivity: str | Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        super().__init__(context, startup, parents, mutants, explore)
        if exact < 0:
            raise ConfigError(f"exact must be at least 0, got {exact}")
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        given = known_losses(context, sensitivity)
        self._seeds = self._known_seeds(given)
        self._exact = exact
        self._rounds = rounds
        self._fitter = LossFitter(self.space, given)
        self._programme = Programme(self.oracle)
        self._curves: LossModel | None = None

    def _known_seeds(self, given: Mapping[str, Floats] | None) -> list[Ints]:
        """What is known before anything was evaluated, the most promising first."""
        solved: list[Ints] = []
        profiles = self._profiles
        if given:
            profiles = self._worth_trying(profiles, loss_table(self.space, given))
            for power in POWERS:
                losses = {group: known**power for group, known in given.items()}
                solved += best_by(self.oracle, losses, avoid=solved)
        return [*solved, *(p for p in profiles if not any((p == s).all() for s in solved))]

    def _worth_trying(self, profiles: list[Ints], table: Floats) -> list[Ints]:
        """Profiles that lose less than the uniform one by an (n, C) table, which comes second.

        The solver would have found the best of them if losses only added up; they don't, and a
        profile prunes no group as deep as the solver does.
        """
        lost = [float(table[np.arange(len(table)), levels].sum()) for levels in profiles]
        order = sorted(range(1, len(profiles)), key=lambda i: lost[i])
        better = [profiles[i] for i in order if lost[i] < lost[0]]
        return [*better[:1], *profiles[:1], *better[1:]]

    def _first(self, step: int) -> Ints:
        """The seeds, then candidates around the best so far, more and more spread."""
        if step < len(self._seeds) and not self._misses:
            return self._seeds[step]
        if not np.isfinite(self._scores).any():
            return super()._first(step)
        best = self.space.choice(self._levels[int(np.argmax(self._scores))]).astype(np.float64)
        return self._spread(step, self._design, self._startup, 0.6, best)

    def _propose(self) -> Ints | None:
        begun = self.known >= self._startup and np.isfinite(self._scores).any()
        if not begun or not len(self.space.free):
            return super()._propose()
        turn = self.known - self._startup + 1
        if self._exact and turn % self._exact == 0 and not self._misses:
            solved = self._solved()
            if solved is not None:
                return solved
        pool = self._mutate()
        best: Ints | None = None
        for turn in range(self._rounds):
            known = [row for row in pool if self.space.candidate(row) not in self._seen]
            if not known:
                break
            rows = np.unique(np.array(known), axis=0)
            order = np.argsort(-self._promise(rows), kind="stable")
            best = rows[order[0]]
            if turn < self._rounds - 1:
                elite = rows[order[:ELITE]]
                count = max(1, self._mutants // (self._rounds - 1))
                pool = np.concatenate([elite, self._mutants_of(elite, count)])
        if best is None:
            return pool[0] if len(pool) else self._first(self._startup)
        return self._topped(best)

    def _promise(self, rows: Ints) -> Floats:
        """(M,) the expected score of (M, n) levels, in losses, and what it may be above that."""
        model = self._model()
        mean, std = model.predict(self._features(rows))
        if self._curves is not None:
            mean = mean - self._curves.predict(rows)
        promise: Floats = mean + self._explore * std
        return promise

    def _solved(self) -> Ints | None:
        """The programme's answer on the curves that were fitted last, if it is a new one."""
        self._model()
        if self._curves is None:
            return None
        order = np.argsort(-np.array(self._scores), kind="stable")
        near, _ = self._window(len(self._scores))
        avoid = {tuple(row.tolist()) for row in (*near, *self._open.values())}
        start = self._levels[int(order[0])]
        if not self.oracle.holds(start[None])[0]:
            start = self._hold(self.space.choice(start).astype(np.float64))
        return self._programme.best(self._curves.table, [start], avoid)

    def _fit(self, count: int, like: Surrogate | None) -> Surrogate:
        """The Gaussian process of what the curves leave unexplained, the curves with it."""
        levels, scores = self._window(count)
        losses = losses_of(scores)
        self._curves = self._fitter.fit(levels, losses, nearness(losses))
        return Surrogate.fit(self._features(levels), self._curves.predict(levels) - losses, like)
