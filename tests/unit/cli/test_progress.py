import io
import warnings

import pytest
from rich.console import Console

from autoprune.cli.progress import TerminalProgress
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.trial import Trial


def trial(number, accuracy=0.5, error=None):
    metrics = {} if error else {"accuracy": accuracy}
    return Trial(number, Candidate.of({"a": 1}), Cost(), metrics=metrics, error=error)


def tell(progress):
    with progress.running():
        progress.stage("measuring a latency table", 48)
        progress.step(24, 48, "median error 2.1%")
        progress.stage("searching", 3)
        for number in range(3):
            progress.trial(trial(number), trial(0, 0.9), number + 1, 3)
        progress.trial(trial(3, error="evaluate raised ValueError"), None, 3, 3)
        warnings.warn("the last line was only half written", UserWarning, stacklevel=1)


def test_without_a_terminal_there_are_lines_and_no_codes():
    stream = io.StringIO()
    tell(TerminalProgress(Console(file=stream, width=80)))
    text = stream.getvalue()
    for part in (
        "measuring a latency table",
        "24/48: median error 2.1%",
        "searching",
        "1/3 trials, best 0.9000",
        "3/3 trials, best 0.9000",
        "trial 3 failed: evaluate raised ValueError",
        "warning: the last line was only half written",
    ):
        assert part in text, part
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 80])
def test_on_a_terminal_bars_fit(width):
    stream = io.StringIO()
    progress = TerminalProgress(
        Console(file=stream, width=width, force_terminal=True, color_system=None)
    )
    tell(progress)
    assert "searching" in stream.getvalue()


def test_the_best_is_shown_by_the_objective():
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, width=80))
    progress.begin("f1")
    progress.stage("searching", 1)
    found = Trial(0, Candidate.of({"a": 1}), Cost(), metrics={"f1": 0.75})
    progress.trial(found, found, 1, 1)
    assert "best 0.7500" in stream.getvalue()
