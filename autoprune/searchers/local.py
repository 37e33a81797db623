"""Local search around the best candidates so far, as the end of any searcher's search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext, Searcher, SearcherState
from autoprune.searchers.evolve import EvolveSearcher


class LocalSearch(Searcher):
    """A searcher whose last trials are spent around the best candidates, whoever proposed them.

    The searcher itself is asked for all but the last `share` of the trials, and plans for so many.
    Those at the end move a few groups of one of the best candidates by a choice or two, others
    giving what that costs, so that the budget holds; of many such moves the one is evaluated that
    a surrogate of all trials so far finds most promising (see `EvolveSearcher`). Where the
    searcher has nothing left to propose, this begins earlier. The searcher is told of every trial
    to the end, so what it learns (an agent that is kept for another search) is of all of them.

    Args:
        context: the problem; `context.trials` must be known.
        make: makes the searcher, given a context with its own share of the trials; the class will
            do.
        share: of the trials, at the end: above 0 and below 1. At least one trial is local, and
            one is not.
        begun: trials that were done before this search, where `context.trials` counts them too.

    Raises:
        ConfigError: the share can't be that, nobody knows how many trials are planned, or there
            are several objectives.
    """

    def __init__(
        self,
        context: SearchContext,
        make: Callable[[SearchContext], Searcher],
        share: float,
        begun: int = 0,
    ) -> None:
        super().__init__(context)
        if not 0 < share < 1:
            raise ConfigError(f"the share of local search must be above 0 and below 1, got {share}")
        if context.objectives:
            raise ConfigError(
                "local search is around the best candidate, and several objectives have no single "
                "one: leave it out, or take one objective"
            )
        if context.trials is None:
            raise ConfigError(
                "local search is the last share of the trials, so their number must be given"
            )
        #: How many trials there are when local search begins.
        self.begins = begun + before_local(context.trials - begun, share)
        self.inner = make(replace(context, trials=self.begins))
        self.replays = self.inner.replays
        last = context.trials - self.begins
        self.notes = (
            *self.inner.notes,
            f"local search around the best candidates: the last {last} trials of "
            f"{context.trials - begun}",
        )
        self._around = _Neighbours(context, self.inner)
        #: Numbers of the trials it was told of, some perhaps twice.
        self._told: set[int] = set()
        #: Suggested or told of as pending, in that order; an ordered set.
        self._open: dict[Candidate, None] = {}

    def suggest(self, count: int = 1) -> list[Candidate]:
        """The searcher's own candidates, then neighbours of the best."""
        found: list[Candidate] = []
        left = self.begins - len(self._told) - len(self._open)
        if left > 0:
            found = self.inner.suggest(min(count, left))
            self._suggested(found, self._around)
            if found and left > len(found):
                return found
        if len(found) < count:
            near = self._around.suggest(count - len(found))
            self._suggested(near, self.inner)
            found = [*found, *near]
        return found

    def _suggested(self, found: Sequence[Candidate], other: Searcher) -> None:
        """What one of the two suggested is pending to the other, as it is when a run is resumed."""
        self._open.update(dict.fromkeys(found))
        if found:
            other.update([], list(self._open))

    def update(self, completed: Sequence[Trial], pending: Sequence[Candidate] = ()) -> None:
        """Both learn of every trial."""
        self.inner.update(completed, pending)
        self._note(completed, pending)

    def _note(self, completed: Sequence[Trial], pending: Sequence[Candidate]) -> None:
        for trial in completed:
            self._told.add(trial.number)
            self._open.pop(trial.candidate, None)
        self._open.update(dict.fromkeys(pending))
        self._around.update(completed, pending)

    def merit(self, trial: Trial) -> float:
        """The searcher's."""
        return self.inner.merit(trial)

    def state(self) -> SearcherState | None:
        """The searcher's; what local search knows is quickly told again."""
        return self.inner.state()

    def restore(self, state: SearcherState, completed: Sequence[Trial]) -> None:
        """The searcher takes the state; see `Searcher.restore`."""
        self.inner.restore(state, completed)
        self._note(completed, ())


def before_local(trials: int, share: float) -> int:
    """How many trials of a search come before its last share, which is local search.

    Raises:
        ConfigError: there are not enough for both.
    """
    if trials < 2:
        raise ConfigError(f"local search must be the end of two trials or more, got {trials}")
    return trials - min(trials - 1, max(1, round(share * trials)))


class _Neighbours(EvolveSearcher):
    """Small moves from the best trials by a searcher's merit.

    Args:
        context: the problem.
        judge: says which trials are best, and whether unused budget is a waste.
    """

    changes: ClassVar[tuple[float, ...]] = (1.0, 2.0, 4.0)

    def __init__(self, context: SearchContext, judge: Searcher) -> None:
        super().__init__(context, startup=1)
        self._judge = judge

    def _value(self, trial: Trial) -> float:
        return self._judge.merit(trial)

    def _grown(self, rows: Ints) -> Ints:
        return super()._grown(rows) if self._judge.fills_budget else rows

    def _topped(self, levels: Ints) -> Ints:
        return super()._topped(levels) if self._judge.fills_budget else levels
