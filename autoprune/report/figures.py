"""What our pictures share: how they are made and written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from autoprune.core.files import write_atomically

#: Colours by what they stand for.
FAINT, MARKED, DENSE, BUDGET = "#b9c7dd", "#1a7f37", "#555555", "#c0392b"


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Any) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def save_png(figure: Any, path: str | Path) -> Path:
    """Write a figure whole or not at all.

    Raises:
        RunError: the file can't be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(Path(path), buffer.getvalue())
    return Path(path)
