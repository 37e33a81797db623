"""The contract of a searcher: ask and tell, knowing nothing of models or devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.objectives import Objective
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.space.space import SearchSpace


class SensitivityOf(Protocol):
    """Computes what pruning each group alone would lose, when it is asked for."""

    @property
    def usual(self) -> str:
        """The kind to take where none is asked for."""
        ...

    def __call__(self, kind: str) -> Mapping[str, Floats]:
        """Group → (choices,) losses of a kind (`autoprune.searchers.sensitivity.KINDS`)."""
        ...


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
        objectives: where a Pareto front is searched for, all of them, `objective` first; else ().
        dense_metrics: what `evaluate` gave for the dense network, where that is known.
        sensitivity: computes what pruning each group alone would lose, where a search can
            (see `autoprune.searchers.sensitivity.known_losses`).
    """

    space: SearchSpace
    budget: Budget
    cost_model: CostModel
    objective: str = "accuracy"
    trials: int | None = None
    seed: int = 0
    z: float = 1.645
    objectives: tuple[Objective, ...] = ()
    dense_metrics: Mapping[str, float] = field(default_factory=dict)
    sensitivity: SensitivityOf | None = None


@dataclass(frozen=True)
class SearcherState:
    """What a searcher has learned, as a checkpoint keeps it.

    Attributes:
        arrays: by name.
        about: JSON values: the layout of the arrays, counters.
    """

    arrays: Mapping[str, npt.NDArray[np.generic]]
    about: Mapping[str, Any]


class Searcher(ABC):
    """Proposes candidates and learns from their trials.

    The same context and the same sequence of calls give the same suggestions: a resumed run
    asks and tells everything again, in the same order. With thousands of trials that takes long;
    a searcher can spare itself being asked by setting `replays` to False, and being told too by
    giving its `state`.

    Attributes:
        replays: False where what a new searcher is told is enough: one `update` with the finished
            trials, in the order in which they finished, and the candidates still pending, in the
            order of their suggestion, makes it go on exactly as if it had suggested them. (Draw
            the random numbers of each suggestion from its own index, not from one long sequence.)
        notes: what the user should know of how it was set up.
        fills_budget: False where what it seeks is not the best score alone, so that budget which
            is left over is no waste.
    """

    replays: bool = True
    notes: tuple[str, ...] = ()
    fills_budget: bool = True

    #: Whether it can search for a Pareto front (`context.objectives`); the budget then is only an
    #: outer bound, and suggestions should spread over all costs within it.
    several_objectives: ClassVar[bool] = False

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    @abstractmethod
    def suggest(self, count: int = 1) -> list[Candidate]:
        """Up to `count` candidates that hold the budget; [] when nothing is left to try."""

    @abstractmethod
    def update(self, completed: Sequence[Trial], pending: Sequence[Candidate] = ()) -> None:
        """Learn from finished trials (failed ones too); `pending` are still being evaluated."""

    def merit(self, trial: Trial) -> float:
        """What decides between trials that hold the budget, the more the better: the score.

        A searcher that is asked for something else than the best score (the least cost at a
        guaranteed accuracy, say) gives it here, so that it is what is verified and shipped.
        """
        return trial.score(self.context.objective)

    def state(self) -> SearcherState | None:
        """What it has learned from its trials, for a checkpoint; None where `update` is quick."""
        return None

    def restore(self, state: SearcherState, completed: Sequence[Trial]) -> None:
        """Take what `state` gave after the trials in `completed` had been told.

        Raises:
            SearchError: the state has another layout than this searcher's.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no state")
