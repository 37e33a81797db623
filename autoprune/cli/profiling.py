"""`autoprune profile`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from autoprune.cli.commands import HELD
from autoprune.cli.progress import TerminalProgress
from autoprune.core.errors import TableError
from autoprune.core.files import check_writable


def run_profile(
    config: Path | None,
    options: Mapping[str, Any],
    settings: Sequence[str],
    out: Path,
    *,
    as_json: bool,
) -> int:
    """Measure a latency table, and tell its error on candidates it was not fitted to."""
    from autoprune.study.profiling import profile_config

    check_writable(out, TableError)
    with TerminalProgress(Console(stderr=True)).running() as progress:
        table = profile_config(config, options, settings, progress)
    table.save(out)
    accuracy, build = table.info["accuracy"], table.info["build"]
    if as_json:
        print(
            json.dumps(
                {
                    "table": str(out),
                    "device": str(table.device),
                    "reference_ms": table.reference_ms,
                    "accuracy": accuracy,
                    "build": build,
                }
            )
        )
        return HELD
    from autoprune.study.table import told_reused

    console = Console()
    for line in (
        f"device: {table.device}",
        f"dense network: {table.reference_ms:.4g} ms",
        f"{build['candidates']} candidates measured in {build['seconds']:.0f} s",
        f"error on {accuracy['candidates']} held-out candidates: median "
        f"{accuracy['median_error']:.1%}, 90 % of them below {accuracy['p90_error']:.1%}; "
        + (
            "too few rounds to tell the noise"
            if accuracy["noise"] is None
            else f"two halves of the measuring differ by {accuracy['noise']:.1%}"
        ),
        told_reused(table),
        f"table: {out}",
    ):
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return HELD
