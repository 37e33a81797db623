"""A Pareto front for people: a table, and a picture of accuracy against each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.core.cost import METRICS
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.report.figures import DENSE, FAINT, MARKED, new_figure, plain_axes, save_png
from autoprune.report.scatter import AXES
from autoprune.report.summary import number

#: Metric → (heading, divisor).
_HEADINGS = {
    "latency_ms": ("latency, ms", 1.0),
    "energy_mj": ("energy, mJ", 1.0),
    "macs": ("MACs, M", 1e6),
    "params": ("params, k", 1e3),
    "memory_bytes": ("memory, MiB", 2.0**20),
    "weight_bytes": ("weights, MiB", 2.0**20),
    "activation_bytes": ("activations, MiB", 2.0**20),
}


def front_table(data: Mapping[str, Any]) -> RenderableType:
    """The points of a front, the cheapest first, each figure beside the dense network's.

    Args:
        data: the content of `pareto.json`.
    """
    metrics = [o["name"] for o in data["objectives"] if not o["cost"]]
    costs = [o["name"] for o in data["objectives"] if o["cost"]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("trial", justify="right", no_wrap=True)
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    for name in costs:
        table.add_column(_heading(name)[0], justify="right", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
    for point in data["points"]:
        row = [str(point["trial"]), *(number(point["metrics"].get(name)) for name in metrics)]
        for name in costs:
            row += _figures(name, point["cost"].get(name), data["dense"]["cost"].get(name))
        table.add_row(*row)
    dense = ["dense", *(number(data["dense"]["metrics"].get(name)) for name in metrics)]
    for name in costs:
        dense += _figures(name, data["dense"]["cost"].get(name), None)
    table.add_row(*dense, style="dim")
    return Group(table, Text(""), *(Text(line, style="dim") for line in _remarks(data)))


def _heading(name: str) -> tuple[str, float]:
    return _HEADINGS.get(name, (name, 1.0))


def _figures(
    name: str, estimate: Mapping[str, Any] | None, dense: Mapping[str, Any] | None
) -> list[str]:
    """A figure with what it may be off by, and its share of the dense network's."""
    if estimate is None:
        return ["", ""]
    divisor = _heading(name)[1]
    half = (estimate["interval"][1] - estimate["interval"][0]) / 2 / divisor
    off = f" ±{half:.2g}" if half > 0 else ""
    share = "" if not dense or not dense["mean"] else f"{estimate['mean'] / dense['mean']:.3f}x"
    return [f"{estimate['mean'] / divisor:,.4g}{off}", share]


def _remarks(data: Mapping[str, Any]) -> list[str]:
    known = [p for p in data["points"] if p["measured"] is not None]
    checked = f"; {len(known) + len(data['dominated'])} networks measured end to end, "
    checked += f"{len(data['dominated'])} of them off the front" if known else ""
    lines = [
        f"{len(data['points'])} points of a front from {data['trials']} trials, seed "
        f"{data['seed']}{checked if known else ''}"
    ]
    if not data["points"]:
        lines.append("no trial holds the budget and the worst that is worth a point (front.worst)")
    if data["device"] is not None and known:
        lines.append(f"device: {data['device']}")
    return lines


def front_picture(data: Mapping[str, Any], trials: Sequence[Trial], path: str | Path) -> Path:
    """Draw the first metric against each cost: the front marked, the other trials faint.

    Args:
        data: the content of `pareto.json`.
        trials: of the run.
        path: of the PNG.

    Raises:
        ConfigError: the front has no point.
        RunError: the file can't be written.
    """
    if not data["points"]:
        raise ConfigError("the front must have a point to be drawn, it has none")
    metric = data["objectives"][0]["name"]
    costs = [o["name"] for o in data["objectives"] if o["cost"]]
    others = [o["name"] for o in data["objectives"][1:] if not o["cost"]]
    panels = [*costs, *others]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(6.4, 4.4 * columns), 4.2 * rows)
    shared = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for index, axes in enumerate(shared.ravel()):
        if index >= len(panels):
            axes.set_visible(False)
            continue
        _panel(axes, data, trials, panels[index], metric, line=len(data["objectives"]) == 2)
        if index % columns == 0:
            axes.set_ylabel(metric)
    shared[0][0].legend(frameon=False, fontsize=8, loc="lower right")
    return save_png(figure, path)


def _panel(
    axes: Any, data: Mapping[str, Any], trials: Sequence[Trial], name: str, metric: str, line: bool
) -> None:
    divisor, label = AXES.get(name, (1.0, METRICS.get(name, name)))
    on_front = {point["trial"] for point in data["points"]}
    faint = [
        (x / divisor, trial.score(metric))
        for trial in trials
        if trial.ok and trial.number not in on_front
        for x in [_value(trial, name)]
        if x is not None
    ]
    axes.scatter(
        [x for x, _ in faint],
        [y for _, y in faint],
        s=14,
        color=FAINT,
        linewidths=0,
        label="dominated, or left out",
    )
    points = sorted(
        (_drawn(point, name, divisor), point["metrics"][metric])
        for point in data["points"]
        if name in point["cost"] or name in point["metrics"]
    )
    if line:
        axes.step(
            [x for (x, _, _), _ in points],
            [y for _, y in points],
            where="post",
            color=MARKED,
            linewidth=0.9,
            alpha=0.6,
        )
    axes.errorbar(
        [x for (x, _, _), _ in points],
        [y for _, y in points],
        xerr=[[below for (_, below, _), _ in points], [above for (_, _, above), _ in points]],
        fmt="o",
        markersize=4.5,
        color=MARKED,
        elinewidth=1.0,
        capsize=2,
        zorder=3,
        label="front (95 % interval)",
    )
    dense = data["dense"]
    known = dense["cost"].get(name, {}).get("mean", dense["metrics"].get(name))
    if known is not None and metric in dense["metrics"]:
        axes.scatter(
            [known / divisor],
            [dense["metrics"][metric]],
            marker="D",
            s=34,
            color=DENSE,
            zorder=4,
            label="dense",
        )
    axes.set_xlabel(label)
    plain_axes(axes)


def _value(trial: Trial, name: str) -> float | None:
    if name in trial.metrics:
        return float(trial.metrics[name])
    measured = None if trial.measured is None else trial.measured.get(name)
    return trial.predicted.get(name) if measured is None else measured


def _drawn(point: Mapping[str, Any], name: str, divisor: float) -> tuple[float, float, float]:
    """A point's figure, and how far its interval reaches below and above."""
    if name not in point["cost"]:
        return float(point["metrics"][name]), 0.0, 0.0
    estimate = point["cost"][name]
    low, high = estimate["interval"]
    return (
        estimate["mean"] / divisor,
        (estimate["mean"] - low) / divisor,
        (high - estimate["mean"]) / divisor,
    )
