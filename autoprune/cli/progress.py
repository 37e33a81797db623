"""Progress on the terminal: bars where it is one, a line now and then where it is not."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.study.progress import Progress as Listener

#: Seconds between two lines where there is no terminal.
INTERVAL_S = 30.0


class _Steps(ProgressColumn):
    """ "12/200", or nothing where the number of steps is not known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{int(task.completed)}/{int(task.total)}")


class TerminalProgress(Listener):
    """Draws a search on stderr. Use it in a `with` block.

    Args:
        console: on stderr.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._metric = "accuracy"
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            _Steps(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._last = 0.0

    @contextmanager
    def running(self) -> Iterator[TerminalProgress]:
        """Draw while the block lasts; warnings become lines."""

        def show(message: Warning | str, *_args: object, **_kwargs: object) -> None:
            self.message(f"warning: {message}")

        with warnings.catch_warnings(), self._bars:
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = show
            yield self

    def begin(self, objective: str) -> None:
        """Note which metric is shown as the best so far."""
        self._metric = metric_of(objective)

    def stage(self, name: str, total: int | None = None) -> None:
        """A new bar, or a line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(_short(name), total=total, note="")
        self._last = 0.0
        if not self._console.is_terminal:
            self._line(name)

    def step(self, done: int, total: int | None = None, note: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)
        if note and self._due():
            self._line(f"  {done}/{total}: {note}" if total else f"  {note}")

    def trial(self, trial: Trial, best: Trial | None, done: int, total: int) -> None:
        """Move the bar and show the best so far."""
        note = "" if best is None else f"best {best.score(self._metric):.4f}"
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)
        if not trial.ok:
            self.message(f"trial {trial.number} failed: {trial.error}")
        elif self._due() or (done == total and not self._console.is_terminal):
            self._line(f"  {done}/{total} trials, {note}")

    def message(self, text: str) -> None:
        """A line above the bar."""
        # Where lines go to a file, a wrapped one could not be searched for.
        wrap = not self._console.is_terminal
        self._console.print(text, markup=False, highlight=False, soft_wrap=wrap)

    def _due(self) -> bool:
        now = time.monotonic()
        if self._console.is_terminal or now - self._last < INTERVAL_S:
            return False
        self._last = now
        return True

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _short(name: str, width: int = 34) -> str:
    """A stage's name that leaves room for its bar on 80 columns."""
    return name if len(name) <= width else name[: width - 1] + "…"
