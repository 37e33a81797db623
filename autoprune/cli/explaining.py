"""`autoprune explain`."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from autoprune import report
from autoprune.cli.commands import HELD
from autoprune.cli.progress import TerminalProgress
from autoprune.core.errors import AutopruneError
from autoprune.study.explaining import explain_run


def run_explain(run: Path, *, as_json: bool) -> int:
    """Tell of each layer of a run's network what its pruning brought."""
    progress = TerminalProgress(Console(stderr=True))
    with progress.running():
        data = explain_run(run, progress)
    picture = None
    try:
        picture = report.explain_picture(data, Path(data["run"]) / "explain.png")
    except AutopruneError as error:  # What was found is shown all the same.
        progress.message(f"warning: no picture: {error}")
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
        return HELD
    console = Console()
    console.print(report.explain_table(data), highlight=False)
    if picture is not None:
        console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
    return HELD
