"""`autoprune search` and `autoprune resume`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console

from autoprune import report, study
from autoprune.cli.commands import HELD, NOT_HELD, STOPPED
from autoprune.cli.progress import TerminalProgress
from autoprune.core.errors import AutopruneError, SearchError
from autoprune.study.folder import RunFolder


def run_search(
    config: Path | None, options: Mapping[str, Any], settings: Sequence[str], *, as_json: bool
) -> int:
    """Search, and show what came of it; returns the exit status."""
    folder: list[Path] = []

    def begin(progress: TerminalProgress) -> study.Result:
        return study.search_config(config, settings, options, progress, on_folder=folder.append)

    return _show(begin, folder, as_json=as_json)


def run_resume(run: Path, *, as_json: bool) -> int:
    """Go on with a run; returns the exit status."""
    RunFolder.open(run)
    return _show(lambda progress: study.resume(run, progress=progress), [run], as_json=as_json)


def _show(
    begin: Callable[[TerminalProgress], study.Result], folder: list[Path], *, as_json: bool
) -> int:
    progress = TerminalProgress(Console(stderr=True))
    try:
        with contextlib.ExitStack() as stack:
            if as_json:
                # What the user's own functions print must not get between.
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            result = begin(stack.enter_context(progress.running()))
    except KeyboardInterrupt:
        how = f"; go on with: autoprune resume {quote(str(folder[0]))}" if folder else ""
        progress.message(f"stopped{how}")
        return STOPPED
    except AutopruneError as error:
        # A searcher that can't go on would not after a resume either: failed trials are kept.
        ended = isinstance(error, SearchError)
        if not ended and folder and (folder[0] / "config.yaml").exists():
            error.add_note(
                f"when it is mended, go on with: autoprune resume {quote(str(folder[0]))}"
            )
        raise
    show(result, progress, as_json=as_json)
    return HELD if all(one.held for one in result.family or (result,)) else NOT_HELD


def show(result: study.Result, progress: TerminalProgress, *, as_json: bool) -> None:
    """Print a result, or a front or a family with it, and draw its picture."""
    folder = report.run_folder(result)
    picture = None
    if folder is not None and any(trial.ok for trial in result.trials):
        try:
            picture = report.draw(result)
        except AutopruneError as error:  # What was found is shown all the same.
            progress.message(f"warning: no picture: {error}")
    family = None
    if result.family and folder is not None:
        family = RunFolder(folder).read_json(RunFolder(folder).family)
    if as_json:
        print(json.dumps(family or result.front or result.data, ensure_ascii=False))
        return
    console = Console()
    console.print()
    if family is not None:
        console.print(report.family_table(family), highlight=False)
    elif result.family:
        for member in result.family:
            console.print(report.summary(member.data), highlight=False)
            console.print()
    else:
        if result.front is not None:
            console.print(report.front_table(result.front), highlight=False)
            console.print()
            console.print("the most accurate of them that holds the budget:", highlight=False)
        console.print(report.summary(result.data), highlight=False)
    if folder is not None:
        console.print(f"run folder: {folder}", markup=False, highlight=False, soft_wrap=True)
    if result.front is not None and folder is not None:
        line = f"for another budget: autoprune pick {folder} --budget latency=0.6x"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if picture is not None:
        console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
