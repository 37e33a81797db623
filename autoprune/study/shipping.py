"""From the trials of a search to what it gives back: shipped, told, written down."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.core.budget import Budget
from autoprune.core.cost import Cost
from autoprune.core.errors import ConfigError, SearchError
from autoprune.core.trial import Trial
from autoprune.study.config import SearchConfig
from autoprune.study.finish import Finisher, Shipped
from autoprune.study.folder import RunFolder
from autoprune.study.result import Result, result_data
from autoprune.study.store import Store
from autoprune.study.verify import Verification, holds

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.task import Task

#: Packages whose versions a result tells.
_PACKAGES = ("autoprune", "torch", "numpy", "optuna", "stable-baselines3", "onnx", "onnxruntime")


class Searched(Protocol):
    """What is known when a search is over: a `Session`, or what was picked from one.

    Attributes:
        network: traced.
        budget: as it was asked for.
        limits: the same in absolute numbers.
        dense_cost: of the dense network.
        reference_ms: the dense network's latency, where it is fixed.
        verified: measurements by trial number.
        errors: (predicted, measured) latency in ms of each.
    """

    network: Network
    budget: Budget
    limits: Budget
    dense_cost: Cost
    reference_ms: float | None
    verified: dict[int, Verification]
    errors: list[tuple[float, float]]

    @property
    def config(self) -> SearchConfig:
        """Of the search."""

    def winners(self) -> list[Trial]:
        """Every trial that holds the budget, the best first."""

    def others(self, shipped: Mapping[int, Verification | None]) -> list[Trial]:
        """Winners besides those, which did not hold when they were measured to be shipped.

        Args:
            shipped: by trial number, what was measured then.
        """

    def nearest(self) -> Trial | None:
        """The trial that comes nearest where none holds."""

    def merit(self, trial: Trial) -> float:
        """What decides between trials that hold, the more the better."""

    def broken(self, trial: Trial) -> dict[str, float]:
        """By how much a measured trial breaks each bound."""

    def trial(self, number: int) -> Trial:
        """A finished trial by its number."""


def storage_of(task: Task, folder: RunFolder | None) -> tuple[Any, str]:
    """Where a task's trials are stored, and under which name."""
    run = task.config.run
    name = task.config.study or (run.study if run is not None else "autoprune")
    if task.config.storage is not None:
        if run is None:
            raise ConfigError("storage needs a run folder to resume from; give one by `out`")
        return task.config.storage, name
    return (None if folder is None else folder.journal), name


def units_of(network: Network) -> dict[str, int]:
    """Units of each channel group."""
    return {group.name: group.units for group in network.groups}


def ship(session: Searched, finisher: Finisher, trials: Sequence[Trial]) -> Shipped:
    """The best of the winners that hold as they are exported; else the one that comes nearest.

    The best of those that are built is measured, and once more when it is recovered; where it does
    not hold then, the next best. Where none does, others are built, as often as the search may go
    on (`VerifySettings.rounds`).
    """
    broken: list[Shipped] = []
    winners = session.winners()
    for _ in range(1 + session.config.verify.rounds):
        built = [finisher.build(trial) for trial in winners[: session.config.verify.top]]
        for shipped in sorted(built, key=lambda s: _merit(session, s), reverse=True):
            found = finisher.measure(shipped)
            if holds(violations(session, found)):
                found = finisher.recover(found)
                if holds(violations(session, found)):
                    return found
            broken.append(found)
        if not built:
            break
        winners = session.others({s.trial.number: s.verification for s in broken})
    if broken:
        nearest = min(broken, key=lambda s: max(0.0, *violations(session, s).values()))
        return nearest if nearest.recovered else finisher.recover(nearest)
    trial = session.nearest()
    if trial is None:
        errors = [t.error for t in trials if t.error]
        raise SearchError(
            f"no evaluation gave a figure in {len(trials)} trials"
            + (f"; the last: {errors[-1]}" if errors else "")
            + ". Mend it and search anew, in another folder"
        )
    return finisher.recover(finisher.measure(finisher.build(trial)))


def _merit(session: Searched, shipped: Shipped) -> float:
    """The merit of a network as it is shipped: refitted."""
    return session.merit(replace(shipped.trial, metrics=shipped.metrics))


def violations(session: Searched, shipped: Shipped) -> dict[str, float]:
    """By how much what is shipped breaks each bound; above 0 is broken."""
    if shipped.verification is not None:
        return shipped.verification.violations(session.limits, shipped.trial.predicted)
    return session.limits.violations(shipped.trial.predicted)


def make_result(
    task: Task,
    session: Searched,
    shipped: Shipped,
    trials: Sequence[Trial],
    dense_metrics: Mapping[str, float],
    about: Mapping[str, Any],
    folder: RunFolder | None,
    front: dict[str, Any] | None = None,
) -> Result:
    """Put a result together; see `autoprune.study.conduct.finish`."""
    trial, verification = shipped.trial, shipped.verification
    units = units_of(session.network)
    broken = violations(session, shipped)
    result = Result(
        model=shipped.model,
        candidate=trial.candidate,
        held=holds(broken),
        cost=trial.predicted if verification is None else verification.cost(trial.predicted),
        predicted=trial.predicted,
        dense_cost=_dense_cost(session, shipped),
        metrics=shipped.metrics,
        metrics_before_recovery=shipped.built_metrics,
        dense_metrics=dense_metrics,
        budget=session.budget,
        limits=session.limits,
        violations=broken,
        objective=session.config.objective,
        example_inputs=task.example_inputs,
        kept={name: (trial.candidate[name], units[name]) for name in trial.candidate},
        verification=verification,
        dense_verification=shipped.dense_verification,
        trials=tuple(trials),
        folder=None if folder is None else folder.path,
        front=front,
    )
    verified = {
        str(number): {
            "held": holds(session.broken(measured)),
            "cost": found.cost(measured.predicted).to_dict(),
        }
        for number, found in session.verified.items()
        for measured in [session.trial(number)]
    }
    data = result_data(result, trial.number, {"verified": verified, **about})
    return replace(result, data=data)


def _dense_cost(session: Searched, shipped: Shipped) -> Cost:
    known: Cost = session.dense_cost
    if shipped.dense_verification is None or "latency_ms" in known.estimates:
        return known
    return shipped.dense_verification.cost(known)


def table_error(session: Searched) -> dict[str, Any] | None:
    """How far the table was off on what was verified, each predicted before it was measured."""
    if not session.errors:
        return None
    off = [abs(predicted / measured - 1.0) for predicted, measured in session.errors]
    return {"verified": len(off), "median_error": median(off), "worst_error": max(off)}


def device_data(device: DeviceMeasure | None) -> dict[str, Any] | None:
    """The device as `result.json` tells it."""
    if device is None:
        return None
    from dataclasses import asdict

    return {**asdict(device.spec), "text": str(device.spec)}


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_result(result: Result, shipped: Shipped, folder: RunFolder) -> None:
    """The network's files first, `result.json` last: it says that the run is finished."""
    from autoprune.pruning.plan import save

    save(result.model, folder.path)
    if shipped.onnx is not None and shipped.dense_onnx is not None:
        folder.write(folder.onnx, shipped.onnx)
        folder.write(folder.dense_onnx, shipped.dense_onnx)
    else:
        result.export(folder.onnx)
    if result.front is not None:
        folder.write_json(folder.pareto, result.front)
    folder.write_result(result.data)
    shutil.rmtree(folder.recovery, ignore_errors=True)


def read_result(task: Task, folder: RunFolder, trials_in: Path | None = None) -> Result:
    """The result of a finished run, its network loaded from the folder.

    Args:
        task: the run's.
        folder: that holds the result.
        trials_in: the folder that holds the trials, where that is another one.
    """
    from autoprune.pruning.plan import load
    from autoprune.study.reading import result_of

    data = folder.read_result()
    model = load(folder.path, task.model)
    where, name = storage_of(task, RunFolder(trials_in) if trials_in is not None else folder)
    trials: list[Trial] = []
    if not isinstance(where, Path) or where.exists():
        store = Store(where, name, {n: k["of"] for n, k in data["winner"]["kept"].items()})
        trials = [stored.trial for stored in store.trials()]
    result = result_of(data, model, task.example_inputs, trials, folder.path)
    front = folder.read_json(folder.pareto) if folder.pareto.exists() else None
    return replace(result, front=front)
