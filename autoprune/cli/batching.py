"""`autoprune batch`: run a sweep, look at it, go on with it, end it."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoprune.cli.commands import HELD, NOT_HELD, STOPPED
from autoprune.study.batch_folder import ENDED, RUNNING, BatchFolder, JobState

_STYLES = {"held": "green", "not held": "yellow", "failed": "red", "running": "cyan"}


def run_sweep(config: Path, settings: Sequence[str], *, dry_run: bool, as_json: bool) -> int:
    """Run a sweep, or tell what it would run."""
    from autoprune.study.batch import run_batch
    from autoprune.study.batch_config import read_sweep

    sweep = read_sweep(config, list(settings))
    base = config.absolute().parent
    if dry_run:
        return _dry_run(sweep, base, str(config), as_json=as_json)
    with _Shown(as_json=as_json) as shown:
        try:
            folder = run_batch(sweep, base, str(config), shown)
        except KeyboardInterrupt:
            return _stopped(Path(sweep.out))
    return _close(folder, as_json=as_json)


def run_batch_resume(run: Path, address: str | None, *, as_json: bool) -> int:
    """Go on with a batch, on another cluster where an address is given."""
    from autoprune.study.batch import resume_batch

    with _Shown(as_json=as_json) as shown:
        try:
            folder = resume_batch(run, shown, address)
        except KeyboardInterrupt:
            return _stopped(run)
    return _close(folder, as_json=as_json)


def run_batch_status(run: Path, *, as_json: bool) -> int:
    """How far every search of a batch is; exit status 0 only if all held."""
    folder = BatchFolder.open(run)
    states = folder.states()
    if as_json:
        jobs = [
            {
                "name": s.job.name,
                "state": s.state,
                "trials": s.trials,
                "total": s.total,
                "best": s.best,
                "note": s.note,
            }
            for s in states
        ]
        print(json.dumps({"driven": folder.driven, "jobs": jobs}, ensure_ascii=False))
    else:
        _print_all(Console(), states)
    return HELD if all(s.state == "held" for s in states) else NOT_HELD


def run_batch_cancel(run: Path) -> int:
    """End a batch; what is finished stays, and it can be resumed."""
    from autoprune.study.batch import cancel_batch

    driven = cancel_batch(run)
    text = "its searches are ended now" if driven else "nothing drives it at the moment"
    Console(stderr=True).print(
        f"cancelled: {text}; go on with: autoprune batch resume {run}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return HELD


class _Shown:
    """Shows states as a live table on a terminal, else a line when one ends."""

    def __init__(self, *, as_json: bool) -> None:
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True)
            if self._console.is_terminal and not as_json
            else None
        )
        self._ended: dict[str, str] = {}
        self._last = 0.0

    def __enter__(self) -> _Shown:
        self._stack = ExitStack()
        # Ray tells there of workers that are gone; it is for the summary.
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = self._warn
        if self._live is not None:
            self._live.update(Text("getting ready…"))
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _warn(self, message: Warning | str, *_args: object, **_kwargs: object) -> None:
        """A line, above the table where there is one."""
        self._line(f"warning: {message}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, states: list[JobState]) -> None:
        if self._live is not None:
            if time.monotonic() - self._last >= 0.5:
                self._last = time.monotonic()
                self._live.update(_live_table(states, self._console.size), refresh=True)
            return
        for state in states:
            if state.state in ENDED and self._ended.get(state.job.name) != state.state:
                self._ended[state.job.name] = state.state
                best = "" if state.best is None else f", best {state.best:.4f}"
                note = f": {state.note}" if state.note else ""
                self._line(f"{state.job.name}: {state.state}{best}{note}")


def _live_table(states: list[JobState], room: ConsoleDimensions) -> RenderableType:
    """A line for each search, as many as fit a terminal, what runs first; and the counts."""
    rows = max(1, room.height - 3)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("search", "state", "trials", "best"):
        table.add_column(heading, no_wrap=True)
    table.add_column("")
    shown = sorted(states, key=lambda s: s.state != RUNNING) if len(states) > rows else states
    for state in shown[:rows]:
        table.add_row(
            Text(_short(state.job.name, room.width // 2)),
            Text(state.state, style=_STYLES.get(state.state, "dim")),
            *_figures(state),
            Text(state.note, overflow="ellipsis", no_wrap=True),
        )
    more = f"; {len(states) - rows} more" if len(states) > rows else ""
    total = Text(_counted(states) + more, style="bold")
    total.truncate(room.width, overflow="ellipsis")
    return Group(table, total)


def _print_all(console: Console, states: list[JobState]) -> None:
    """Every search with its whole name, and below it what there is to say; then the counts.

    Names stand last and are never folded: where they are wider than the terminal it breaks them
    itself, and they can be copied and searched for whole.
    """
    figures = [(state.state, *_figures(state)) for state in states]
    headings = ("state", "trials", "best")
    widths = [max(len(row[i]) for row in (headings, *figures)) for i in range(3)]

    def line(cells: Sequence[str], name: str, style: str) -> Text:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        text = Text("  ".join([*padded, name]))
        text.stylize(style, 0, widths[0])
        return text

    lines = [line(headings, "search", "")]
    lines[0].stylize("bold")
    for state, cells in zip(states, figures, strict=True):
        lines.append(line(cells, state.job.name, _STYLES.get(state.state, "dim")))
        if state.note:
            lines.append(Text(f"{' ' * widths[0]}  {state.note}", style="dim"))
    lines.append(Text(_counted(states), style="bold"))
    for text in lines:
        console.print(text, soft_wrap=True, highlight=False)


def _figures(state: JobState) -> tuple[str, str]:
    """Trials and the best one, as they are shown."""
    best = "" if state.best is None else f"{state.best:.4f}"
    return f"{state.trials}/{state.total}", best


def _counted(states: list[JobState]) -> str:
    counts: dict[str, int] = {}
    for state in states:
        counts[state.state] = counts.get(state.state, 0) + 1
    return f"{len(states)} searches: " + ", ".join(f"{n} {state}" for state, n in counts.items())


def _short(name: str, width: int) -> str:
    """A name without its middle, where it is too long: the end says which of many it is."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[head + 1 - width :]}"


def _close(folder: BatchFolder, *, as_json: bool) -> int:
    from autoprune.report.batch import batch_picture
    from autoprune.study.batch_summary import write_summary

    data = write_summary(folder)
    picture = batch_picture(data, folder.path / "summary.png")
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
    else:
        _print_summary(folder, data, picture)
    if folder.cancelled.exists():
        return STOPPED
    return HELD if set(data["states"]) == {"held"} else NOT_HELD


def _print_summary(folder: BatchFolder, data: dict[str, Any], picture: Path | None) -> None:
    console = Console()
    _print_all(console, folder.states())
    console.print()
    for best in data["best"]:
        device = f" on {best['device']}" if best["device"] else ""
        latency = "" if best["latency_ms"] is None else f", {best['latency_ms']:.4g} ms"
        found = (
            "no search held it"
            if best["folder"] is None
            else f"{best['value']:.4f}{latency}: {folder.path / best['folder']}"
        )
        text = f"best of {best['model']}, {best['budget']}{device}: {found}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for path in (folder.path / "summary.csv", picture):
        if path is not None:
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def _dry_run(sweep: Any, base: Path, where: str, *, as_json: bool) -> int:
    from autoprune.study.batch_estimate import estimate

    with redirect_stdout(sys.stderr):  # what the user's own functions print
        found = estimate(sweep, base, where)
    if as_json:
        print(
            json.dumps(
                {
                    "jobs": [job.name for job in found.jobs],
                    "evaluation_s": found.evaluation_s,
                    "tables": found.tables,
                    "seconds": found.seconds,
                }
            )
        )
        return HELD
    console = Console()
    for job in found.jobs:
        line = f"{job.name}: {job.config.trials} trials"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for model, seconds in found.evaluation_s.items():
        console.print(f"{model}: {seconds:.2f} s an evaluation", markup=False, highlight=False)
    console.print(
        f"{len(found.jobs)} searches, {found.tables} latency tables: at most about "
        f"{_duration(found.seconds)} with {sweep.jobs.parallel} at a time, recovery not counted",
        highlight=False,
        soft_wrap=True,
    )
    return HELD


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _stopped(run: Path) -> int:
    Console(stderr=True).print(
        f"stopped; go on with: autoprune batch resume {run}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return STOPPED
