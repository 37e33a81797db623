"""A search for a Pareto front: every point of it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.cost import Cost
from autoprune.core.errors import BudgetError, ConfigError, EvaluationError
from autoprune.core.objectives import Objective, losses, parse_objectives, worst_losses
from autoprune.core.pareto import spread
from autoprune.core.trial import Trial
from autoprune.searchers.base import SearchContext
from autoprune.study.evaluation import evaluate_model
from autoprune.study.result import measured
from autoprune.study.session import Session
from autoprune.study.store import Event, Store
from autoprune.study.verify import MEASURED, Verification, holds, ranked

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.study.progress import Progress
    from autoprune.study.task import Task

#: Of `pareto.json`.
SCHEMA = 1
#: How often points are measured at the end: what is off the front then makes room for others.
ROUNDS = 3


def objectives_of(task: Task) -> tuple[Objective, ...]:
    """A task's objectives; () for a single one.

    Raises:
        ConfigError: they contradict each other, or can't be read.
    """
    if not task.config.objectives:
        return ()
    found = parse_objectives(
        task.config.objectives, () if task.table is None else task.table.metrics
    )
    worst = task.config.front.worst
    metrics = [o.name for o in found if not o.cost]
    for name in worst:
        if name not in metrics:
            raise ConfigError(
                f"front.worst must name metrics among the objectives ({', '.join(metrics)}), got "
                f"{name!r}; a cost is bounded by `budget`"
            )
    return tuple(replace(o, worst=worst.get(o.name)) for o in found)


def check_objectives(task: Task) -> None:
    """Refuse objectives that nothing can tell here, before anything is spent.

    Raises:
        ConfigError: they contradict each other, or a device is missing.
    """
    for objective in objectives_of(task):
        if objective.cost and objective.name in MEASURED and not _has_device(task):
            raise ConfigError(
                f"objectives: {objective.name} needs a device to measure on; give one by `device` "
                "(`autoprune devices` lists them)"
            )


def _has_device(task: Task) -> bool:
    return task.profiler is not None or task.config.device is not None


def check_metric_objectives(task: Task, network: Network, store: Store, progress: Progress) -> None:
    """Evaluate the dense network where `evaluate` must give several objectives, or good ones.

    So what it does not give is known before a table is measured. What it gives is stored.

    Raises:
        ConfigError: it gives no such metric, or one that no place on the front is worth.
        EvaluationError: it fails.
    """
    objectives = [o for o in objectives_of(task) if not o.cost]
    wanted = [o.name for o in objectives]
    if len(wanted) < 2 and not task.config.front.worst:
        return
    known = next((e.data["metrics"] for e in store.events() if e.kind == "dense"), None)
    if known is None:
        progress.stage("evaluating the dense network")
        try:
            known = evaluate_model(network.model, task.evaluate, wanted[0])
        except EvaluationError as error:
            raise EvaluationError(f"on the dense network: {error}") from error
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ConfigError(
            f"objectives: {', '.join(missing)} is neither a cost nor a metric that evaluate gives "
            f"(it gives {', '.join(known)})"
        )
    for o, most in zip(objectives, worst_losses(objectives), strict=True):
        if (-known[o.name] if o.maximise else known[o.name]) > most:
            raise ConfigError(
                f"front.worst: the dense network's {o.name} is {known[o.name]:.4g}, worse than "
                f"{o.worst:g}, so no network may be expected to be on the front; "
                + ("ask for less" if o.maximise else "allow more")
            )
    if not any(e.kind == "dense" for e in store.events()):
        store.record(Event("dense", 0, {"metrics": known}))


class FrontSession(Session):
    """A search for a front, up to its measured points. The arguments are `Session`'s."""

    def __init__(self, task: Task, *args: Any, **named: Any) -> None:
        self.objectives = objectives_of(task)
        super().__init__(task, *args, **named)
        for objective in self.objectives:
            if objective.cost and objective.name not in self.cost_model.metrics:
                raise BudgetError(
                    f"objectives: {objective.name} can't be predicted: "
                    + (
                        "the device tells no energy; state a power by the device's option power_w, "
                        "or measure on one that has a meter"
                        if objective.name == "energy_mj"
                        else f"there are {', '.join(self.cost_model.metrics)}"
                    )
                )

    @property
    def needs_device(self) -> bool:
        """Whether an objective or the budget is on what only a device can tell."""
        return super().needs_device or any(o.name in MEASURED for o in self.objectives)

    def context(self, trials: int) -> SearchContext:
        """As for one objective, with all of them."""
        return replace(super().context(trials), objectives=self.objectives)

    def _go(self, trials: int) -> None:
        settings = self.config.front
        if self.needs_device and trials >= 8 * self.config.verify.top:
            # The table's first correction, while most of the search can still use it.
            self.loop.run(trials // 3)
            self._measure(self._open_points(self.config.verify.top))
        self.loop.run(trials)
        if not self.needs_device:
            return
        for _ in range(ROUNDS):
            chosen = self._open_points(settings.points)
            if not chosen or len(self.verified) >= 2 * settings.points + self.config.verify.top:
                return
            self._measure(chosen)

    def _open_points(self, count: int) -> list[Trial]:
        """Of the trials that would show the front best, those that were not measured yet."""
        order = ranked(self.loop.trials, self.config.objective)
        if not order:
            return []
        costs = self.cost_model.predict(self.network.workloads([t.candidate for t in order]))
        known: list[Trial] = []
        for trial, cost in zip(order, costs, strict=True):
            if trial.number in self.verified:
                if self._stands(trial):
                    known.append(trial)
            elif holds(self.limits.violations(cost)):
                known.append(replace(trial, predicted=cost))
        figures = losses(self.objectives, known)
        fine = np.isfinite(figures) & (figures <= worst_losses(self.objectives))
        finite = np.flatnonzero(fine.all(axis=1))
        chosen = [known[finite[i]].number for i in spread(figures[finite], count)]
        return [self.trial(number) for number in chosen if number not in self.verified]

    def _stands(self, trial: Trial) -> bool:
        """Whether a trial may be on the front: told in every objective, good enough, in budget."""
        # A figure that is not told is not a number, and nothing is above that.
        if not (losses(self.objectives, [trial]) <= worst_losses(self.objectives)).all():
            return False
        if not self.needs_device:
            return trial.ok and holds(self.limits.violations(trial.predicted))
        found = self.verified.get(trial.number)
        if found is None or not found.measurement.ok or not holds(self.broken(trial)):
            return False
        told = found.cost(Cost()).estimates
        return all(o.name in told for o in self.objectives if o.name in MEASURED)

    def others(self, shipped: Mapping[int, Verification | None]) -> list[Trial]:
        """The points of the front that were not built yet: it is closed, nothing more is measured.

        Args:
            shipped: by trial number, what was measured.
        """
        return [trial for trial in self.winners() if trial.number not in shipped]

    def points(self) -> list[Trial]:
        """The front's points, each measured where a device must tell; the cheapest first."""
        known = [t for t in ranked(self.loop.trials, self.config.objective) if self._stands(t)]
        if not known:
            return []
        chosen = spread(losses(self.objectives, known), self.config.front.points)
        cost = next((o for o in self.objectives if o.cost), self.objectives[-1])
        return sorted((known[i] for i in chosen), key=lambda t: (cost.value(t) or 0.0, t.number))

    def close(self) -> dict[str, Any]:
        """The content of `pareto.json`."""
        points = self.points()
        on_front = {trial.number for trial in points}
        units = dict(
            zip(self.network.kernels.groups, self.network.kernels.units.tolist(), strict=True)
        )
        return {
            "schema": SCHEMA,
            "objectives": [
                {"name": o.name, "cost": o.cost, "maximise": o.maximise} for o in self.objectives
            ],
            "budget": {
                "asked": dict(self.config.budget),
                "limits": {m: limit.value for m, limit in self.limits.limits.items()},
            },
            "dense": {
                "metrics": dict(self._dense_metrics),
                "cost": with_intervals(self.dense_cost),
            },
            "points": [_point(trial, self.verified.get(trial.number), units) for trial in points],
            "dominated": sorted(set(self.verified) - on_front),
            "trials": len(self.loop.trials),
            "seed": self.config.seed,
            "device": None if self.device is None else str(self.device.spec),
        }

    def _verdict(self, trial: Trial) -> str:
        return ""


def _point(
    trial: Trial, verification: Verification | None, units: dict[str, int]
) -> dict[str, Any]:
    cost = trial.predicted if verification is None else verification.cost(trial.predicted)
    return {
        "trial": trial.number,
        "kept": {name: {"kept": trial.candidate[name], "of": units[name]} for name in units},
        "metrics": dict(trial.metrics),
        "predicted": with_intervals(trial.predicted),
        "cost": with_intervals(cost),
        "measured": measured(verification),
    }


def with_intervals(cost: Cost) -> dict[str, dict[str, Any]]:
    """A cost as JSON values, each figure with its 95 % interval."""
    data: dict[str, dict[str, Any]] = {m: dict(e) for m, e in cost.to_dict().items()}
    for metric, estimate in cost.estimates.items():
        half = 1.959964 * estimate.std
        data[metric]["interval"] = [estimate.mean - half, estimate.mean + half]
    return data
