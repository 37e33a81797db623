"""Searching for a Pareto front: evolution guided by a surrogate, and random search to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.objectives import losses, worst_losses
from autoprune.core.pareto import contributions, nondominated, ranks
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.front_model import FrontModel
from autoprune.searchers.losses import LossFitter
from autoprune.searchers.mutation import mutated, reach
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube
from autoprune.space.profiles import exponents
from autoprune.space.projection import Oracle

#: How far beyond the worst of the front the reference point of the hypervolume lies.
MARGIN = 0.1
#: With three objectives or more, volumes are computed for so many points only, the best by a rough
#: count of so many random places.
EXACT, PLACES = 24, 1024


class RandomFrontSearcher(ProposingSearcher):
    """Keep ratios drawn around a level that is itself drawn: random over all costs.

    Args:
        context: the problem, with several objectives.
        block: points in a Latin hypercube.
    """

    several_objectives: ClassVar[bool] = True

    def __init__(self, context: SearchContext, block: int = 16) -> None:
        super().__init__(context)
        if block < 1:
            raise ConfigError(f"block must be at least 1, got {block}")
        self._block = block
        self._points: list[Floats] = []

    def _propose(self) -> Ints | None:
        if not self._points:
            self._points = list(latin_hypercube(self._block, len(self.space) + 1, self.rng))
        point = self._points.pop()
        return _around(self, np.full(len(self.space), _ratio(point[0])), point[1:], 0.6)


class EvolveFrontSearcher(ProposingSearcher):
    """Evolution of a Pareto front, guided by a surrogate.

    It begins with uniform keep ratios spread over the whole range of costs, and patterns around
    them. Then each suggestion is, of many mutants of the trials on the front, the one that would
    add the most to the front's hypervolume: its costs are those that the cost model predicts, its
    metrics a model's mean and `explore` standard deviations on the good side (as in SMS-EGO,
    Ponweiser et al. 2008; the model: `FrontModel`). Parents are the first fronts of a
    non-dominated sorting (Deb et al. 2002), those that stand alone more often than those in a
    crowd, and none that is worse than an objective's worst value.

    Args:
        context: the problem, with several objectives.
        startup: candidates in the design; None takes an eighth of the trials planned, from 6 to
            16.
        parents: at least so many trials are mutated: the front, and the next fronts to fill up.
        mutants: candidates of a round, which the surrogate chooses from.
        rounds: of mutating: each mutates the most promising of the one before.
        explore: standard deviations added to the surrogate's mean.
    """

    several_objectives: ClassVar[bool] = True

    def __init__(
        self,
        context: SearchContext,
        startup: int | None = None,
        parents: int = 12,
        mutants: int = 160,
        rounds: int = 4,
        explore: float = 0.5,
    ) -> None:
        super().__init__(context)
        given = {"startup": startup, "parents": parents, "mutants": mutants, "rounds": rounds}
        for name, value in given.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not explore >= 0:
            raise ConfigError(f"explore must be at least 0, got {explore}")
        if startup is None:
            startup = 16 if context.trials is None else min(16, max(6, context.trials // 8))
        self._startup = startup
        self._parents = parents
        self._mutants = mutants
        self._rounds = rounds
        self._explore = explore
        self._worst = worst_losses(context.objectives)
        self._costs = [o.name for o in context.objectives if o.cost]
        self._all_costs = Oracle(self.space, context.budget, context.cost_model, context.z)
        self._all_costs.cost_model = context.cost_model.narrowed(
            {*self._costs, *context.budget.limits}
        )
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._asked = 0
        self._misses = 0
        self._levels: list[Ints] = []
        self._trials: list[Trial] = []
        self._open: dict[Candidate, Ints] = {}
        self._fitter = LossFitter(self.space)
        self._current: list[FrontModel] = []
        self._fitted: list[FrontModel] = []

    def _propose(self) -> Ints | None:
        if self._asked < self._startup:
            step, self._asked = self._asked, self._asked + 1
            return self._first(step)
        known = self._losses()
        if not np.isfinite(known).all(axis=1).any():
            return self._first(self._asked)
        order = ranks(self._worthy(known), self._parents)
        chosen = np.argsort(order, kind="stable")[: max(self._parents, int((order == 0).sum()))]
        chosen = chosen[order[chosen] < len(order)]
        pool = self._mutants_of(np.array([self._levels[i] for i in chosen]), known[chosen])
        best: Ints | None = None
        for turn in range(self._rounds):
            new = [row for row in pool if self.space.candidate(row) not in self._seen]
            if not new:
                break
            rows = np.unique(np.array(new), axis=0)
            guessed = self._guessed(rows, known, self._explore)
            gain = self._gain(guessed, known)
            best = rows[int(np.argmax(gain))]
            if turn < self._rounds - 1:
                elite = np.lexsort((-gain, ranks(guessed)))[: 2 * self._parents]
                elite = np.unique(np.append(elite, np.argmax(gain)))
                pool = np.concatenate([rows[elite], self._mutants_of(rows[elite], guessed[elite])])
        if best is None:
            return pool[0] if len(pool) else self._first(self._asked)
        return best

    def _first(self, step: int) -> Ints:
        return start_of_front(self, step, self._design)

    # -- mutants -------------------------------------------------------------------------------

    def _losses(self) -> Floats:
        """(N, M) losses of the trials, with costs as the cost model tells them now."""
        known = losses(self.context.objectives, self._trials)
        if len(known) and self._costs:
            costs = self._all_costs.costs(np.array(self._levels)).mean
            for column, objective in enumerate(self.context.objectives):
                if objective.cost:
                    known[:, column] = np.where(
                        np.isfinite(known).all(axis=1), costs[objective.name], np.nan
                    )
        return known

    def _worthy(self, known: Floats) -> Floats:
        """(N, M) losses, NaN those that are not worth a place on the front; all, if none is."""
        fine = np.all(known <= self._worst, axis=1, keepdims=True)
        return np.where(fine, known, np.nan) if fine.any() else known

    def _mutants_of(self, parents: Ints, known: Floats) -> Ints:
        """(M ≤ mutants, n) changes of (P, n) levels, of (P, M) losses, that hold the budget."""
        free, count = self.space.free, self._mutants
        if not len(free):
            return parents
        weight = _loneliness(known) * 0.5 ** ranks(known)
        rows = parents[self.rng.choice(len(parents), size=count, p=weight / weight.sum())]
        # A fifth of them are two parents crossed.
        crossed = np.flatnonzero(self.rng.random(count) < 0.2)
        others = parents[self.rng.integers(len(parents), size=len(crossed))]
        taken = self.rng.random(others.shape) < 0.5
        rows[crossed] = np.where(taken, others, rows[crossed])
        far = reach(len(self._trials), self.context.trials, self._misses)
        rows, _ = mutated(self.space, rows, self.rng, reach=far, changes=(1.0, 2.0, 4.0, 8.0))
        # A third of them move along the front as well: all groups narrower, or all wider.
        along = np.flatnonzero(self.rng.random(count) < 1 / 3)
        scale = np.exp(self.rng.normal(0.0, 0.15, (len(along), 1)))
        rows[along] = self.space.nearest(self.space.choice(rows[along]) * scale)
        held: Ints = rows[self.oracle.holds(rows)]
        return held

    def _guessed(self, rows: Ints, known: Floats, explore: float) -> Floats:
        """(K, M) losses of (K, n) levels, metrics so many standard deviations on the good side."""
        costs = self._all_costs.costs(rows).mean
        models = iter(self._models(known))
        columns = [
            costs[o.name] if o.cost else -next(models).predict(rows, explore)
            for o in self.context.objectives
        ]
        return np.stack(columns, axis=1)

    def _gain(self, guessed: Floats, known: Floats) -> Floats:
        """(K,) what (K, M) guessed losses would add to the front's hypervolume."""
        finite = known[np.isfinite(known).all(axis=1)]
        front = finite[nondominated(finite)]
        low, span = front.min(axis=0), np.ptp(front, axis=0)
        span = np.where(span > 0, span, np.maximum(np.abs(low), 1e-12) * MARGIN)
        # What is being evaluated counts as found, so that a batch spreads.
        if self._open:
            opened = self._guessed(np.array(list(self._open.values())), known, 0.0)
            front = np.concatenate([front, opened])
        have = (front - low) / span
        scaled, reference = (guessed - low) / span, np.full(len(low), 1.0 + MARGIN)
        worth = np.flatnonzero(~(have[None] <= scaled[:, None]).all(axis=2).any(axis=1))
        if len(low) > 2 and len(worth) > EXACT:
            worth = worth[self._roughly_best(scaled[worth], have, reference)]
        gains = np.zeros(len(scaled))
        gains[worth] = contributions(scaled[worth], have, reference)
        if gains.max() > 0:
            return gains
        # Nothing is expected to add anything: what comes nearest.
        behind: Floats = scaled[:, None] - have[None]
        near: Floats = -behind.max(axis=2).min(axis=1)
        return near

    def _roughly_best(self, points: Floats, have: Floats, reference: Floats) -> Ints:
        """The few points that add the most volume, by counting random places that they dominate."""
        corner = np.minimum(points.min(axis=0), have.min(axis=0))
        places = corner + self.rng.random((PLACES, len(reference))) * (reference - corner)
        free = places[~(have[None] <= places[:, None]).all(axis=2).any(axis=1)]
        counts = (points[:, None] <= free[None]).all(axis=2).sum(axis=1)
        return np.argsort(-counts, kind="stable")[:EXACT]

    def _models(self, known: Floats) -> list[FrontModel]:
        """One for each metric, of its values with the sign with which more is better."""
        if self._current:
            return self._current
        fine = np.isfinite(known).all(axis=1)
        levels = np.array(self._levels)[fine]
        columns = [i for i, o in enumerate(self.context.objectives) if not o.cost]
        # Hyper-parameters are fitted anew when there is a tenth more to fit them to.
        keep = bool(self._fitted) and len(levels) < 1.1 * len(self._fitted[0].rest.values)
        self._current = [
            FrontModel.fit(
                self.space,
                self._fitter,
                levels,
                -known[fine, column],
                self._fitted[i] if keep else None,
            )
            for i, column in enumerate(columns)
        ]
        if not keep:
            self._fitted = self._current
        return self._current

    # -- what comes back -----------------------------------------------------------------------

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._open[candidate] = levels
        self._misses = 0

    def _refused(self, levels: Ints) -> None:
        self._misses += 1  # mutate more, until something new comes up

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        for trial, levels in completed:
            self._open.pop(trial.candidate, None)
            self._levels.append(levels)
            self._trials.append(trial)
            self._current = []


def start_of_front(searcher: ProposingSearcher, step: int, design: Floats) -> Ints:
    """(n,) levels of a design for fronts: both ends, then wide and narrow profiles and patterns.

    Args:
        searcher: of the space.
        step: from 0.
        design: (startup, n) patterns in [0, 1]; beyond it they are drawn.
    """
    patterns = [exponent for _, exponent in exponents(searcher.space)]
    if step < 2:  # Both ends, so that the front is as wide as it can be.
        ratio, exponent, spread = _ratio((0.0, 0.97)[step]), patterns[0], 0.0
    else:  # Multiples of the golden ratio spread evenly, however many there are.
        ratio, spread = _ratio((step * 0.618034) % 1.0), 0.3
        exponent = patterns[step % len(patterns)]
    inside = step < len(design)
    point = design[step] if inside else searcher.rng.random(len(searcher.space))
    return _around(searcher, ratio**exponent, point, spread)


def _ratio(level: float) -> float:
    """A keep ratio, of a level in [0, 1]; nothing is cut down to nothing."""
    return 0.1 + 0.9 * float(level)


def _around(searcher: ProposingSearcher, ratios: Floats, point: Floats, spread: float) -> Ints:
    """(n,) levels within the budget, near keep ratios and a pattern around them.

    Args:
        searcher: of the space.
        ratios: (n,) shares of units kept.
        point: (n,) the pattern, in [0, 1].
        spread: of the keep ratios, as a logarithm.
    """
    units = searcher.space.units.astype(np.float64)
    wanted = np.minimum(ratios * units * np.exp(spread * (2 * point - 1)), units)
    return searcher._hold(wanted, fill="none")


def _loneliness(losses: Floats) -> Floats:
    """(N,) distance to the nearest other in the range of the figures; the lonely count more."""
    if len(losses) < 2:
        return np.ones(len(losses))
    span = np.ptp(losses, axis=0)
    scaled = losses / np.where(span > 0, span, 1.0)
    distance = np.abs(scaled[:, None] - scaled[None]).max(axis=2)
    distance[np.diag_indices(len(losses))] = np.inf
    lonely: Floats = distance.min(axis=1) + 0.02
    return lonely
