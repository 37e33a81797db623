"""One search from beginning to end, resumable at any moment.

Everything that can't be computed again the same way (evaluations, measurements, the table) is
stored when it is there; the rest is a function of it. So a resumed session simply runs again.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist
from typing import TYPE_CHECKING

from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import EvaluationError, ProfilerError, RunError
from autoprune.core.objectives import check_direction, metric_of
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.searchers.base import SearchContext, Searcher
from autoprune.searchers.local import LocalSearch
from autoprune.searchers.registry import make_searcher
from autoprune.space.projection import check_feasible
from autoprune.study.checkpoints import Checkpoints
from autoprune.study.evaluation import CandidateEvaluator, Phases, evaluate_dense
from autoprune.study.events import Events
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.remote import make_pool
from autoprune.study.sensitivity import Sensitivities
from autoprune.study.store import Store
from autoprune.study.verify import (
    MEASURED,
    Verification,
    holds,
    measure_until_decided,
    ranked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autoprune.evaluate.base import EvaluatorPool
    from autoprune.graph.network import Network
    from autoprune.space.space import SearchSpace
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.task import Task

#: Candidates of one verification measured at most, as a multiple of `VerifySettings.top`.
BATCHES = 2


class Session:
    """The search itself, up to its verified winner.

    Args:
        task: what is asked for.
        network: traced.
        store: of the run.
        cost_model: predicts what the budget bounds.
        space: the choices.
        device: measures, or None.
        reference_ms: the dense network's latency, where a table fixes it.
        progress: is told.
        phases: counts seconds.
        checkpoint: where a searcher that takes long to learn keeps what it has learned, or None.
    """

    def __init__(
        self,
        task: Task,
        network: Network,
        store: Store,
        *,
        cost_model: CostModel,
        space: SearchSpace,
        device: DeviceMeasure | None,
        reference_ms: float | None,
        progress: Progress,
        phases: Phases,
        checkpoint: Path | None = None,
    ) -> None:
        self.task = task
        self.network = network
        self.store = store
        self.cost_model = cost_model
        self.space = space
        self.device = device
        self.reference_ms = reference_ms
        self.progress = progress
        self.phases = phases
        self.checkpoint = checkpoint
        self.config = task.config
        self.budget = self.config.single_budget
        #: Verifications by trial number.
        self.verified: dict[int, Verification] = {}
        #: (predicted, measured) latency in ms of each, as predicted before it was measured.
        self.errors: list[tuple[float, float]] = []
        self._dense_metrics: dict[str, float] = {}
        self._events = Events(store, phases)
        self._dense_cost()

    # -- before the search ---------------------------------------------------------------------

    def _dense_cost(self) -> None:
        """What the dense network costs, the absolute budget, and whether it can be held."""
        cost = self.cost_model.predict(self.network.workload(self.network.dense))[0]
        if self.reference_ms is not None:
            measured = {"latency_ms": Estimate(self.reference_ms, 0.0, "measured")}
            cost = Cost({**cost.estimates, **measured})
        self.dense_cost = cost
        self.limits = self.budget.absolute(cost)
        check_feasible(self.space, self.limits, self.cost_model, cost, self._z)

    @property
    def _z(self) -> float:
        """Standard deviations in the upper bound by which a candidate must hold the budget."""
        return NormalDist().inv_cdf(self.config.confidence)

    @property
    def needs_device(self) -> bool:
        """Whether the budget bounds what only a device can tell."""
        return any(metric in self.limits.limits for metric in MEASURED)

    def dense_metrics(self) -> dict[str, float]:
        """What `evaluate` says of the dense network; evaluated once in a run.

        Raises:
            EvaluationError: it raises, or gives no finite number.
        """
        known = self._events.replay("dense")
        if known is not None:
            self._dense_metrics = dict(known["metrics"])
            return self._dense_metrics
        self.progress.stage("evaluating the dense network")
        with self.phases("dense"):
            try:
                metrics = evaluate_dense(self.task, self.network.model)
            except EvaluationError as error:
                raise EvaluationError(f"on the dense network: {error}") from error
        check_direction(self.config.objective, metrics[self.config.objective])
        self._events.record("dense", 0, {"metrics": metrics})
        self._dense_metrics = metrics
        return metrics

    # -- the search ----------------------------------------------------------------------------

    def run(self, evaluator: CandidateEvaluator) -> list[Trial]:
        """Search and verify; every trial, those that were measured with their measured cost."""
        config = self.config
        self._sensitivity = self._sensitivities(evaluator)
        searcher = self._first()
        for note in searcher.notes:
            self.progress.message(note)
        self.progress.stage("searching", config.trials)
        with make_pool(self.task, evaluator) as pool:
            self.loop = self._make_loop(searcher, pool)
            self._search()
        return self.loop.trials

    def _make_loop(self, searcher: Searcher, pool: EvaluatorPool, kind: type[Loop] = Loop) -> Loop:
        config, path = self.config, self.checkpoint
        return kind(
            searcher,
            self.cost_model,
            pool,
            self.store,
            objective=config.objective,
            max_failures=config.max_failures,
            progress=self.progress,
            phases=self.phases,
            checkpoints=None if path is None else Checkpoints(path, config.objective),
        )

    def _first(self) -> Searcher:
        """The searcher to begin with."""
        return self.searcher(self.config.trials)

    def _search(self) -> None:
        """All of the search and its verification."""
        self._go(self.config.trials)

    def context(self, trials: int) -> SearchContext:
        """What a searcher is given that proposes up to so many trials."""
        return SearchContext(
            self.space,
            self.limits,
            self.cost_model,
            objective=self.config.objective,
            trials=trials,
            seed=self.config.seed,
            z=self._z,
            dense_metrics=self._dense_metrics,
            sensitivity=self._sensitivity,
        )

    def _sensitivities(self, evaluator: CandidateEvaluator) -> Sensitivities:
        return Sensitivities(
            self.task,
            self.network,
            self.space,
            evaluator,
            lambda: self._dense_metrics[self.config.objective],
            lambda: self._events.replay("sensitivity"),
            lambda data: self._events.record("sensitivity", 0, data),
            self.progress,
        )

    def searcher(self, trials: int, begun: int = 0) -> Searcher:
        """The task's searcher, for up to so many trials, some of them done already."""
        named, share = self.config.searcher, self.config.local_search

        def make(context: SearchContext) -> Searcher:
            return make_searcher(self.task.searcher or named.name, context, **named.options)

        context = self.context(trials)
        return LocalSearch(context, make, share, begun) if share else make(context)

    def _go(self, trials: int) -> None:
        """Search, and measure the best; until there are so many trials, or a few more."""
        config, begun = self.config, len(self.loop.trials)
        if not self.needs_device:
            self.loop.run(trials)
            return
        if trials - begun >= 8 * config.verify.top:
            # The table's first correction, while most of the search can still use it.
            self.loop.run(begun + (trials - begun) // 3, planned=trials)
            self._verify(batches=1)
        more = max(config.verify.top, (trials - begun) // 10)
        for _ in range(config.verify.rounds + 1):
            self.loop.run(trials)
            if self._verify(batches=BATCHES):
                return
            trials = len(self.loop.trials) + more

    def winner(self) -> Trial | None:
        """The best trial whose measured upper bound holds the budget; None if there is none yet.

        Bounds on what is counted are compared with the exact counts.
        """
        return next(iter(self.winners()), None)

    def winners(self) -> list[Trial]:
        """Every trial that holds the budget for sure, the best first."""
        order = ranked(self.loop.trials, self.merit)
        if not self.needs_device:  # Trials of a looser budget may break this one.
            return [t for t in order if holds(self.limits.violations(t.predicted))]
        return [t for t in order if t.number in self.verified and holds(self.broken(t))]

    def others(self, shipped: Mapping[int, Verification | None]) -> list[Trial]:
        """Winners besides those, which did not hold when they were measured to be shipped.

        Where there are none, more of the trials are measured. What is measured here is not stored:
        after a kill the winners are measured anew.
        """
        for number, found in shipped.items():
            if found is not None:
                self._measured_as(self.trial(number), found)
        left = [t for t in self.winners() if t.number not in shipped]
        for _ in range(BATCHES if self.needs_device else 0):
            chosen = [] if left else self._worth_measuring()
            if not chosen:
                break
            self._learn(chosen, self._verifications(chosen))
            left = [t for t in self.winners() if t.number not in shipped]
        return left

    def merit(self, trial: Trial) -> float:
        """What decides between trials that hold the budget: the score, or an AMC reward."""
        return self.loop.merit(trial)

    def broken(self, trial: Trial) -> dict[str, float]:
        """By how much a measured trial breaks each bound; above 0 is broken."""
        return self.verified[trial.number].violations(self.limits, trial.predicted)

    def nearest(self) -> Trial | None:
        """The measured trial that breaks the budget least, for a search that did not hold it."""
        known = [t for t in self.loop.trials if t.number in self.verified]
        order = sorted(known, key=lambda t: max(self.broken(t).values()))
        return next(iter(order or ranked(self.loop.trials, self.merit)), None)

    # -- verification --------------------------------------------------------------------------

    def _verify(self, batches: int) -> bool:
        """Measure the best candidates, and correct the cost model with what was measured.

        Returns:
            True if a winner is there and nothing better is left to measure; False if what looked
            best broke the budget, so that the search should go on with the corrected model.
        """
        for _ in range(batches):
            chosen = self._worth_measuring()
            if not chosen:
                return self.winner() is not None
            self._measure(chosen)
            if any(holds(self.broken(trial)) for trial in chosen):
                return True
        return False

    def _worth_measuring(self) -> list[Trial]:
        """The best unmeasured trials that may hold the budget and would beat the winner."""
        measured = {self.trial(number).candidate.key for number in self.verified}
        best = self.winner()
        bar = float("-inf") if best is None else self.merit(best)
        order = [
            trial
            for trial in ranked(self.loop.trials, self.merit)
            if trial.candidate.key not in measured and self.merit(trial) > bar
        ]
        if not order:
            return []
        costs = self.cost_model.predict(self.network.workloads([t.candidate for t in order]))
        fits = [
            trial
            for trial, cost in zip(order, costs, strict=True)
            if holds(self.limits.violations(cost))
        ]
        return fits[: self.config.verify.top]

    def trial(self, number: int) -> Trial:
        """A finished trial by its number."""
        return next(t for t in self.loop.trials if t.number == number)

    def _measure(self, chosen: Sequence[Trial]) -> None:
        numbers = [trial.number for trial in chosen]
        known = self._events.replay("verified")
        if known is not None:
            if known["trials"] != numbers:
                raise RunError(
                    f"{self.store.where}: the next verification is of trials "
                    f"{known['trials']}, this search would measure {numbers}; the settings or "
                    "the versions changed since. Start anew in another folder"
                )
            found = [Verification.from_dict(v) for v in known["verifications"]]
        else:
            found = self._verifications(chosen)
            data = {"trials": numbers, "verifications": [v.to_dict() for v in found]}
            self._events.record("verified", len(self.loop.trials), data)
        self._learn(chosen, found)

    def _verifications(self, chosen: Sequence[Trial]) -> list[Verification]:
        if self.device is None:
            raise ProfilerError("a budget on latency needs a device; give one by `device`")
        several = f"{len(chosen)} best candidates" if len(chosen) > 1 else "best candidate"
        self.progress.message(f"measuring the {several}")
        candidates = [trial.candidate for trial in chosen]
        with self.phases("measure"):
            found = measure_until_decided(
                self.device.candidates,
                candidates,
                self.limits,
                self.reference_ms,
                every=bool(self.config.objectives),  # each point of a front counts
            )
        if not any(v.measurement.ok for v in found):
            raise ProfilerError(
                f"none of {len(found)} candidates could be measured on {self.device.spec}; "
                f"the first: {found[0].measurement.error}"
            )
        return found

    def _learn(self, chosen: Sequence[Trial], found: Sequence[Verification]) -> None:
        """Take measurements of trials, and correct the cost model with them."""
        candidates = [trial.candidate for trial in chosen]
        workloads = self.network.workloads(candidates)
        before = self.cost_model.predict(workloads)
        with self.phases("correct"):
            self.cost_model.update(workloads, [v.measurement for v in found])
        for trial, verification, predicted in zip(chosen, found, before, strict=True):
            if verification.measurement.ok and predicted.latency_ms is not None:
                self.errors.append((predicted.latency_ms, verification.latency_ms))
            self._measured_as(trial, verification)
            self._tell_measured(trial, verification)

    def _measured_as(self, trial: Trial, verification: Verification) -> None:
        self.verified[trial.number] = verification
        position = self.loop.trials.index(trial)
        self.loop.trials[position] = replace(trial, measured=verification.cost(trial.predicted))

    def _tell_measured(self, trial: Trial, verification: Verification) -> None:
        text = str(verification)
        if verification.measurement.ok:
            metric = metric_of(self.config.objective)
            text = f"{metric} {trial.score(metric):.4f}, {text}{self._verdict(trial)}"
        self.progress.message(f"trial {trial.number}: {text}")

    def _verdict(self, trial: Trial) -> str:
        return ": holds" if holds(self.broken(trial)) else ": breaks the budget"
