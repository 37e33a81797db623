"""Several objectives: what is maximised, what is minimised, and a trial's values in them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.budget import metric_name
from autoprune.core.cost import METRICS, Floats
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial

#: Last words of the names of metrics of which less is better.
_LESS = frozenset(
    {"loss", "error", "err", "mse", "rmse", "mae", "nll", "perplexity", "ppl", "wer", "cer", "eer"}
)


def metric_of(objective: str) -> str:
    """The metric of `evaluate` that an objective is about: "loss" of "-loss"."""
    return objective.removeprefix("-")


def check_direction(objective: str, value: float) -> None:
    """Refuse to maximise what is surely to be minimised.

    Args:
        objective: as the config has it.
        value: of the dense network.

    Raises:
        ConfigError: the name is that of a loss or an error, which is above 0 and not negated.
    """
    words = objective.lower().replace("-", " ").replace("_", " ").split()
    if value > 0 and not objective.startswith("-") and words and words[-1] in _LESS:
        raise ConfigError(
            f"objective {objective!r} would be maximised, and it is {value:.4g}: to minimise it "
            f"give -{objective}; if more of it is better, give it another name"
        )


@dataclass(frozen=True)
class Objective:
    """One of several objectives.

    Attributes:
        name: a metric of `evaluate`, or a cost ("latency_ms").
        cost: whether it is a cost.
        maximise: whether more is better; costs are always minimised.
        worst: a metric's worst value that is worth a place on the front; None is any.
    """

    name: str
    cost: bool = False
    maximise: bool = True
    worst: float | None = None

    def value(self, trial: Trial) -> float | None:
        """A trial's figure, a cost as it was measured where it was; None where there is none."""
        if not trial.ok:
            return None
        if not self.cost:
            found = trial.metrics.get(self.name)
            return None if found is None else float(found)
        measured = None if trial.measured is None else trial.measured.get(self.name)
        return trial.predicted.get(self.name) if measured is None else measured

    def __str__(self) -> str:
        return self.name if self.cost or self.maximise else f"-{self.name}"


def losses(objectives: Sequence[Objective], trials: Iterable[Trial]) -> Floats:
    """(N, M) values of trials, all to be minimised; NaN where a figure is missing."""
    rows = [
        [
            float("nan") if value is None else (-value if objective.maximise else value)
            for objective in objectives
            for value in [objective.value(trial)]
        ]
        for trial in trials
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))


def worst_losses(objectives: Sequence[Objective]) -> Floats:
    """(M,) the most that each of `losses` may be on a front; infinite where it may be anything."""
    return np.array(
        [np.inf if o.worst is None else (-o.worst if o.maximise else o.worst) for o in objectives]
    )


def parse_objectives(names: Sequence[str], costs: Collection[str] = ()) -> tuple[Objective, ...]:
    """Read objectives as a config writes them.

    The first is a metric of `evaluate`. The others are costs, which are minimised ("latency" is
    short for latency_ms and so on), or further metrics of `evaluate`. Metrics are maximised, or
    minimised where a minus stands before the name.

    Args:
        names: as written, such as `["accuracy", "latency_ms", "-calibration_error"]`.
        costs: names of costs besides autoprune's own.

    Raises:
        ConfigError: fewer than two, one twice, only costs, a first one that is a cost, a sign
            before a cost, or a name that is nearly a cost's.
    """
    found: list[Objective] = []
    for text in names:
        written = text.strip()
        name = metric_name(written.removeprefix("-").strip())
        if not name:
            raise ConfigError(f"objectives must be names of metrics and costs, got {text!r}")
        cost = name in METRICS or name in costs
        if cost and written.startswith("-"):
            raise ConfigError(
                f"objectives: costs are minimised without a sign, got {text!r}; write {name}"
            )
        known = [*METRICS, *costs, "latency", "energy", "memory"]
        near = difflib.get_close_matches(name, known, 1, 0.75)
        if not cost and near:
            raise ConfigError(
                f"objectives: {name!r} is no cost; did you mean {near[0]!r}? (costs: "
                f"{', '.join([*METRICS, *costs])}; anything else is a metric of evaluate)"
            )
        found.append(Objective(name, cost, not cost and not written.startswith("-")))
    twice = sorted({o.name for o in found if sum(o.name == other.name for other in found) > 1})
    if twice:
        raise ConfigError(f"objectives must each be named once, got {', '.join(twice)} twice")
    if len(found) < 2:
        raise ConfigError(
            "objectives must be two or more, such as [accuracy, latency_ms]; for a single one "
            f"give `objective`. Got {', '.join(names) or 'none'}"
        )
    if all(objective.cost for objective in found):
        raise ConfigError(
            "objectives must begin with a metric of evaluate, such as accuracy or -loss; "
            f"got only costs: {', '.join(names)}"
        )
    if found[0].cost:
        raise ConfigError(
            "the first of the objectives must be a metric of evaluate, such as accuracy or -loss; "
            f"got {names[0]!r}"
        )
    return tuple(found)
