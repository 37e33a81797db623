"""A network for another budget off a finished run, without a new search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.core.budget import Budget, Limit
from autoprune.core.cost import Cost
from autoprune.core.device import Profiler
from autoprune.core.errors import BudgetError, RunError
from autoprune.core.trial import Trial
from autoprune.evaluate.base import Evaluator
from autoprune.study.conduct import finish, prepare
from autoprune.study.config import SearchConfig, budget_settings
from autoprune.study.config_files import write_yaml
from autoprune.study.families import budget_name
from autoprune.study.folder import RunFolder
from autoprune.study.progress import Progress
from autoprune.study.reopening import reopen
from autoprune.study.shipping import storage_of
from autoprune.study.store import Store
from autoprune.study.verify import MEASURED, Verification, holds, ranked

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.pruning.importance import Importance
    from autoprune.pruning.recover import Loss
    from autoprune.study.result import Result


def pick(
    run: str | Path,
    budget: str | Mapping[str, float | str] | Budget,
    *,
    out: str | Path | None = None,
    model: nn.Module | None = None,
    example_inputs: Any = None,
    evaluate: Evaluator | None = None,
    calibration: Iterable[Any] | None = None,
    train: Iterable[Any] | None = None,
    loss: Loss | None = None,
    device: Profiler | None = None,
    importance: Importance | None = None,
    progress: Progress | None = None,
) -> Result:
    """Take the best network for a budget off a finished run.

    Of the run's trials that hold the budget (by measurement, where it bounds what only a device
    can tell), the most accurate is built, refitted, recovered if the run's config says so,
    exported and measured as it is shipped. Any run will do; one for a front, or for several
    budgets, has measured the most networks.

    Args:
        run: folder of a finished run.
        budget: as for `autoprune.search`.
        out: folder for the network, a run folder like others; None takes one below the run's,
            named after the budget.
        model: for a run begun from Python, as for `autoprune.resume`; so with the others.
        example_inputs: see `model`.
        evaluate: see `model`.
        calibration: see `model`.
        train: see `model`.
        loss: see `model`.
        device: see `model`.
        importance: see `model`.
        progress: listens.

    Returns:
        The result; `result.held` says whether the budget holds as it was measured now.

    Raises:
        BudgetError: no network of the run holds it; says what the nearest would hold.
        RunError: the run is not finished, or the folder holds a run already.
        AutopruneError: as `autoprune.resume`.
    """
    folder, task = reopen(
        run,
        model=model,
        example_inputs=example_inputs,
        evaluate=evaluate,
        calibration=calibration,
        train=train,
        loss=loss,
        device=device,
        importance=importance,
    )
    wanted = Budget.parse(budget)
    asked = budget_settings(wanted)
    told = _overview(folder)
    place = Path(out) if out is not None else folder.path / f"pick-{budget_name(asked)}"
    kept = {"budget": asked, "objectives": None, "out": str(place)}
    task = replace(task, config=task.config.model_copy(update=kept))
    with folder:
        picked = _chosen(task, folder, wanted, told)
    listener = progress or Progress()
    with prepare(task, listener) as prepared, RunFolder.create(place) as below:
        picked.network = prepared.network
        result = finish(prepared, task, picked, picked.trials, told["dense"]["metrics"], below)
        below.write(below.config, write_yaml(task.config))
    return result


@dataclass
class Picked:
    """What a run knows of its trials, with another budget (see `autoprune.study.shipping`)."""

    config: SearchConfig
    budget: Budget
    limits: Budget
    dense_cost: Cost
    reference_ms: float | None
    trials: list[Trial]
    verified: dict[int, Verification]
    errors: list[tuple[float, float]] = field(default_factory=list)
    network: Network = field(init=False)

    @property
    def needs_device(self) -> bool:
        """Whether the budget bounds what only a device can tell."""
        return any(metric in MEASURED for metric in self.limits.limits)

    def known(self) -> list[Trial]:
        """The trials of which it is known whether they hold, the most accurate first."""
        order = ranked(self.trials, self.config.objective)
        if not self.needs_device:
            return order
        return [
            t for t in order if t.number in self.verified and self.verified[t.number].measurement.ok
        ]

    def merit(self, trial: Trial) -> float:
        """The score."""
        return trial.score(self.config.objective)

    def broken(self, trial: Trial) -> dict[str, float]:
        """By how much a trial breaks each bound; above 0 is broken."""
        found = self.verified.get(trial.number)
        if found is None:
            return self.limits.violations(trial.predicted)
        return found.violations(self.limits, trial.predicted)

    def winners(self) -> list[Trial]:
        """Every trial that holds the budget, the most accurate first."""
        return [trial for trial in self.known() if holds(self.broken(trial))]

    def others(self, shipped: Mapping[int, Verification | None]) -> list[Trial]:
        """The winners that were not built yet: nothing more is measured."""
        return [trial for trial in self.winners() if trial.number not in shipped]

    def nearest(self) -> Trial | None:
        """The trial that breaks the budget least."""
        return min(self.known(), key=lambda t: max(self.broken(t).values()), default=None)

    def trial(self, number: int) -> Trial:
        """A trial by its number."""
        return next(t for t in self.trials if t.number == number)


def _overview(folder: RunFolder) -> dict[str, Any]:
    """`result.json`, or `family.json` where there were several budgets."""
    if folder.family.exists():
        return folder.read_json(folder.family)
    return folder.read_result()


def _chosen(task: Any, folder: RunFolder, budget: Budget, told: Mapping[str, Any]) -> Picked:
    """The run's trials and measurements, with the new budget.

    Raises:
        BudgetError: none holds it, or the run tells nothing of what it bounds.
        RunError: the trials are not there.
    """
    dense = Cost.from_dict(told["dense"]["cost"])
    where, name = storage_of(task, folder)
    if isinstance(where, Path) and not where.exists():
        raise RunError(
            f"{folder.path} holds no trials; pick from the folder of the whole run, above it"
        )
    limits = budget.absolute(dense)
    store = Store(where, name, {})
    trials = [stored.trial for stored in store.trials()]
    verified: dict[int, Verification] = {}
    for event in store.events():
        if event.kind == "verified":
            found = [Verification.from_dict(v) for v in event.data["verifications"]]
            verified.update(zip(event.data["trials"], found, strict=True))
    trials = [
        replace(t, measured=verified[t.number].cost(t.predicted)) if t.number in verified else t
        for t in trials
    ]
    reference = next((v.reference_ms for v in verified.values()), None)
    picked = Picked(task.config, budget, limits, dense, reference, trials, verified)
    if not picked.winners():
        raise BudgetError(_none_holds(picked, folder))
    return picked


def _none_holds(picked: Picked, folder: RunFolder) -> str:
    nearest = picked.nearest()
    if nearest is None:
        return (
            f"the run {folder.path} measured no network, so nothing of it is known to hold "
            f"{picked.budget}; search with a budget or an objective on what it bounds"
        )
    broken = picked.broken(nearest)
    would = {
        metric: Limit(_rounded_up(limit.value * max(1.0, 1.0 + broken[metric])), limit.relative)
        for metric, limit in picked.budget.limits.items()
    }
    what = "measured" if picked.needs_device else "evaluated"
    told = ", ".join(f"{m}={limit}" for m, limit in would.items())
    return (
        f"none of the {len(picked.known())} {what} networks of {folder.path} holds "
        f"{picked.budget}; the nearest would hold {told}. Ask for that, or search anew"
    )


def _rounded_up(value: float) -> float:
    """To three digits after the first: a bound that is asked for again must hold."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / unit) * unit:.6g}")
