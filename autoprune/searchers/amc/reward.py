"""AMC's rewards: minus the error, or minus the error times the logarithm of the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autoprune.core.cost import Cost
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.searchers.base import SearchContext

REWARDS = ("error", "error_log_cost")
#: How many times over a score counts that is missing to the least one allowed.
SHORTFALL = 10.0


class Reward:
    """The reward of a trial (He et al. 2018, section 3.4).

    "error" is -(1 - score): the budget alone decides what a network costs. "error_log_cost" is
    the paper's R_FLOPs, -(1 - score) · log(cost), for accuracy-guaranteed compression: cost is
    taken in millionths of the dense network's (as the paper's FLOPs count in millions), and
    with several bounds the mean of their logarithms counts. What a score lacks to `min_accuracy`
    adds to the error ten times over.

    Args:
        context: the problem.
        metrics: that the budget bounds.
        kind: "error" or "error_log_cost".
        min_accuracy: a number, "dense" for the dense network's own score, or None.

    Raises:
        ConfigError: an argument has a value that it can't have, or the dense network's score or
            cost is asked for and not known.
    """

    def __init__(
        self,
        context: SearchContext,
        metrics: Mapping[str, float],
        kind: str,
        min_accuracy: float | str | None,
    ) -> None:
        if kind not in REWARDS:
            raise ConfigError(f"reward must be {' or '.join(map(repr, REWARDS))}, got {kind!r}")
        if min_accuracy is not None and kind == "error":
            raise ConfigError(
                "min_accuracy needs reward 'error_log_cost': with 'error' the score is all there is"
            )
        self.kind = kind
        self.objective = context.objective
        self.least: float | None = None
        if isinstance(min_accuracy, str):
            if min_accuracy != "dense":
                raise ConfigError(f"min_accuracy must be a number or 'dense', got {min_accuracy!r}")
            if self.objective not in context.dense_metrics:
                raise ConfigError(
                    f"min_accuracy 'dense' needs the dense network's {self.objective}, which is "
                    "not known here; give a number"
                )
            self.least = float(context.dense_metrics[self.objective])
        elif min_accuracy is not None:
            if not np.isfinite(min_accuracy):
                raise ConfigError(f"min_accuracy must be finite, got {min_accuracy}")
            self.least = float(min_accuracy)
        self._dense: dict[str, float] = {}
        if kind == "error_log_cost":
            graph = context.space.kernels
            cost = context.cost_model.predict(graph.instantiate(graph.units[None]))[0]
            self._dense = {metric: _known(cost, metric) for metric in metrics}

    def __call__(self, trial: Trial) -> float | None:
        """The reward of a trial; None where it failed, or has no finite score.

        Raises:
            ConfigError: it has no cost of a metric that the budget bounds.
        """
        score = trial.score(self.objective)
        if not math.isfinite(score):
            return None
        error = 1.0 - score
        if self.kind == "error":
            return -error
        if self.least is not None:
            error += SHORTFALL * max(0.0, self.least - score)
        return -error * self._log_cost(trial.measured or trial.predicted)

    def _log_cost(self, cost: Cost) -> float:
        """Mean logarithm of the cost in millionths of the dense network's, 1 at least."""
        logs = [
            math.log(max(math.e, 1e6 * _known(cost, metric) / dense))
            for metric, dense in self._dense.items()
        ]
        return float(np.mean(logs))


def _known(cost: Cost, metric: str) -> float:
    value = cost.get(metric)
    if value is None or not value > 0:
        raise ConfigError(
            f"reward 'error_log_cost' needs the {metric} of every trial and of the dense network, "
            f"above 0; got {value}"
        )
    return float(value)
