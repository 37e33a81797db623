"""`autoprune pick`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from autoprune import study
from autoprune.cli.commands import HELD, NOT_HELD
from autoprune.cli.progress import TerminalProgress
from autoprune.cli.searching import show


def run_pick(run: Path, budget: Sequence[str], out: Path | None, *, as_json: bool) -> int:
    """Take a network for another budget off a run; returns the exit status."""
    progress = TerminalProgress(Console(stderr=True))
    with contextlib.ExitStack() as stack:
        if as_json:
            # What the user's own functions print must not get between.
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.enter_context(progress.running())
        result = study.pick(run, ",".join(budget), out=out, progress=progress)
    show(result, progress, as_json=as_json)
    return HELD if result.held else NOT_HELD
