"""Optuna's tree-structured Parzen estimator, fed with what was really evaluated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError, ConfigError
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube

if TYPE_CHECKING:
    import optuna


class TpeSearcher(ProposingSearcher):
    """TPE (Bergstra et al. 2011; multivariate as in Falkner et al. 2018) over the choices.

    Optuna's proposal is projected onto the budget and the *projected* candidate is what it is
    told about, so its densities are those of networks that exist. Suggestions that are still
    being evaluated count as bad ones ("constant liar") so that a batch spreads out. Failed trials
    count as worst.

    Args:
        context: the problem.
        startup: candidates before TPE takes over: the uniform one and a Latin hypercube around
            it; None takes a fifth of the trials planned, from 4 to 16.
        multivariate: whether densities are joint over the groups.
        constant_liar: whether pending candidates count as bad.
        explore: proposals that TPE draws from its good density, of which it takes the best.
        history: finished trials that TPE looks back on, half of them the best and half the latest;
            a proposal takes as long after 10,000 trials as after so many. None looks back on all.
    """

    def __init__(
        self,
        context: SearchContext,
        startup: int | None = None,
        multivariate: bool = True,
        constant_liar: bool = True,
        explore: int = 48,
        history: int | None = 500,
    ) -> None:
        super().__init__(context)
        if startup is not None and startup < 1:
            raise ConfigError(f"startup must be at least 1, got {startup}")
        if explore < 1:
            raise ConfigError(f"explore must be at least 1, got {explore}")
        if history is not None and history < 50:
            raise ConfigError(f"history must be at least 50, or None for all; got {history}")
        self._history = history
        if startup is None:
            startup = 16 if context.trials is None else min(16, max(4, context.trials // 5))
        self._startup = startup
        self._asked = 0
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._pending: dict[Candidate, int] = {}
        with _quiet():
            import optuna

            sampler = optuna.samplers.TPESampler(
                seed=int(self.rng.integers(2**31)),
                n_startup_trials=1,
                n_ei_candidates=explore,
                multivariate=multivariate,
                constant_liar=constant_liar,
            )
            self._sampler = sampler
            self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            self.space.decisions[index].group: optuna.distributions.IntDistribution(
                0, int(self.space.counts[index]) - 1
            )
            for index in self.space.free.tolist()
        }

    def _propose(self) -> Ints | None:
        step, self._asked = self._asked, self._asked + 1
        if step < self._startup or not self._scored():
            return self._first(step)
        with _quiet():
            import optuna

            trial = self._study.ask(self._distributions)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        levels = self.space.counts - 1
        for index in self.space.free.tolist():
            levels[index] = trial.params[self.space.decisions[index].group]
        return self._hold(self.space.choice(levels).astype(np.float64))

    def _first(self, step: int) -> Ints:
        """The design before TPE: uniform, then keep ratios spread more and more around it."""
        units = self.space.units.astype(np.float64)
        if step == 0:
            return self._hold(units, fill="target")
        inside = step < len(self._design)
        point = self._design[step] if inside else self.rng.random(len(self.space))
        spread = 0.2 + 0.8 * min(step / self._startup, 1.0)
        return self._hold(units * np.exp(spread * (2 * point - 1)))

    def _scored(self) -> bool:
        import optuna

        return bool(self._study.get_trials(False, (optuna.trial.TrialState.COMPLETE,)))

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._pending[candidate] = self._running(levels)

    def _refused(self, levels: Ints) -> None:
        """TPE would go on proposing it: tell it that this is no good."""
        import optuna

        if self._scored():
            number = self._running(levels)
            with _quiet():
                self._study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def _running(self, levels: Ints) -> int:
        """Enter a candidate as a trial that runs; its number."""
        with _quiet():
            self._study.enqueue_trial(
                {
                    self.space.decisions[index].group: int(levels[index])
                    for index in self.space.free.tolist()
                }
            )
            return self._study.ask(self._distributions).number

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        import optuna

        for candidate in pending:
            if candidate not in self._pending:
                try:
                    self._pending[candidate] = self._running(self.space.levels(candidate))
                except CandidateError:
                    continue  # outside this space
        for trial, levels in completed:
            number = self._pending.pop(trial.candidate, None)
            if number is None:
                number = self._running(levels)
            score = trial.score(self.context.objective)
            with _quiet():
                if np.isfinite(score):
                    self._study.tell(number, score)
                else:
                    self._study.tell(number, state=optuna.trial.TrialState.PRUNED)
        self._forget()

    def _forget(self) -> None:
        """Go on with a study of the trials worth looking back on, when it has grown to twice that.

        Proposals are trials of the study too, so it grows faster than the search; what was refused
        is forgotten. The sampler, with its random numbers, is the same one.
        """
        import optuna

        if self._history is None:
            return
        known = self._study.get_trials(deepcopy=False)
        if len(known) < 4 * self._history:
            return
        done = [t for t in known if t.state is optuna.trial.TrialState.COMPLETE]
        half = self._history // 2
        best = sorted(done, key=lambda t: (-float(t.value or 0.0), t.number))[:half]
        keep = {t.number for t in (*best, *done[-(self._history - half) :])}
        running = {number: candidate for candidate, number in self._pending.items()}
        with _quiet():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler)
            self._study.add_trials([t for t in done if t.number in keep])
        for number in sorted(running):
            self._pending[running[number]] = self._running(self.space.levels(running[number]))


@contextmanager
def _quiet() -> Iterator[None]:
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
