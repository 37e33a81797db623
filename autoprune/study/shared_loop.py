"""Ask, claim, evaluate, tell; with other drivers that search the same study."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from autoprune.core.candidate import Candidate
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.evaluate.base import EvaluatorPool
from autoprune.searchers.base import Searcher
from autoprune.study.loop import PORTION, Loop
from autoprune.study.shared_store import SharedStore
from autoprune.study.shared_study import PAUSE_S
from autoprune.study.store import Stored

#: Proposals in a row that other drivers, or this one, have tried already, until a searcher that
#: repeats itself counts as exhausted.
TRIES = 64


class SharedLoop(Loop):
    """Drives a searcher and a pool on a study that others search too.

    The searcher is told of every trial of the study, whoever finished it; first of all that there
    are. So a driver that joins and one that is resumed do the same: they go on from what is there.

    The arguments are `Loop`'s; the store is shared, and there are no checkpoints.
    """

    def __init__(
        self,
        searcher: Searcher,
        cost_model: CostModel,
        pool: EvaluatorPool,
        store: SharedStore,
        **settings: Any,
    ) -> None:
        super().__init__(searcher, cost_model, pool, store, **settings)
        self._shared = store
        #: What came of each candidate, failures too.
        self._tried: dict[Candidate, Trial] = {}

    def run(self, total: int, planned: int = 0) -> bool:
        """Go on until the study has `total` trials, of all drivers together.

        What other drivers have under way is waited for; but not where more trials are planned,
        for then there is enough to do.

        Args:
            total: of trials, those there are included.
            planned: what people are told, where more are to come than these.

        Returns:
            False if the searcher had nothing left to propose before that.

        Raises:
            EvaluationError: too many evaluations in a row failed, or the workers can't be made
                ready.
            RunError: the store can't be written, or holds trials of another search.
        """
        self._planned = max(total, planned)
        self._catch_up()
        self.look()
        if self._shared.count < total:
            self._pool.begin()  # what waits for a worker here, another driver could have evaluated
        while len(self.trials) < total or self._pending:
            more = self._claim(total)
            if self._pending:
                self._evaluate()
            elif not self._shared.live and not more and not self._shared.orphans:
                self._progress.message(
                    f"the searcher has nothing left to propose after {len(self.trials)} of "
                    f"{self._planned} trials"
                )
                return False
            elif planned > total and self._shared.count >= total:
                return True
            else:
                time.sleep(PAUSE_S)
            self.look()
        return True

    def look(self) -> None:
        """Learn what any driver has finished.

        Raises:
            RunError: the store can't be read.
        """
        with self._phases("store"):
            trials = [stored.trial for stored in self._shared.look()]
        if not trials:
            return
        for trial in trials:
            self._keep(trial)
            self._tried[trial.candidate] = trial
        self._tell_all(trials)
        self._progress.trial(trials[-1], self.best, len(self.trials), self._planned)

    def _tell_all(self, trials: Sequence[Trial]) -> None:
        with self._phases("update"):
            self._searcher.update(trials, self._candidates())

    def _kept(self) -> list[Stored]:
        return []  # `look` takes them

    def _candidates(self) -> list[Candidate]:
        """What is under way at any driver, in the order of the trials' numbers."""
        return [claim.candidate for _, claim in sorted(self._shared.live.items())]

    def _claim(self, total: int) -> bool:
        """Claim as many candidates as can be used; False if the searcher proposes nothing new."""
        orphans, self._shared.orphans = self._shared.orphans, []
        while orphans and self._free(total):
            self._begin([orphans.pop(0)], total)
        self._shared.orphans += orphans
        tries = 0
        while (free := self._free(total)) and tries < TRIES:
            with self._phases("suggest"):
                candidates = self._searcher.suggest(min(free, PORTION))
            if not candidates:
                return False
            tries = 0 if self._begin(candidates, total) else tries + len(candidates)
        return tries < TRIES

    def _free(self, total: int) -> int:
        return max(0, min(self._pool.slots - len(self._pending), total - self._shared.count))

    def _begin(self, candidates: Sequence[Candidate], total: int) -> bool:
        """Claim candidates and have them evaluated; False if each is known already."""
        with self._phases("predict"):
            kernels = self._searcher.context.space.kernels
            costs = self._cost_model.predict(kernels.workloads(candidates))
        known = [self._tried[c] for c in candidates if c in self._tried]
        if known:
            self._tell_all(known)  # a searcher that asks again gets the answer again
        begun = False
        for candidate, predicted in zip(candidates, costs, strict=True):
            if candidate in self._tried:
                continue
            with self._phases("store"):
                number = self._shared.claim(candidate, predicted, total)
            if number is not None:
                begun = True
                self._pending[number] = Trial(number, candidate, predicted)
                self._pool.submit(number, candidate)
        return begun

    def _evaluate(self) -> None:
        """Wait for results, and store them."""
        last = None
        for number, outcome in self._pool.results():
            last, phases = self._finished(number, outcome)
            del self._pending[number]
            with self._phases("store"):
                stored = self._shared.finish(last, self._objective, phases)
            if not stored:
                self._progress.message(
                    f"trial {number} comes too late: this driver was not heard of for so long "
                    "that others took over what it had under way"
                )
            self._count(phases)
            self._failures = 0 if last.ok else self._failures + 1
        if last is not None and self._failures >= self._max_failures:
            self.look()
            self._check_failures(last)
