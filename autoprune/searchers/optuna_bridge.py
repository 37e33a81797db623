"""Optuna's samplers, fed with what was really evaluated."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.core.plugins import load_object
from autoprune.core.trial import Trial
from autoprune.core.workload import Ints
from autoprune.searchers.base import SearchContext
from autoprune.searchers.optuna_study import BoundedStudy, quiet
from autoprune.searchers.proposing import ProposingSearcher
from autoprune.searchers.random import latin_hypercube
from autoprune.space.profiles import known_profiles

if TYPE_CHECKING:
    import optuna

#: Optuna's samplers by our names, with the seed and what else suits a search of few trials.
SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random")
#: Those that know nothing but the trials: made anew for each suggestion, with a seed of its own.
MEMORYLESS = ("tpe", "gp", "random")
#: Proposals in a row that may be known already before neighbours of the last one are tried.
PATIENCE = 2


class OptunaSearcher(ProposingSearcher):
    """Any Optuna sampler over the choices, by ask and tell.

    The sampler's proposal is projected onto the budget and the *projected* candidate is what it
    is told about, so it learns of networks that exist. Suggestions that are still being evaluated
    are running trials to it. Failed trials count as pruned ones. Where what it proposes is known
    already, a neighbour of that is suggested.

    Args:
        context: the problem.
        sampler: "tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc" or "random"; or
            `package.module:Name` of a sampler class; or an instance of Optuna's `BaseSampler`
            (its seed is its own, and it can't be used for two searches).
        options: keyword arguments of a sampler that is given by name.
        startup: candidates before the sampler takes over: known profiles, the uniform one first
            (`autoprune.space.profiles`), and a Latin hypercube around the best of them; None
            takes a fifth of the trials planned, from 4 to 16.
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
        if startup is None:
            startup = 16 if context.trials is None else min(16, max(4, context.trials // 5))
        self._startup = startup
        self._profiles = known_profiles(self.oracle)[: max(1, startup - 1)]
        self._design = latin_hypercube(startup, len(self.space), self.rng)
        self._sampler = sampler
        self._options = dict(options or {})
        self._notes: dict[str, Any] = {}
        self._misses = 0
        self._known_levels = self.space.counts - 1
        self.replays = sampler not in MEMORYLESS or "seed" in self._options
        with quiet():
            made = self._made(int(self.rng.integers(2**31)))
            self._study = BoundedStudy(self.space, made, history, memoryless=not self.replays)

    def _made(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler of a name, or the one given."""
        import optuna

        sampler, options = self._sampler, self._options
        if isinstance(sampler, optuna.samplers.BaseSampler):
            if options:
                raise ConfigError("options must be left out where sampler is an instance")
            return sampler
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

    def _propose(self) -> Ints | None:
        starting = self.known < self._startup or not any(t.ok for t in self._study.told)
        if not starting and self._misses > PATIENCE:
            return self._beside()
        if self.replays or not starting:
            # A sampler with a memory is asked from the beginning, for its generations' sake.
            with quiet():
                anew = None if self.replays else self._made(int(self.rng.integers(2**31)))
            levels, self._notes = self._study.ask(anew)
            if not starting:
                return self._hold(self.space.choice(levels).astype(np.float64))
        step = self._startup if self._misses else self.known
        if step < len(self._profiles):
            return self._profiles[step]
        best = max((t for t in self._study.told if t.ok), key=lambda t: t.score, default=None)
        around = None if best is None else self.space.choice(best.levels).astype(np.float64)
        return self._spread(step, self._design, self._startup, 0.8, around)

    def _beside(self) -> Ints:
        """What was known already with other choices, of the more decisions the more are known."""
        free = self.space.free
        levels = self._known_levels.copy()
        if len(free):
            count = min(len(free), 1 + self._misses // 8)
            chosen = self.rng.choice(free, count, replace=False)
            levels[chosen] = self.rng.integers(0, self.space.counts[chosen])
        return self._hold(self.space.choice(levels).astype(np.float64))

    def _taken(self, candidate: Candidate, levels: Ints) -> None:
        self._misses = 0
        self._study.begin(candidate, levels, self._notes)
        self._notes = {}

    def _refused(self, levels: Ints) -> None:
        self._misses += 1
        self._known_levels = levels

    def _learn(self, completed: Sequence[tuple[Trial, Ints]], pending: Sequence[Candidate]) -> None:
        # Trials of a looser budget would look best, and what holds this one bad beside them.
        self._study.update(
            [
                (trial.candidate, levels, trial.score(self.context.objective))
                for trial, levels in completed
                if self._within(trial)
            ],
            list(self._placed(pending)),
        )


class NamedSampler(OptunaSearcher):
    """A sampler of Optuna's under its name; `options` are its own keyword arguments."""

    sampler: ClassVar[str]

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 500,
    ) -> None:
        super().__init__(context, self.sampler, options, startup, history)


class GpSearcher(NamedSampler):
    """Optuna's Gaussian process with expected improvement; it looks back on 150 trials."""

    sampler = "gp"

    def __init__(
        self,
        context: SearchContext,
        options: Mapping[str, Any] | None = None,
        startup: int | None = None,
        history: int | None = 150,
    ) -> None:
        super().__init__(context, options, startup, history)


class CmaesSearcher(NamedSampler):
    """CMA-ES (Hansen 2016). It needs the package `cmaes`."""

    sampler = "cmaes"


class Nsga2Searcher(NamedSampler):
    """NSGA-II (Deb et al. 2002) on the one objective."""

    sampler = "nsga2"


class Nsga3Searcher(NamedSampler):
    """NSGA-III (Deb and Jain 2014) on the one objective."""

    sampler = "nsga3"


class QmcSearcher(NamedSampler):
    """A scrambled Sobol sequence, each point brought to the budget. It does not learn."""

    sampler = "qmc"
