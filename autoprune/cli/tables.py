"""What `autoprune table` shows and measures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.cli.commands import HELD, NOT_HELD
from autoprune.cli.progress import TerminalProgress
from autoprune.core.errors import TableError
from autoprune.core.files import check_writable
from autoprune.cost.describe import Description, describe
from autoprune.cost.table import LatencyTable

if TYPE_CHECKING:
    from autoprune.cost.check import TableCheck
    from autoprune.cost.compare import Agreement, Difference

_BLOCKS = "▁▂▃▄▅▆▇█"
#: A table that is off by more is a poor one, though it may be no worse than it says.
_POOR = 0.05
#: Signatures that a comparison lists at most, and plateau edges in a row.
_ROWS, _EDGES = 12, 12


def run_show(path: Path, *, as_json: bool) -> int:
    """Show what a table holds."""
    found = describe(path)
    if as_json:
        print(json.dumps(asdict(found), default=str))
    else:
        Console().print(_shown(found), highlight=False)
    return HELD


def run_check(
    path: Path,
    config: Path | None,
    options: Mapping[str, Any],
    *,
    samples: int,
    timeout_s: float,
    seed: int,
    as_json: bool,
) -> int:
    """Measure a fresh sample beside a table's predictions."""
    from autoprune.study.profiling import check_config

    with TerminalProgress(Console(stderr=True)).running() as progress:
        found = check_config(
            path, config, options, progress, samples=samples, timeout_s=timeout_s, seed=seed
        )
    if as_json:
        data = {**asdict(found), "holds": found.holds, "drift": found.drift}
        print(json.dumps(_plain(data)))
    else:
        Console().print(_checked(found), highlight=False, soft_wrap=True)
    return HELD if found.holds else NOT_HELD


def run_merge(paths: Sequence[Path], out: Path, *, as_json: bool) -> int:
    """Write one table of several."""
    from autoprune.cost.compare import merge

    check_writable(out, TableError)
    tables = [LatencyTable.load(path) for path in paths]
    merged = merge(tables)
    merged.save(out)
    count = len(merged.observations)
    if as_json:
        print(json.dumps({"table": str(out), "candidates": count, "merged": merged.info["merged"]}))
        return HELD
    text = f"{count} candidates of {len(tables)} tables: {out}"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    return HELD


def run_diff(first: Path, second: Path, *, as_json: bool) -> int:
    """Compare two tables."""
    from autoprune.cost.compare import difference

    found = difference(LatencyTable.load(first), LatencyTable.load(second))
    if as_json:
        print(json.dumps(_plain({**asdict(found), "beyond_noise": found.beyond_noise})))
    else:
        Console().print(_compared(found), highlight=False)
    return NOT_HELD if found.beyond_noise else HELD


def _shown(found: Description) -> RenderableType:
    head = _pairs(
        [
            ("device", found.device),
            *((name, value) for name, value in found.details.items()),
            ("dense network", f"{found.reference_ms:.4g} ms"),
            ("written", f"{found.written} by autoprune {found.autoprune_version}"),
            ("file", f"schema {found.schema}"),
            *found.notes,
        ]
    )
    groups = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("group", "units", "measured", "saves", "plateau edges", "1 … all"):
        right = name in ("units", "measured", "saves")
        groups.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold" if name == "plateau edges" else "ellipsis",
            no_wrap=name != "plateau edges",
        )
    for row in found.groups:
        edges = [str(edge) for edge in row.edges]
        if len(edges) > _EDGES:
            edges = [*edges[: _EDGES - 2], "…", edges[-1]]
        curve = "".join(_BLOCKS[min(7, int(8 * level))] for level in row.curve)
        groups.add_row(
            row.group,
            str(row.units),
            str(row.measured),
            f"{row.share:.1%}",
            " ".join(edges),
            Text(curve, style="cyan"),
        )
    legend = Text(
        "measured: distinct counts; saves: of the dense latency, where one unit alone is kept; "
        "right: latency as units are kept, the others dense",
        style="dim",
    )
    return Group(head, Text(), groups, legend)


def _checked(found: TableCheck) -> RenderableType:
    error = found.found
    verdict = Text("the table holds", style="bold green")
    if not found.holds:
        verdict = Text("the table does not hold: measure it again", style="bold red")
    elif error.median_error > _POOR:
        text = "the table holds, but it was poor from the start: measure it again, and longer"
        verdict = Text(text, style="bold yellow")
    rows = [
        (
            "error",
            f"median {error.median_error:.1%}, 90 % below {error.p90_error:.1%}; up to "
            f"{found.limit:.1%} is what the table's own error and the noise explain",
        ),
        ("noise", "not known" if math.isnan(error.noise) else f"{error.noise:.1%}"),
        ("intervals", f"90 % intervals hold {error.coverage:.0%}"),
        (
            "sample",
            f"{error.candidates} candidates"
            + (f", {found.failed} failed" if found.failed else "")
            + (", the time was up" if found.stopped == "time" else ""),
        ),
        (
            "dense network",
            f"{found.reference_ms:.4g} ms now, {found.stated_ms:.4g} ms in the table "
            f"({found.drift:+.1%}; a budget in ms counts by the table's)",
        ),
    ]
    return Group(verdict, _pairs(rows))


def _compared(found: Difference) -> RenderableType:
    parts: list[RenderableType] = []
    style = "bold yellow" if found.beyond_noise else "bold green"
    text = "they differ beyond the noise" if found.beyond_noise else "they agree within the noise"
    parts.append(Text(text, style=style))
    fields = [(n, f"{a!r} and {b!r}") for n, (a, b) in {**found.device, **found.details}.items()]
    first, second = found.reference_ms
    rows = [
        *fields,
        ("dense network", f"{first:.4g} and {second:.4g} ms ({second / first - 1:+.1%})"),
    ]
    if not found.same_network:
        rows.append(("network", "another one, or another batch: ratios can't be compared"))
    for label, told in (("first of second", found.forward), ("second of first", found.backward)):
        if told is not None:
            rows.append((label, _agreement(told)))
    if math.isfinite(found.speed):
        rows.append(("kernels", f"{found.speed - 1:+.1%} as a whole (the machine, that day)"))
    parts.append(_pairs(rows))
    if found.kernels:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("share", "difference", "noise", "shapes"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("kernels, the whole apart", overflow="fold")
        for row in found.kernels[:_ROWS]:
            table.add_row(
                f"{row.share:.0%}",
                f"{row.ratio - 1:+.1%}",
                f"±{row.noise:.1%}",
                str(row.shapes),
                row.signature,
                style="yellow" if row.beyond_noise else None,
            )
        parts += [Text(), table]
        left = len(found.kernels) - _ROWS
        if left > 0:
            parts.append(Text(f"and {left} more (--json lists them)", style="dim"))
    return Group(*parts)


def _agreement(told: Agreement) -> str:
    return (
        f"predicts {told.candidates} candidates: median error {told.median_error:.1%}, 90 % below "
        f"{told.p90_error:.1%}, on the whole {told.bias:+.1%}; {told.inside:.0%} inside 90 % "
        f"intervals; their own uncertainty explains a median of {told.limit:.1%}"
    )


def _pairs(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _plain(value: Any) -> Any:
    """With null for what is no number, as JSON has it."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
