"""Ask, evaluate, tell; and the same again from the store when a run is resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from autoprune.core.candidate import Candidate
from autoprune.core.errors import EvaluationError, RunError
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.evaluate.base import EvaluatorPool, Outcome
from autoprune.searchers.base import Searcher
from autoprune.study.checkpoints import Checkpoints
from autoprune.study.evaluation import Phases
from autoprune.study.progress import Progress
from autoprune.study.store import Store, Stored

#: Candidates asked for at a time.
PORTION = 16


class Loop:
    """Drives a searcher and a pool, and stores what comes of it.

    A run that is resumed goes the same way again: the searcher is asked and told as before, and
    what the store holds is taken from there instead of being evaluated. So the searcher, whatever
    it learns, is where it was, and goes on with what it would have suggested. One that need not be
    asked again (`Searcher.replays`) is told of all trials at once, up to the last moment at which
    every candidate under way is in the store, from its last checkpoint on if it has one; what
    follows, the last trial at least, it is asked for again, and must answer as before.

    Args:
        searcher: proposes.
        cost_model: predicts what is proposed.
        pool: evaluates.
        store: keeps; its trials are replayed.
        objective: the metric that is maximised.
        max_failures: evaluations that may fail in a row.
        progress: is told of every trial.
        phases: counts the seconds.
        checkpoints: of a searcher that gives its state; None keeps none.
    """

    def __init__(
        self,
        searcher: Searcher,
        cost_model: CostModel,
        pool: EvaluatorPool,
        store: Store,
        *,
        objective: str,
        max_failures: int,
        progress: Progress,
        phases: Phases,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.trials: list[Trial] = []
        self._planned = 0
        self._searcher = searcher
        self._cost_model = cost_model
        self._pool = pool
        self._store = store
        self._objective = objective
        self._max_failures = max_failures
        self._progress = progress
        self._phases = phases
        self._checkpoints = checkpoints
        self._replay = deque(self._kept())
        self._pending: dict[int, Trial] = {}
        #: How many trials were finished when each of the pending ones was asked for.
        self._asked: dict[int, int] = {}
        self._waiting: deque[int] = deque()
        #: Taken from the store; the searcher has still to be told of them.
        self._untold: list[Trial] = []
        self._cache: dict[Candidate, Trial] = {}
        self._failures = 0
        self._next = 0
        self._best: int | None = None

    @property
    def replayed(self) -> bool:
        """Whether everything in the store has been gone through."""
        return not self._replay

    def merit(self, trial: Trial) -> float:
        """What decides between trials, by the searcher; see `Searcher.merit`."""
        return self._searcher.merit(trial)

    @property
    def best(self) -> Trial | None:
        """The trial with the greatest merit that holds the searcher's budget, as predicted.

        The earliest of equals.
        """
        return None if self._best is None else self.trials[self._best]

    def _kept(self) -> list[Stored]:
        """The trials that are replayed."""
        return self._store.trials()

    def _rank(self, trial: Trial) -> tuple[float, int]:
        return self.merit(trial), -trial.number

    def run(self, total: int, planned: int = 0) -> bool:
        """Go on until there are `total` trials.

        Args:
            total: of trials, those there are included.
            planned: what people are told, where more are to come than these.

        Returns:
            False if the searcher had nothing left to propose before that.

        Raises:
            EvaluationError: too many evaluations in a row failed.
            RunError: the store can't be written, or holds trials of another search.
        """
        self._planned = max(total, planned)
        self._fast_forward(total)
        if len(self.trials) < total:
            self._catch_up()
        self._ask(total)
        while len(self.trials) < total:
            if not self._pending:
                self._progress.message(
                    f"the searcher has nothing left to propose after {len(self.trials)} of "
                    f"{self._planned} trials"
                )
                return False
            for trial in self._collect():
                self._tell(trial)
                # Asked after each, so that workers go on while the others of a batch are told,
                # and a resumed run goes the same way however many came at once.
                self._ask(total)
                self._submit()
        return True

    def use(self, searcher: Searcher) -> None:
        """Go on with another searcher, perhaps of another budget; none is under way.

        It is told of every trial there is. The best is the best of those that hold its budget.
        """
        self._searcher = searcher
        self._untold = list(self.trials)
        self._best = None
        for index in range(len(self.trials)):
            self._compare(index)

    def _fast_forward(self, total: int) -> None:
        """Take from the store what the searcher need not be asked for again.

        Nothing is pending yet: a run ends with all that it asked for.
        """
        count = 0 if self._searcher.replays else self._tellable(total)
        if not count:
            return
        for stored in [self._replay.popleft() for _ in range(count)]:
            self._count(stored.phases)
            self._keep(stored.trial)
            self._untold.append(stored.trial)
        # Asked for before, and finished later: in the store, but still under way here.
        before = [s for s in self._replay if s.asked is not None and s.asked < len(self.trials)]
        for stored in sorted(before, key=lambda s: s.trial.number):
            trial = stored.trial
            self._pending[trial.number] = Trial(trial.number, trial.candidate, trial.predicted)
            self._asked[trial.number] = stored.asked or 0
            self._waiting.append(trial.number)
        self._next = len(self.trials) + len(self._pending)
        self._progress.trial(self.trials[-1], self.best, len(self.trials), self._planned)

    def _catch_up(self) -> None:
        """Tell the searcher of what was taken from the store, all at once."""
        if not self._untold:
            return
        known = 0
        with self._phases("update"):
            if self._checkpoints is not None and len(self._untold) == len(self.trials):
                known = self._checkpoints.restore(self._searcher, self._untold)
            self._searcher.update(self._untold[known:], self._candidates())
        self._untold = []

    def _tellable(self, total: int) -> int:
        """How many stored trials the searcher can be told of before it must be asked again.

        All of this run's if they are there. Else something was under way when the process died,
        and is not in the store: up to when the last candidate before it was asked for.
        """
        begun = len(self.trials)
        asked = {s.trial.number: s.asked for s in list(self._replay)[: total - begun]}
        number = begun
        while number in asked:
            number += 1
        if number == total:
            return total - begun
        last = asked.get(number - 1)
        return 0 if last is None else max(0, last - begun)

    def _ask(self, total: int) -> None:
        """Ask for as many candidates as can be used; many in portions, so that the first begin."""
        while self._ask_portion(total) == PORTION:
            self._submit()

    def _ask_portion(self, total: int) -> int:
        """Ask for some candidates; how many there were."""
        free = self._pool.slots - len(self._pending)
        count = min(free, total - len(self.trials) - len(self._pending), PORTION)
        if count < 1:
            return 0
        with self._phases("suggest"):
            candidates = self._searcher.suggest(count)
        if not candidates:
            return 0
        with self._phases("predict"):
            costs = self._cost_model.predict(
                self._searcher.context.space.kernels.workloads(candidates)
            )
        for candidate, predicted in zip(candidates, costs, strict=True):
            self._pending[self._next] = Trial(self._next, candidate, predicted)
            self._asked[self._next] = len(self.trials)
            self._waiting.append(self._next)
            self._next += 1
        return len(candidates)

    def _collect(self) -> Iterator[Trial]:
        """Finished trials: from the store as long as it has some, then evaluated."""
        if self._replay:
            yield self._stored(self._replay.popleft())
            return
        self._submit()
        if self._waiting:
            number = self._waiting.popleft()
            known = self._cache[self._pending[number].candidate]
            finished = [self._finished(number, Outcome(known.metrics, samples=known.samples))]
        else:
            finished = [self._finished(*result) for result in self._pool.results()]
        with self._phases("store"), self._store.together():
            for trial, phases in finished:
                self._store.add(trial, self._objective, phases, self._asked.pop(trial.number))
        for trial, phases in finished:
            # The others count as pending until it is their turn, as when a run is resumed.
            del self._pending[trial.number]
            self._count(phases)
            self._failures = 0 if trial.ok else self._failures + 1
            yield trial

    def _submit(self) -> None:
        """Have what is asked for evaluated, up to the first candidate whose figures are known."""
        while self._waiting and not self._replay:
            candidate = self._pending[self._waiting[0]].candidate
            if candidate in self._cache:
                return
            self._pool.submit(self._waiting.popleft(), candidate)

    def _stored(self, stored: Stored) -> Trial:
        trial = stored.trial
        pending = self._pending.pop(trial.number, None)
        if pending is None or pending.candidate != trial.candidate:
            raise RunError(
                f"trial {trial.number} in {self._store.where} is not what this search suggests: "
                "the network, the settings, the table or the versions are not those that the run "
                "began with. Resume it with the same ones, or start anew in another folder"
            )
        del self._asked[trial.number]
        self._waiting.remove(trial.number)
        self._count(stored.phases)
        return trial

    def _count(self, phases: Mapping[str, float]) -> None:
        for name, seconds in phases.items():
            self._phases.add(name, seconds)

    def _finished(self, number: int, outcome: Outcome) -> tuple[Trial, Mapping[str, float]]:
        pending = self._pending[number]
        trial = Trial(
            number,
            pending.candidate,
            pending.predicted,
            metrics=dict(outcome.metrics),
            error=outcome.error,
            seconds=outcome.seconds,
            samples=outcome.samples,
        )
        return trial, outcome.phases

    def _keep(self, trial: Trial) -> None:
        self.trials.append(trial)
        if trial.ok:
            self._cache.setdefault(trial.candidate, trial)
        self._compare(len(self.trials) - 1)

    def _compare(self, index: int) -> None:
        """Take a trial as the best if it is."""
        trial, best = self.trials[index], self.best
        if not trial.whole or (best is not None and self._rank(trial) <= self._rank(best)):
            return
        broken = self._searcher.context.budget.violations(trial.predicted)
        if all(value <= 0 for value in broken.values()):
            self._best = index

    def _candidates(self) -> list[Candidate]:
        """What is under way, in the order of suggestion."""
        return [trial.candidate for trial in self._pending.values()]

    def _tell(self, trial: Trial) -> None:
        self._keep(trial)
        with self._phases("update"):
            self._searcher.update([trial], self._candidates())
            if self._checkpoints is not None:
                self._checkpoints.after(self._searcher, self.trials)
        self._progress.trial(trial, self.best, len(self.trials), self._planned)
        self._check_failures(trial)

    def _check_failures(self, trial: Trial) -> None:
        if self._failures >= self._max_failures:
            raise EvaluationError(
                f"{self._failures} evaluations in a row failed, so the search stopped "
                f"(max_failures); the last one: {trial.error}. Mend it, then resume the run: "
                "what is finished is kept"
            )
