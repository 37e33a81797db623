"""What runs in a worker's process."""

from __future__ import annotations

from contextlib import ExitStack

from autoprune.core.candidate import Candidate
from autoprune.core.errors import AutopruneError
from autoprune.evaluate.base import Outcome, Work
from autoprune.evaluate.packed import Packed
from autoprune.evaluate.quiet import evaluating


class Worker:
    """A worker: made ready once, then asked for one candidate at a time."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._entered: ExitStack | None = None

    def prepare(self, packed: Packed) -> str | None:
        """Make ready to evaluate; why that is not possible, or None."""
        try:
            self._work = packed.unpack()()
        except AutopruneError as error:
            return f"{type(error).__name__}: {error}"
        return None

    def enter(self) -> None:
        """Wait until nothing is measured on this machine; held until `evaluate` is done."""
        with ExitStack() as stack:
            stack.enter_context(evaluating())
            self._entered = stack.pop_all()

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Evaluate one candidate; waits while something is measured on the same machine."""
        if self._work is None:
            return Outcome(error="the worker was not made ready")
        entered, self._entered = self._entered, None
        with entered or evaluating():
            return self._work(candidate)
