"""What is known of one evaluated candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        number: in the order of suggestion, from 0.
        candidate: what was evaluated.
        predicted: its cost by the cost model, when it was suggested.
        measured: its cost on the device, or None; a winner is ranked on this one.
        metrics: what `evaluate` gave, for example {"accuracy": 0.93}; empty if it failed.
        error: why the evaluation failed, or None.
        seconds: the evaluation took.
        samples: how many were evaluated before racing stopped it; its metrics then are estimates,
            good to learn from, and it never wins. None: evaluated in full.
    """

    number: int
    candidate: Candidate
    predicted: Cost
    measured: Cost | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    samples: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it was evaluated in full and gave a figure: only such trials are ranked."""
        return self.ok and self.samples is None

    @property
    def ok(self) -> bool:
        """Whether the evaluation gave a figure."""
        return self.error is None

    def score(self, objective: str = "accuracy") -> float:
        """The metric that is maximised; minus infinity for a failed trial."""
        return float(self.metrics.get(objective, float("-inf"))) if self.ok else float("-inf")
