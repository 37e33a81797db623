"""The contract of a searcher: ask and tell, knowing nothing of models or devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.space.space import SearchSpace


@dataclass(frozen=True)
class SearchContext:
    """What a searcher is given to work with.

    Attributes:
        space: the choices.
        budget: absolute; every suggestion must hold it by `cost_model`'s upper bound.
        cost_model: predicts; it may learn between calls, so don't cache its answers.
        objective: the metric of `Trial.metrics` that is maximised.
        trials: evaluations planned in all, where known.
        seed: of every random choice.
        z: standard deviations in an upper bound (1.645: 95 %).
    """

    space: SearchSpace
    budget: Budget
    cost_model: CostModel
    objective: str = "accuracy"
    trials: int | None = None
    seed: int = 0
    z: float = 1.645


class Searcher(ABC):
    """Proposes candidates and learns from their trials.

    The same context and the same sequence of calls give the same suggestions: a resumed run
    replays its finished trials.
    """

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    @abstractmethod
    def suggest(self, count: int = 1) -> list[Candidate]:
        """Up to `count` candidates that hold the budget; [] when nothing is left to try."""

    @abstractmethod
    def update(self, completed: Sequence[Trial], pending: Sequence[Candidate] = ()) -> None:
        """Learn from finished trials (failed ones too); `pending` are still being evaluated."""
