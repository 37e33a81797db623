"""Why a pruned network is as fast as it is, for people: a table, and bars for each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.core.errors import ConfigError
from autoprune.report.figures import DENSE, MARKED, new_figure, plain_axes, save_png

#: Colours of the pruned bars by what bounds a layer.
_BOUNDS = {"compute": MARKED, "memory": "#e6a23c", "launch": "#c0392b"}


def explain_table(data: Mapping[str, Any]) -> RenderableType:
    """A line for each layer, and what they add up to.

    Args:
        data: the content of `explain.json`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, side in (
        ("layer", "left"),
        ("channels", "left"),
        ("dense µs", "right"),
        ("pruned µs", "right"),
        ("time", "right"),
        ("MACs", "right"),
        ("bound", "left"),
        ("", "left"),
    ):
        table.add_column(
            heading,
            justify=side,  # type: ignore[arg-type]
            no_wrap=heading != "",
        )
    for row in data["layers"]:
        table.add_row(
            row["layer"],
            _channels(row),
            f"{1e3 * row['dense_ms']:.1f}",
            f"{1e3 * row['pruned_ms']:.1f}",
            _share(row["pruned_ms"], row["dense_ms"]),
            _share(row["pruned_macs"], row["dense_macs"]),
            row["bound"],
            Text("; ".join(remarks(row)), style="yellow"),
        )
    return Group(table, Text(""), *(Text(line) for line in sums(data)))


def _channels(row: Mapping[str, Any]) -> str:
    dense, pruned = ("→".join(map(str, row[k])) for k in ("dense_channels", "pruned_channels"))
    return dense if dense == pruned else f"{dense}: {pruned}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.2f}x" if whole else ""


def remarks(row: Mapping[str, Any]) -> list[str]:
    """What is odd about a layer."""
    found = []
    if row["no_faster"]:
        found.append("no faster")
    if row["could_keep"] is not None:
        found.append(f"{row['could_keep']} out take as long")
    if row["fusion"] is not None:
        found.append(_changed(row["fusion"]["dense"], row["fusion"]["pruned"]))
    return found


def _changed(dense: Sequence[str], pruned: Sequence[str]) -> str:
    """Which ops the runtime runs besides, and which no longer."""
    before, after = Counter(dense), Counter(pruned)
    more = [f"+{op}" for op in (after - before).elements()]
    fewer = [f"-{op}" for op in (before - after).elements()]
    return " ".join(more + fewer) or "in another order"


def sums(data: Mapping[str, Any]) -> list[str]:
    """What the layers add up to, and what else is worth a line."""
    rows = data["layers"]
    dense, pruned = data["dense_ms"], data["pruned_ms"]
    how = "measured" if data["source"] == "measured" else "by the latency table's records"
    lines = [f"{dense:.4g} ms dense, {pruned:.4g} ms pruned ({data['ratio']:.3f}x), {how}"]
    if data["removed"]:
        gone = data["removed"]
        lines.append(
            f"removed whole, {sum(gone.values()):.4g} ms of the dense network: {', '.join(gone)}"
        )
    nothing = [row for row in rows if row["no_faster"]]
    if nothing:
        lines.append(
            f"pruned and no faster: {len(nothing)} of {len(rows)} layers "
            f"({', '.join(row['layer'] for row in nothing)})"
        )
    if data["plateaus"]:
        told = ", ".join(
            f"{p['group']} {p['kept']} → {p['could_keep']} of {p['of']}" for p in data["plateaus"]
        )
        lines.append(f"on a plateau, could keep more in the same time (by the table): {told}")
    for bound, why in (
        ("launch", "starting the kernel takes longer than its work"),
        ("memory", "moving the data takes longer than the arithmetic"),
    ):
        own = [row for row in rows if row["bound"] == bound]
        if own:
            time = sum(row["pruned_ms"] for row in own)
            lines.append(
                f"{bound}-bound: {len(own)} of {len(rows)} layers, {time / pruned:.1%} of the "
                f"pruned network's time: {why}"
            )
    changed = [row["layer"] for row in rows if row["fusion"] is not None]
    if changed:
        lines.append(f"runs as other kernels than in the dense network: {', '.join(changed)}")
    if data["cheaper"] is not None:
        lines.append(_cheaper(data["cheaper"], pruned))
    return lines + [f"note: {note}" for note in data["notes"]]


def _cheaper(cheaper: Mapping[str, Any], pruned_ms: float) -> str:
    text = f"{cheaper['what']}: {cheaper['without_ms']:.4g} ms without it, {pruned_ms:.4g} ms with"
    if cheaper["brought_nothing"]:
        text += f"; it brought nothing in {', '.join(cheaper['brought_nothing'])}"
    return text


def explain_picture(data: Mapping[str, Any], path: str | Path) -> Path:
    """Draw bars for each layer, dense against pruned, coloured by what bounds it.

    Args:
        data: the content of `explain.json`.
        path: of the PNG.

    Raises:
        ConfigError: there is no layer.
        RunError: the file can't be written.
    """
    rows = data["layers"]
    if not rows:
        raise ConfigError("a layer must have a time to be drawn, none has")
    figure = new_figure(8.0, max(2.6, 1.3 + 0.19 * len(rows)))
    axes = figure.add_subplot()
    places = range(len(rows))
    axes.barh(
        places,
        [1e3 * row["dense_ms"] for row in rows],
        height=0.82,
        color="#d8dbe0",
        label=f"dense ({data['dense_ms']:.3g} ms in all)",
    )
    for bound, colour in _BOUNDS.items():
        own = [i for i, row in enumerate(rows) if row["bound"] == bound]
        if own:
            axes.barh(
                own,
                [1e3 * rows[i]["pruned_ms"] for i in own],
                height=0.46,
                color=colour,
                label=f"pruned, {bound}-bound",
            )
    top = max(1e3 * max(row["dense_ms"], row["pruned_ms"]) for row in rows)
    for place, row in zip(places, rows, strict=True):
        text = ", ".join(remarks(row)[:2])
        if text:
            axes.annotate(
                text,
                (1e3 * max(row["dense_ms"], row["pruned_ms"]) + 0.01 * top, place),
                va="center",
                fontsize=6,
                color=DENSE,
            )
    axes.set_yticks(list(places), [row["layer"] for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.22 * top)
    axes.set_xlabel("time of the layer and the light ops after it (µs per batch)")
    plain_axes(axes)
    axes.grid(axis="y", visible=False)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return save_png(figure, path)
