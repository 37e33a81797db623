"""The contract of an evaluator pool: candidates go in, outcomes come out in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from autoprune.core.candidate import Candidate


class Evaluator(Protocol):
    """The user's function: how good is this network? Any callable."""

    def __call__(self, model: Any, /) -> Mapping[str, float]:
        """Evaluate an `nn.Module`, giving at least the metric searched for: {"accuracy": 0.93}."""


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating one candidate; a failure is a value.

    Attributes:
        metrics: what the user's `evaluate` gave; empty if it failed.
        error: why there is no figure, or None.
        seconds: in all.
        phases: seconds by phase ("surgery", "reconstruct", "evaluate", ...).
        samples: how many were evaluated before racing stopped it; None: all.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a figure."""
        return self.error is None


#: Evaluates one candidate; never raises for what the user's code does.
Work = Callable[[Candidate], Outcome]


class EvaluatorPool(ABC):
    """Runs evaluations, `slots` at a time. Closed with `close`, or by leaving a `with` block."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many candidates it is worth submitting before asking for results."""

    def begin(self) -> None:
        """Wait until the first candidate submitted would be evaluated at once.

        For who must not hold a candidate that nobody evaluates yet; others need not call it.
        """
        return

    @abstractmethod
    def submit(self, ticket: int, candidate: Candidate) -> None:
        """Have a candidate evaluated; `ticket` names it in `results` and is used once."""

    @abstractmethod
    def results(self) -> list[tuple[int, Outcome]]:
        """Wait until at least one submitted candidate is done; (ticket, outcome) of each.

        Returns [] only if nothing is under way.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the pool holds; what is under way may be dropped."""

    def __enter__(self) -> EvaluatorPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
