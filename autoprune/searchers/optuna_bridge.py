"""Optuna's samplers, fed with what was really evaluated."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError, ConfigError
from autoprune.core.plugins import load_object
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube

if TYPE_CHECKING:
    import optuna

#: Optuna's samplers by our names, with the seed and what else suits a search of few trials.
SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random")


class OptunaSearcher(ProposingSearcher):
    """Any Optuna sampler over the choices, by ask and tell.

    The sampler's proposal is projected onto the budget and the *projected* candidate is what it
    is told about, so it learns of networks that exist. Suggestions that are still being evaluated
    are running trials to it. Failed trials count as pruned ones.

    Args:
        context: the problem.
        sampler: "tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc" or "random"; or
            `package.module:Name` of a sampler class; or an instance of Optuna's `BaseSampler`
            (its seed is its own, and it can't be used for two searches).
        options: keyword arguments of a sampler that is given by name.
        startup: candidates before the sampler takes over: the uniform one and a Latin hypercube
            around it; None takes a fifth of the trials planned, from 4 to 16.
        history: finished trials that the sampler looks back on, half of them the best and half
            the latest; a proposal takes as long after 10,000 trials as after so many. None looks
            back on all.

    Raises:
        ConfigError: an option has a value that it can't have, or a package that the sampler needs
            is not installed.
    """

    def __init__(
        self,
        context: SearchContext,
        sampler: str | optuna.samplers.BaseSampler = "tpe",
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context)
        if startup is not None and startup < 1:
            raise ConfigError(f"startup must be at least 1, got {startup}")
        if startup is not None and context.trials is not None and startup > context.trials:
            raise ConfigError(
                f"startup must be at most the {context.trials} trials planned, got {startup}; the "
                "sampler would never be asked"
            )
        if history is not None and history < 50:
            raise ConfigError(f"history must be at least 50, or None for all; got {history}")
        self._history = history
        if startup is None:
            startup = 16 if context.trials is None else min(16, max(4, context.trials // 5))
        self._startup = startup
        self._asked = 0
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._pending: dict[Candidate, int] = {}
        self._attributes: dict[str, Any] = {}
        with _quiet():
            import optuna

            self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
                self.space.decisions[index].group: optuna.distributions.IntDistribution(
                    0, int(self.space.counts[index]) - 1
                )
                for index in self.space.free.tolist()
            }
            self._sampler = self._made(sampler, dict(options or {}))
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler)

    def _made(
        self, sampler: str | optuna.samplers.BaseSampler, options: dict[str, Any]
    ) -> optuna.samplers.BaseSampler:
        """The sampler of a name, or the one given."""
        import optuna

        if isinstance(sampler, optuna.samplers.BaseSampler):
            if options:
                raise ConfigError("options must be left out where sampler is an instance")
            return sampler
        seed = int(self.rng.integers(2**31))
        population = int(np.clip((self.context.trials or 200) // 8, 8, 50))
        samplers = optuna.samplers
        known: dict[str, tuple[Any, dict[str, Any]]] = {
            "tpe": (samplers.TPESampler, {"n_startup_trials": 1}),
            "gp": (samplers.GPSampler, {"n_startup_trials": 1, "deterministic_objective": False}),
            "cmaes": (
                samplers.CmaEsSampler,
                {"n_startup_trials": 1, "warn_independent_sampling": False},
            ),
            "nsga2": (samplers.NSGAIISampler, {"population_size": population}),
            "nsga3": (samplers.NSGAIIISampler, {"population_size": population}),
            "qmc": (
                samplers.QMCSampler,
                {"scramble": True, "warn_independent_sampling": False},
            ),
            "random": (samplers.RandomSampler, {}),
        }
        if sampler in known:
            kind, usual = known[sampler]
            usual = {"seed": seed, **usual}
        elif isinstance(sampler, str) and ":" in sampler:
            kind, usual = load_object(sampler), {}
        else:
            raise ConfigError(
                f"sampler must be one of {', '.join(SAMPLERS)}, package.module:Name or an "
                f"instance of optuna.samplers.BaseSampler; got {sampler!r}"
            )
        try:
            if sampler == "cmaes":
                importlib.import_module("cmaes")  # Optuna would only ask for it later
            made = kind(**{**usual, **options})
        except ImportError as error:
            raise ConfigError(
                f"sampler {sampler!r} needs a package that is not installed: {error}"
            ) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sampler {sampler!r} refuses its options: {error}") from error
        if not isinstance(made, optuna.samplers.BaseSampler):
            raise ConfigError(
                f"sampler must be a subclass of optuna.samplers.BaseSampler, {sampler!r} made "
                f"{type(made).__name__}"
            )
        return made

    def _parameters(self, levels: Ints) -> dict[str, int]:
        return {
            self.space.decisions[index].group: int(levels[index])
            for index in self.space.free.tolist()
        }

    def _propose(self) -> Ints | None:
        step, self._asked = self._asked, self._asked + 1
        with _quiet():
            import optuna

            trial = self._study.ask(self._distributions)
            # Where the sampler notes which generation the proposal is of.
            asked = self._study.get_trials(deepcopy=False)[trial.number]
            self._attributes = dict(asked.system_attrs)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if step < self._startup or not self._scored():
            return self._first(step)
        levels = self.space.counts - 1
        for index in self.space.free.tolist():
            levels[index] = trial.params[self.space.decisions[index].group]
        return self._hold(self.space.choice(levels).astype(np.float64))

    def _first(self, step: int) -> Ints:
        """The design before the sampler: uniform, then keep ratios spread more and more."""
        return self._spread(step, self._design, self._startup, 0.8)

    def _scored(self) -> bool:
        import optuna

        return bool(self._study.get_trials(False, (optuna.trial.TrialState.COMPLETE,)))

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._pending[candidate] = self._running(levels, self._attributes)

    def _refused(self, levels: Ints) -> None:
        """The sampler would go on proposing it: tell it that this is no good."""
        import optuna

        if self._scored():
            number = self._running(levels, {})
            with _quiet():
                self._study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def _running(self, levels: Ints, attributes: Mapping[str, Any]) -> int:
        """Enter a candidate as a trial that runs; its number."""
        import optuna

        with _quiet():
            number = len(self._study.get_trials(deepcopy=False))
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.RUNNING,
                    params=self._parameters(levels),
                    distributions=self._distributions,
                    system_attrs=dict(attributes),
                )
            )
            return number

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        import optuna

        for candidate in pending:
            if candidate not in self._pending:
                try:
                    self._pending[candidate] = self._running(self.space.levels(candidate), {})
                except CandidateError:
                    continue  # outside this space
        for trial, levels in completed:
            number = self._pending.pop(trial.candidate, None)
            if number is None:
                number = self._running(levels, {})
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
        is forgotten. The sampler, with its random numbers, is the same one, and a quasi-random
        sequence goes on where it was.
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
        old = self._study
        with _quiet():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler)
            storage = self._study._storage
            for key, value in old._storage.get_study_system_attrs(old._study_id).items():
                if key.startswith("qmc:"):
                    storage.set_study_system_attr(self._study._study_id, key, value)
            self._study.add_trials([t for t in done if t.number in keep])
        for number in sorted(running):
            levels = self.space.levels(running[number])
            attributes = known[number].system_attrs
            self._pending[running[number]] = self._running(levels, attributes)


class GpSearcher(OptunaSearcher):
    """Optuna's Gaussian process with expected improvement; `options` are `GPSampler`'s."""

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 150,
    ) -> None:
        super().__init__(context, "gp", options, startup, history)


class CmaesSearcher(OptunaSearcher):
    """CMA-ES (Hansen 2016); `options` are `CmaEsSampler`'s.

    It needs the package `cmaes`.
    """

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context, "cmaes", options, startup, history)


class Nsga2Searcher(OptunaSearcher):
    """NSGA-II (Deb et al. 2002) on the one objective; `options` are `NSGAIISampler`'s."""

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context, "nsga2", options, startup, history)


class Nsga3Searcher(OptunaSearcher):
    """NSGA-III (Deb and Jain 2014) on the one objective; `options` are `NSGAIIISampler`'s."""

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context, "nsga3", options, startup, history)


class QmcSearcher(OptunaSearcher):
    """A scrambled Sobol sequence, each point brought to the budget; `options` are `QMCSampler`'s.

    It does not learn.
    """

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context, "qmc", options, startup, history)


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
