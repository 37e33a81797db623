"""A pool that evaluates in this process, one candidate at a time."""

from __future__ import annotations

from collections import deque

from autoprune.core.candidate import Candidate
from autoprune.evaluate.base import EvaluatorPool, Outcome, Work


class LocalPool(EvaluatorPool):
    """Evaluates in the calling process, in the order of submission, when results are asked for.

    Args:
        work: evaluates one candidate.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._waiting: deque[tuple[int, Candidate]] = deque()

    @property
    def slots(self) -> int:
        """One: nothing runs side by side here."""
        return 1

    def submit(self, ticket: int, candidate: Candidate) -> None:
        """Put a candidate in line."""
        self._waiting.append((ticket, candidate))

    def results(self) -> list[tuple[int, Outcome]]:
        """Evaluate the next candidate in line."""
        if not self._waiting:
            return []
        ticket, candidate = self._waiting.popleft()
        return [(ticket, self._work(candidate))]

    def close(self) -> None:
        """Forget what is still in line."""
        self._waiting.clear()
