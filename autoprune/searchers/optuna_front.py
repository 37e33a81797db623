"""Optuna's samplers on several objectives: TPE, NSGA-II and NSGA-III."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.core.objectives import losses
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.front import start_of_front
from autoprune.searchers.optuna_study import quiet
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube

if TYPE_CHECKING:
    import optuna


class OptunaFrontSearcher(ProposingSearcher):
    """One of Optuna's samplers for several objectives, by ask and tell.

    The study has a direction for each objective; costs are those that were predicted. A proposal
    is scaled down where it breaks the budget, never up, and the sampler is told of the candidate
    that came of it. Suggestions still being evaluated are running trials. Failed trials count as
    failed.

    Args:
        context: the problem, with several objectives.
        options: keyword arguments of the sampler.
        startup: candidates before the sampler takes over: both ends of the front, and wide and
            narrow profiles; None takes an eighth of the trials planned, from 6 to 16.

    Raises:
        ConfigError: an option has a value that it can't have.
    """

    several_objectives: ClassVar[bool] = True
    sampler: ClassVar[str]

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
    ) -> None:
        super().__init__(context)
        if startup is not None and startup < 1:
            raise ConfigError(f"startup must be at least 1, got {startup}")
        if startup is None:
            startup = 16 if context.trials is None else min(16, max(6, context.trials // 8))
        self._startup = startup
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._asked = 0
        self._numbers: dict[Candidate, int] = {}
        self._notes: dict[str, Any] = {}
        with quiet():
            import optuna

            self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
                self.space.decisions[index].group: optuna.distributions.IntDistribution(
                    0, int(self.space.counts[index]) - 1
                )
                for index in self.space.free.tolist()
            }
            self._study = optuna.create_study(
                directions=["minimize"] * len(context.objectives),
                sampler=self._made(dict(options or {})),
            )

    def _made(self, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        import optuna

        usual: dict[str, Any] = {"seed": int(self.rng.integers(2**31))}
        if self.sampler == "TPESampler":
            usual |= {"n_startup_trials": 1, "multivariate": True, "constant_liar": True}
        else:
            usual["population_size"] = int(np.clip((self.context.trials or 200) // 8, 8, 50))
        try:
            made: optuna.samplers.BaseSampler = getattr(optuna.samplers, self.sampler)(
                **{**usual, **options}
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.sampler} refuses its options: {error}") from error
        return made

    def _propose(self) -> Ints | None:
        import optuna

        step, self._asked = self._asked, self._asked + 1
        with quiet():
            trial = self._study.ask(self._distributions)
            # Where the sampler notes which generation the proposal is of.
            self._notes = dict(self._study.get_trials(deepcopy=False)[trial.number].system_attrs)
            # What is evaluated is another candidate: the one that holds the budget.
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if step < self._startup:
            return start_of_front(self, step, self._design)
        levels = self.space.counts - 1
        for index in self.space.free.tolist():
            levels[index] = trial.params[self.space.decisions[index].group]
        if self.space.candidate(levels) in self._seen:
            # Proposed before, and likely to be again: one of its decisions otherwise.
            index = int(self.rng.choice(self.space.free)) if len(self.space.free) else 0
            levels[index] = self.rng.integers(self.space.counts[index])
        return self._hold(self.space.choice(levels).astype(np.float64), fill="none")

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._numbers[candidate] = self._enter(levels, self._notes)

    def _enter(self, levels: Ints, notes: Mapping[str, Any]) -> int:
        """Enter a candidate as a trial that runs; its number."""
        import optuna

        with quiet():
            number = len(self._study.get_trials(deepcopy=False))
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params={
                        self.space.decisions[index].group: int(levels[index])
                        for index in self.space.free.tolist()
                    },
                    distributions=self._distributions,
                    system_attrs=dict(notes),
                )
            )
        return number

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        import optuna

        for candidate, levels in self._placed(c for c in pending if c not in self._numbers):
            self._numbers[candidate] = self._enter(levels, {})
        for trial, levels in completed:
            number = self._numbers.pop(trial.candidate, None)
            if number is None:
                number = self._enter(levels, {})
            values = losses(self.context.objectives, [trial])[0]
            with quiet():
                if np.isfinite(values).all():
                    self._study.tell(number, values.tolist())
                else:
                    self._study.tell(number, state=optuna.trial.TrialState.FAIL)


class TpeFront(OptunaFrontSearcher):
    """TPE on several objectives (Ozaki et al. 2022)."""

    sampler = "TPESampler"


class Nsga2Front(OptunaFrontSearcher):
    """NSGA-II (Deb et al. 2002)."""

    sampler = "NSGAIISampler"


class Nsga3Front(OptunaFrontSearcher):
    """NSGA-III (Deb and Jain 2014)."""

    sampler = "NSGAIIISampler"
