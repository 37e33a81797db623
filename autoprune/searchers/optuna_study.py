"""An Optuna study of the trials worth looking back on, and of those under way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.workload import Ints
from autoprune.space.space import SearchSpace

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Told:
    """A trial as a sampler sees it.

    Attributes:
        levels: (n,) of the candidate.
        score: what is maximised; not finite for a failed trial.
        notes: what the sampler noted when it proposed the trial (which generation it is of).
    """

    levels: Ints
    score: float
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a figure."""
        return bool(np.isfinite(self.score))


class BoundedStudy:
    """Asks a sampler and tells it, by a study that does not grow with the search.

    It holds all trials up to `history`; of more, half as many the best and half the latest, chosen
    anew at every quarter of it, and those since. So what a sampler sees is a function of the
    finished trials and of those under way, in their order.

    Args:
        space: whose levels are the parameters.
        sampler: proposes.
        history: finished trials that are looked back on; None is all.
        memoryless: whether the sampler keeps nothing of its own between two proposals; trials are
            then entered in the order in which they finish, whichever was proposed first.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        history: int | None,
        memoryless: bool,
    ) -> None:
        self.space = space
        self.told: list[Told] = []
        self._history = history
        self._memoryless = memoryless
        #: Under way: what is known of each, and its number in the study.
        self._open: dict[Candidate, tuple[Told, int]] = {}
        with quiet():
            import optuna

            self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
                space.decisions[index].group: optuna.distributions.IntDistribution(
                    0, int(space.counts[index]) - 1
                )
                for index in space.free.tolist()
            }
            self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(
        self, sampler: optuna.samplers.BaseSampler | None = None
    ) -> tuple[Ints, dict[str, Any]]:
        """(n,) levels that the sampler proposes, and what it noted of them.

        Args:
            sampler: takes the place of the one before.
        """
        with quiet():
            import optuna

            if sampler is not None:
                self.study.sampler = sampler
            trial = self.study.ask(self._distributions)
            notes = dict(self._trials()[trial.number].system_attrs)
            # What is evaluated is another candidate: the one on the budget.
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        levels = self.space.counts - 1
        for index in self.space.free.tolist():
            levels[index] = trial.params[self.space.decisions[index].group]
        return levels, notes

    def begin(self, candidate: Candidate, levels: Ints, notes: Mapping[str, Any]) -> None:
        """A candidate is under way."""
        told = Told(levels, -np.inf, notes)
        with quiet():
            self._open[candidate] = told, self._enter(told, running=True)

    def update(
        self,
        completed: Sequence[tuple[Candidate, Ints, float]],
        pending: Sequence[tuple[Candidate, Ints]],
    ) -> None:
        """Candidates are done, with their score; others are under way."""
        before = len(self.told)
        choose = self._chosen_at(before) != self._chosen_at(before + len(completed))
        with quiet():
            for candidate, levels, score in completed:
                known = self._open.pop(candidate, None)
                told = Told(levels, score, {} if known is None else known[0].notes)
                self.told.append(told)
                if not (choose and self._memoryless):
                    self._finish(told, None if known is None else known[1])
            for candidate, levels in pending:
                if candidate not in self._open:
                    self.begin(candidate, levels, {})
            if choose:
                self._choose()
            elif self._memoryless and completed:
                self._reopen()

    def _finish(self, told: Told, number: int | None) -> None:
        """Enter what came of a trial that runs as this number, or was never begun."""
        import optuna

        if self._memoryless or number is None:
            if number is not None:
                self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            self._enter(told)
        elif told.ok:
            self.study.tell(number, told.score)
        else:
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def _reopen(self) -> None:
        """Enter what is under way anew, after what is done."""
        import optuna

        for candidate, (told, number) in list(self._open.items()):
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            self._open[candidate] = told, self._enter(told, running=True)

    def _enter(self, told: Told, *, running: bool = False) -> int:
        import optuna

        states = optuna.trial.TrialState
        done = states.COMPLETE if told.ok else states.PRUNED
        number = len(self._trials())
        self.study.add_trial(
            optuna.trial.create_trial(
                state=states.RUNNING if running else done,
                value=told.score if told.ok and not running else None,
                params={
                    self.space.decisions[index].group: int(told.levels[index])
                    for index in self.space.free.tolist()
                },
                distributions=self._distributions,
                system_attrs=dict(told.notes),
            )
        )
        return number

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _chosen_at(self, count: int) -> int:
        """How many trials were finished when what is looked back on was last chosen; 0: never."""
        if self._history is None or count <= self._history:
            return 0
        quarter = max(1, self._history // 4)
        return count // quarter * quarter

    def _choose(self) -> None:
        """Go on with a study of the trials worth looking back on."""
        import optuna

        count = self._chosen_at(len(self.told))
        half = (self._history or 0) // 2
        scores = np.array([told.score if told.ok else -np.inf for told in self.told[:count]])
        best = np.argsort(-scores, kind="stable")[:half]
        keep = np.union1d(best, np.arange(count - half, count)).tolist()
        old = self.study
        self.study = optuna.create_study(direction="maximize", sampler=old.sampler)
        for key, value in old._storage.get_study_system_attrs(old._study_id).items():
            if key.startswith("qmc:"):  # a quasi-random sequence goes on where it was
                self.study._storage.set_study_system_attr(self.study._study_id, key, value)
        for told in (*(self.told[i] for i in keep), *self.told[count:]):
            self._enter(told)
        for candidate, (told, _) in list(self._open.items()):
            self._open[candidate] = told, self._enter(told, running=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's messages off within, and as the user had them afterwards."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
