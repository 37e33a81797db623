"""Where evaluations run: in this process, later on other workers too."""

from typing import Any

from autoprune.evaluate.base import Evaluator, EvaluatorPool, Outcome, Work
from autoprune.evaluate.local import LocalPool

__all__ = ["Accuracy", "Evaluator", "EvaluatorPool", "LocalPool", "Outcome", "Work"]


def __getattr__(name: str) -> Any:
    if name != "Accuracy":
        raise AttributeError(f"module 'autoprune.evaluate' has no attribute {name!r}")
    from autoprune.evaluate.accuracy import Accuracy

    return Accuracy
