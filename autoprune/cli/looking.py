"""The commands that look at things: inspect, devices, verify, export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from autoprune.cli.commands import HELD, NOT_HELD
from autoprune.cli.progress import TerminalProgress


def run_inspect(
    config: Path | None, options: Mapping[str, Any], settings: Sequence[str], *, as_json: bool
) -> int:
    """Trace a network and describe it."""
    from autoprune.graph import trace
    from autoprune.graph.describe import describe
    from autoprune.study.task import model_from_config

    model, inputs, _ = model_from_config(config, options, settings)
    network = trace(model, inputs)
    if as_json:
        groups = [
            {
                "name": group.name,
                "units": group.units,
                "removable": group.name in network.kernels.removable,
                "members": [
                    {"tensor": m.tensor, "dim": m.dim, "role": m.role} for m in group.members
                ],
            }
            for group in network.groups
        ]
        print(json.dumps({"groups": groups, "frozen": dict(network.frozen)}))
    else:
        Console().print(describe(network))
    return HELD


def run_devices(*, as_json: bool) -> int:
    """List profilers, and the meters that may read energy beside them."""
    from dataclasses import asdict

    from autoprune.profile.metered import meters
    from autoprune.profile.registry import devices

    found, energy = devices(), meters()
    if as_json:
        rows = [{"kind": "device", **asdict(row)} for row in found]
        print(json.dumps([*rows, *({"kind": "meter", **asdict(row)} for row in energy)]))
        return HELD
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("device", no_wrap=True)
    table.add_column("measures on", overflow="fold")
    for row in found:
        text = str(row.device) if row.available else f"not available: {row.missing}"
        table.add_row(row.name, text, style=None if row.available else "dim")
    for meter in energy:
        text = meter.covers if meter.available else f"not available: {meter.missing}"
        name = f"?meter={meter.name}"
        table.add_row(name, f"energy: {text}", style=None if meter.available else "dim")
    Console().print(table, highlight=False, markup=False)
    return HELD


def run_verify(run: Path, *, as_json: bool) -> int:
    """Measure a run's network again."""
    from autoprune.study.again import verify_run

    with TerminalProgress(Console(stderr=True)).running() as progress:
        found = verify_run(run, progress)
    if as_json:
        print(json.dumps(found.to_dict()))
        return HELD if found.held else NOT_HELD
    console = Console()
    for line in found.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return HELD if found.held else NOT_HELD


def run_export(run: Path, out: Path, format: str | None) -> int:
    """Write a run's network to a file."""
    from autoprune.study.again import export_run

    path = export_run(run, out, format)
    Console(stderr=True).print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return HELD
