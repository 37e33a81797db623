"""A picture of a batch: accuracy against measured latency, for every search of it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.files import write_atomically

_COLOURS = ("#3b6fb6", "#e6a23c", "#1a7f37", "#c0392b", "#7d5ba6", "#555555", "#16a2b8", "#a67c52")
_MARKERS = "osD^vP*X"


def batch_picture(data: Mapping[str, Any], path: Path) -> Path | None:
    """Draw every finished search; models by colour, budgets by marker, hollow if not held.

    Where nothing was measured, MACs take the latency's place.

    Args:
        data: the content of a batch's `summary.json`.
        path: of the PNG.

    Returns:
        The path, or None where nothing is there to draw.

    Raises:
        RunError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in data["jobs"] if row["value"] is not None]
    measured = [row for row in rows if row["latency_ms"] is not None]
    drawn, metric = (measured, "latency_ms") if measured else (rows, "macs")
    drawn = [row for row in drawn if row[metric] is not None]
    if not drawn:
        return None
    models = list(dict.fromkeys(row["model"] for row in drawn))
    budgets = list(dict.fromkeys(row["budget"] for row in drawn))
    figure = Figure(figsize=(7.0, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    named: set[tuple[str, str]] = set()
    for row in drawn:
        key = (row["model"], row["budget"])
        colour = _COLOURS[models.index(row["model"]) % len(_COLOURS)]
        x, error = row[metric], None
        if metric == "latency_ms":
            error = [[x - row["latency_low_ms"]], [row["latency_high_ms"] - x]]
        axes.errorbar(
            [x if metric == "latency_ms" else x / 1e6],
            [row["value"]],
            xerr=error,
            fmt=_MARKERS[budgets.index(row["budget"]) % len(_MARKERS)],
            color=colour,
            markerfacecolor=colour if row["state"] == "held" else "white",
            markersize=6,
            linewidth=0.8,
            label=None if key in named else f"{row['model']}, {row['budget']}",
        )
        named.add(key)
    label = "measured latency (ms per batch)"
    axes.set_xlabel(label if metric == "latency_ms" else "MACs per sample (M; FLOPs = 2 × MACs)")
    axes.set_ylabel(drawn[0]["objective"])
    axes.set_title("hollow: the budget is not held", fontsize=9, loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return path
