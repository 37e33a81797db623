"""Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

from autoprune.core.errors import ConfigError
from autoprune.searchers.base import SearchContext
from autoprune.searchers.optuna_bridge import OptunaSearcher


class TpeSearcher(OptunaSearcher):
    """TPE (Bergstra et al. 2011; multivariate as in Falkner et al. 2018) over the choices.

    Suggestions that are still being evaluated count as bad ones ("constant liar") so that a batch
    spreads out. Failed trials count as worst.

    Args:
        context: the problem.
        startup: candidates before TPE takes over: known profiles, the uniform one first, and a
            Latin hypercube around the best; None takes a fifth of the trials planned, 4 to 16.
        multivariate: whether densities are joint over the groups.
        constant_liar: whether pending candidates count as bad.
        explore: proposals that TPE draws from its good density, of which it takes the best.
        history: finished trials that TPE looks back on, half of them the best and half the latest;
            a proposal takes as long after 10,000 trials as after so many. None looks back on all.
    """

    def __init__(
        self,
        context: SearchContext,
        startup: int | None = None,
        multivariate: bool = True,
        constant_liar: bool = True,
        explore: int = 48,
        history: int | None = 500,
    ) -> None:
        if explore < 1:
            raise ConfigError(f"explore must be at least 1, got {explore}")
        options = {
            "n_ei_candidates": explore,
            "multivariate": multivariate,
            "constant_liar": constant_liar,
        }
        super().__init__(context, "tpe", options, startup, history)
