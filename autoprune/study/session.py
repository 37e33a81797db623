"""One search from beginning to end, resumable at any moment.

Everything that can't be computed again the same way (evaluations, measurements, the table) is
stored when it is there; the rest is a function of it. So a resumed session simply runs again.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import EvaluationError
from autoprune.core.objectives import check_direction
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
from autoprune.study.verifying import BATCHES, Verifying

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.evaluate.base import EvaluatorPool
    from autoprune.graph.network import Network
    from autoprune.space.space import SearchSpace
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.task import Task


class Session(Verifying):
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
        super().__init__()
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
