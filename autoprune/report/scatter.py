"""A picture of a search: every trial's accuracy against its cost, the budget and the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.cost import METRICS
from autoprune.core.errors import ConfigError
from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.report.figures import BUDGET, DENSE, MARKED, new_figure, plain_axes, save_png

#: Metric → (divisor, axis label).
AXES = {
    "latency_ms": (1.0, "latency (ms per batch)"),
    "energy_mj": (1.0, "energy (mJ per batch)"),
    "macs": (1e6, "MACs per sample (M; FLOPs = 2 × MACs)"),
    "params": (1e3, "parameters (k)"),
    "memory_bytes": (2.0**20, "weights and peak activations (MiB)"),
}


def scatter(
    data: Mapping[str, Any], trials: Sequence[Trial], path: str | Path, metric: str | None = None
) -> Path:
    """Draw trials as a PNG.

    Args:
        data: the content of `result.json`.
        trials: of the run.
        path: of the picture.
        metric: the cost on the horizontal axis; None takes the budget's first.

    Raises:
        ConfigError: the trials' costs don't have the metric.
        RunError: the file can't be written.
    """
    name = metric or next(iter(data["budget"]["limits"]))
    divisor, label = AXES.get(name, (1.0, METRICS.get(name, name)))
    objective = metric_of(data["objective"])
    points = [(t, t.predicted.get(name)) for t in trials if t.whole]
    drawn = [(t, x / divisor) for t, x in points if x is not None]
    if not drawn:
        raise ConfigError(f"no trial has a figure for {name!r}; give a metric of the budget")
    figure = new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    axes.scatter(
        [x for _, x in drawn],
        [t.score(objective) for t, _ in drawn],
        s=16,
        color="#8aa4c8",
        linewidths=0,
        label=f"{len(drawn)} trials (predicted cost)",
    )
    _draw_measured(axes, drawn, name, divisor, objective)
    _draw_ends(axes, data, name, divisor, objective)
    limit = data["budget"]["limits"].get(name)
    if limit is not None:
        axes.axvline(limit / divisor, color=BUDGET, linestyle="--", linewidth=1, label="the budget")
    axes.set_xlabel(label)
    axes.set_ylabel(objective)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    held = "held" if data["held"] else "not held"
    axes.set_title(f"budget {_asked(data)}: {held}", fontsize=10, loc="left")
    return save_png(figure, path)


def _asked(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={limit}" for name, limit in data["budget"]["asked"].items())


def _draw_measured(
    axes: Any, drawn: Sequence[tuple[Trial, float]], name: str, divisor: float, objective: str
) -> None:
    """Measured trials with their interval, joined to where they were predicted."""
    found = [
        (trial, x, trial.measured.estimates[name])
        for trial, x in drawn
        if trial.measured is not None
        and name in trial.measured.estimates
        and trial.measured.estimates[name].source == "measured"
    ]
    for number, (trial, x, estimate) in enumerate(found):
        y, mean = trial.score(objective), estimate.mean / divisor
        axes.plot([x, mean], [y, y], color="#e6a23c", linewidth=0.8, alpha=0.7)
        axes.errorbar(
            [mean],
            [y],
            xerr=[1.96 * estimate.std / divisor],
            fmt="o",
            markersize=4,
            color="#e6a23c",
            label="measured, 95 % interval" if number == 0 else None,
        )


def _draw_ends(
    axes: Any, data: Mapping[str, Any], name: str, divisor: float, objective: str
) -> None:
    """The dense network and the winner; the winner also before it was recovered."""
    dense, winner = data["dense"], data["winner"]
    for part, marker, color, text in (
        (dense, "D", DENSE, "dense"),
        (winner, "*", MARKED, "winner"),
    ):
        estimate = part["cost"].get(name)
        if estimate is None:
            continue
        axes.scatter(
            [estimate["mean"] / divisor],
            [part["metrics"][objective]],
            marker=marker,
            s=140 if marker == "*" else 36,
            color=color,
            zorder=4,
            label=text,
        )
