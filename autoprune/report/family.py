"""A family of budgets for people: a line for each, and a picture of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.core.cost import METRICS
from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.report.figures import BUDGET, DENSE, FAINT, MARKED, new_figure, plain_axes, save_png
from autoprune.report.scatter import AXES
from autoprune.report.summary import duration, number


def family_table(data: Mapping[str, Any]) -> RenderableType:
    """A line for each budget, the loosest first.

    Args:
        data: the content of `family.json`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    metric = metric_of(data["objective"])
    for heading in ("budget", "", metric, "latency", "MACs", "params", "folder"):
        left = heading in ("budget", "", "folder")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    dense = data["dense"]["cost"]
    for member in data["members"]:
        winner = member["winner"]
        table.add_row(
            _asked(member),
            Text("held", style="green") if member["held"] else Text("not held", style="red"),
            number(winner["metrics"][metric]),
            _latency(winner, dense),
            _share(winner["cost"], dense, "macs"),
            _share(winner["cost"], dense, "params"),
            member["folder"],
        )
    table.add_row(
        "dense",
        "",
        number(data["dense"]["metrics"][metric]),
        "",
        "",
        "",
        "",
        style="dim",
    )
    checked = f", {len(data['verified'])} measured end to end" if data["verified"] else ""
    lines = [
        f"{data['trials']['finished']} trials for {len(data['members'])} budgets{checked}, "
        f"seed {data['seed']}, {duration(data['seconds']['total'])}"
    ]
    if data["device"] is not None:
        lines.append(f"device: {data['device']['text']}")
    return Group(table, Text(""), *(Text(line, style="dim") for line in lines))


def _asked(member: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={limit}" for name, limit in member["budget"]["asked"].items())


def _latency(winner: Mapping[str, Any], dense: Mapping[str, Any]) -> str:
    """Measured as a share of the dense network's, with its interval; else as predicted."""
    measured = winner["measured"]
    if measured is not None and measured["error"] is None:
        low, high = measured["ratio_interval"]
        return f"{measured['ratio']:.3f}x ({low:.3f} to {high:.3f})"
    return _share(winner["cost"], dense, "latency_ms")


def _share(cost: Mapping[str, Any], dense: Mapping[str, Any], metric: str) -> str:
    if metric not in cost or metric not in dense or not dense[metric]["mean"]:
        return ""
    return f"{cost[metric]['mean'] / dense[metric]['mean']:.3f}x"


def family_picture(data: Mapping[str, Any], trials: Sequence[Trial], path: str | Path) -> Path:
    """Draw the trials, each budget as a line, and each budget's winner.

    Args:
        data: the content of `family.json`.
        trials: of the run.
        path: of the PNG.

    Raises:
        RunError: the file can't be written.
    """
    limits = [member["budget"]["limits"] for member in data["members"]]
    name = next(
        (m for m in limits[0] if len({one[m] for one in limits}) > 1), next(iter(limits[0]))
    )
    divisor, label = AXES.get(name, (1.0, METRICS.get(name, name)))
    objective = metric_of(data["objective"])
    figure = new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    drawn = [(t.predicted.get(name), t.score(objective)) for t in trials if t.ok]
    axes.scatter(
        [x / divisor for x, _ in drawn if x is not None],
        [y for x, y in drawn if x is not None],
        s=14,
        color=FAINT,
        linewidths=0,
        label=f"{len(drawn)} trials (predicted cost)",
    )
    for index, (member, limit) in enumerate(zip(data["members"], limits, strict=True)):
        axes.axvline(
            limit[name] / divisor,
            color=BUDGET,
            linestyle="--",
            linewidth=0.9,
            label=None if index else "budgets",
        )
        axes.annotate(
            str(member["budget"]["asked"][name]),
            (limit[name] / divisor, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=BUDGET,
            rotation=90,
        )
        estimate = member["winner"]["cost"].get(name)
        if estimate is None:
            continue
        axes.errorbar(
            [estimate["mean"] / divisor],
            [member["winner"]["metrics"][objective]],
            xerr=[1.959964 * estimate["std"] / divisor],
            fmt="*",
            markersize=12,
            color=MARKED,
            markerfacecolor=MARKED if member["held"] else "white",
            zorder=4,
            label=None if index else "winners (hollow: not held)",
        )
    dense = data["dense"]["cost"].get(name)
    if dense is not None:
        y = data["dense"]["metrics"][objective]
        axes.scatter([dense["mean"] / divisor], [y], marker="D", s=34, color=DENSE, label="dense")
    axes.set_xlabel(label)
    axes.set_ylabel(objective)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return save_png(figure, path)
