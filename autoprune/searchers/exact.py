"""An exact solver over what is known of each group's sensitivity: probe, fit, solve, again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.losses import LossFitter, losses_of, nearness
from autoprune.searchers.programme import Programme
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.sensitivity import best_by, known_losses
from autoprune.space.profiles import known_profiles

#: Trials that are cut off, and that a model is fitted to, at most.
HISTORY = 600


class ExactSearcher(ProposingSearcher):
    """A mixed-integer programme over the choices' losses and predicted costs (HiGHS).

    It first spends trials on probes: what the programme answers by the sensitivities known
    beforehand, profiles (uniform, what is widely shared spared, ...), then
    candidates in which a few groups are pruned much deeper and the others take what that saves.
    A growing convex curve for each group is fitted to all trials (`LossFitter`), and the
    programme chooses one width for each group so that the sum of losses is least and the budget
    holds (`Programme`). Each further trial is fitted too, and the programme solved anew, without
    what was tried before; every second time with the trials weighted at random (the Bayesian
    bootstrap, Rubin 1981), so that what the model is not sure of is tried as well.

    Args:
        context: the problem.
        probes: trials spent on probes, profiles among them; None takes as many as there are
            groups to choose for, and a third of the trials planned at most. With `sensitivity`
            for every group, the profiles alone.
        explore: every so many solutions one is of randomly weighted trials; 0 never.
        sensitivity: what pruning each group alone would lose: "divergence" (how far the output
            moves from the dense network's), "fisher" (the second-order change of the loss),
            "reconstruction" (error of the layers that read it), "measured" (by evaluations
            beside the trials), "trials" (not known beforehand), or group → loss of each of its
            choices, ascending in width, in any unit that is the same for all groups. None takes
            "divergence" where it can be computed. The scale is fitted to trials, and
            deviations from it where trials speak for them.

    Raises:
        ConfigError: an option has a value that it can't have.
    """

    def __init__(
        self,
        context: SearchContext,
        probes: int | None = None,
        explore: int = 2,
        sensitivity: str | Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        super().__init__(context)
        if probes is not None and probes < 1:
            raise ConfigError(f"probes must be at least 1, got {probes}")
        if explore < 0:
            raise ConfigError(f"explore must be at least 0, got {explore}")
        given = known_losses(context, sensitivity)
        self._fitter = LossFitter(self.space, given)
        self._programme = Programme(self.oracle)
        self._first = known_profiles(self.oracle)
        if given is not None:
            known = best_by(self.oracle, given)
            self._first = known + [r for r in self._first if not any((r == k).all() for k in known)]
        free = len(self.space.free)
        if probes is None:
            covered = given is not None and all(
                self.space.decisions[i].group in given for i in self.space.free
            )
            probes = len(self._first) if covered else len(self._first) + free
            if context.trials is not None:
                probes = max(1, min(probes, context.trials // 3))
        self._probes = probes
        self._explore = explore
        self._asked = 0
        self._solved = 0
        self._blocks: list[Ints] = []
        self._levels: list[Ints] = []
        self._scores: list[float] = []
        self._open: dict[Candidate, Ints] = {}

    def _propose(self) -> Ints | None:
        step, self._asked = self._asked, self._asked + 1
        if step < len(self._first) and step < self._probes:
            return self._first[step]
        if step < self._probes or not np.isfinite(self._scores).any():
            return self._probe() if step < self._probes + self.tries else None
        self._solved += 1
        return self._solution(bool(self._explore) and self._solved % self._explore == 0)

    def _probe(self) -> Ints:
        """A few groups pruned much deeper than in the best profile; the rest take what it saves."""
        free = self.space.free
        if not len(free):
            return self.space.counts - 1
        if not self._blocks:
            left = max(1, self._probes - len(self._first))
            size = max(1, -(-len(free) // left))
            order = self.rng.permutation(free)
            self._blocks = [order[i : i + size] for i in range(0, len(order), size)]
        block = self._blocks.pop()
        base = self._first[self._asked % len(self._first)] if self._first else None
        units = self.space.units.astype(np.float64)
        wanted = units if base is None else self.space.choice(base).astype(np.float64)
        wanted[block] *= self.rng.uniform(0.3, 0.7, len(block))
        narrow = self.space.nearest(wanted)
        return self._hold(self.space.choice(narrow).astype(np.float64))

    def _solution(self, at_random: bool) -> Ints | None:
        """What the programme answers, given all trials, that has not been tried."""
        levels, losses = self._data()
        weights = nearness(losses)
        if at_random:
            weights = weights * self.rng.exponential(size=len(losses))
        model = self._fitter.fit(levels, losses, weights)
        order = np.argsort(losses, kind="stable")
        starts = [levels[order[0]], self._first[0] if self._first else levels[order[-1]]]
        starts = [row for row in starts if self.oracle.holds(row[None])[0]]
        if not starts:
            starts = [self._hold(self.space.units.astype(np.float64))]
        avoid = {tuple(row.tolist()) for row in self._levels[-HISTORY:]}
        avoid |= {tuple(row.tolist()) for row in self._open.values()}
        return self._programme.best(model.table, starts, avoid)

    def _data(self) -> tuple[Ints, Floats]:
        """The trials that the model is fitted to: all, or the best and the latest of many."""
        scores = np.array(self._scores)
        keep = np.arange(len(scores))
        if len(scores) > HISTORY:
            best = np.argsort(-scores, kind="stable")[: HISTORY // 2]
            keep = np.union1d(best, keep[-HISTORY // 2 :])
        return np.array(self._levels)[keep], losses_of(scores[keep])

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._open[candidate] = levels

    def _refused(self, levels: Ints) -> None:
        # Suggested by another searcher, or outside what is looked back on: never again.
        self._open[self.space.candidate(levels)] = levels

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            self._open.pop(trial.candidate, None)
            self._levels.append(levels)
            self._scores.append(trial.score(self.context.objective))
