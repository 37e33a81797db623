"""Where evaluations run: in this process, later on other workers too."""

from autoprune.evaluate.base import Evaluator, EvaluatorPool, Outcome, Work
from autoprune.evaluate.local import LocalPool

__all__ = ["Evaluator", "EvaluatorPool", "LocalPool", "Outcome", "Work"]
