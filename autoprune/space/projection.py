"""Every candidate is feasible: points of the space mapped to candidates that hold a budget.

AMC clips each action so that the budget can still be held (He et al. 2018, section 3.3); this is
the same idea for any point of any searcher, and for every kind of budget at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Costs, Floats
from autoprune.core.errors import BudgetError, ConfigError, InfeasibleBudgetError
from autoprune.core.workload import Ints
from autoprune.space.space import SearchSpace

if TYPE_CHECKING:
    from autoprune.cost.base import CostModel

Fill = Literal["none", "target", "budget"]
Bools = npt.NDArray[np.bool_]

#: Points along a ray in one prediction; two rounds resolve it to 1 / RAY².
RAY = 16
#: Rounds of growing at most; each is two predictions.
ROUNDS = 12


class Oracle:
    """Says of many levels at once whether they hold a budget.

    Args:
        space: whose levels are asked about.
        budget: absolute.
        cost_model: predicts; asked anew every time, so it may learn in between.
        z: standard deviations added to each mean.

    Raises:
        BudgetError: the budget is relative, or bounds what the cost model does not predict.
    """

    def __init__(
        self, space: SearchSpace, budget: Budget, cost_model: CostModel, z: float = 1.645
    ) -> None:
        self.space = space
        self.budget = budget
        self.z = z
        self.limits: dict[str, float] = {}
        for metric, limit in budget.limits.items():
            if limit.relative:
                raise BudgetError(
                    f"budget {metric}={limit} must be absolute here; use budget.absolute(dense "
                    "cost) first"
                )
            if metric not in cost_model.metrics:
                raise BudgetError(
                    f"budget {metric} needs a cost model that predicts it; this one predicts "
                    f"{', '.join(cost_model.metrics)}"
                )
            self.limits[metric] = limit.value
        self.cost_model = cost_model.narrowed(self.limits)

    def costs(self, levels: npt.ArrayLike) -> Costs:
        """Predicted costs of (N, n) levels."""
        kernels = self.space.kernels
        return self.cost_model.predict(kernels.instantiate(self.space.kept(levels)))

    def violation(self, costs: Costs) -> Floats:
        """(N, bounds) by how much each bound is broken, as a fraction of it; ≤ 0 holds."""
        columns = []
        for metric, limit in self.limits.items():
            # Estimates may differ in the last bits between a batch and a single prediction.
            slack = 1e-9 * (costs.std[metric] > 0)
            columns.append(costs.upper(metric, self.z) / limit - 1.0 + slack)
        return np.stack(columns, axis=1)

    def worst(self, costs: Costs) -> Floats:
        """(N,) the greatest violation of each; infinite where a figure is not known."""
        worst: Floats = self.violation(costs).max(axis=1)
        return np.where(np.isnan(worst), np.inf, worst)

    def holds(self, levels: npt.ArrayLike) -> Bools:
        """(N,) whether (N, n) levels hold the budget."""
        held: Bools = self.worst(self.costs(levels)) <= 0
        return held


def project(
    space: SearchSpace,
    x: npt.ArrayLike,
    budget: Budget,
    cost_model: CostModel,
    *,
    fill: Fill = "target",
    z: float = 1.645,
) -> Candidate:
    """The candidate near a point that holds every bound of a budget.

    The kept units of the point are scaled by one factor, the greatest with which the budget
    holds, then single decisions grow again as far as the budget allows, those farthest below the
    point first. Cost need not grow with width (measured latency does not always): the answer
    itself was predicted, and holds. Deterministic.

    Args:
        space: the choices.
        x: (n,) point in [0, 1].
        budget: absolute.
        cost_model: predicts; its upper bounds count.
        fill: "none" scales only (never above the point); "target" grows decisions up to the
            point; "budget" scales up as well and goes on past the point until no decision can
            take its next choice.
        z: standard deviations in an upper bound (1.645: 95 %).

    Raises:
        InfeasibleBudgetError: nothing that holds the budget was found.
        BudgetError: the budget is relative, or bounds what the cost model does not predict.
        CandidateError: the point has another dimension, or is not finite.
    """
    if fill not in ("none", "target", "budget"):
        raise ConfigError(f"fill must be 'none', 'target' or 'budget', got {fill!r}")
    oracle = Oracle(space, budget, cost_model, z)
    return space.candidate(project_levels(oracle, space.units_at(x), fill=fill))


def project_levels(oracle: Oracle, wanted: Floats, *, fill: Fill = "target") -> Ints:
    """`project` on (n,) wanted units, giving (n,) levels."""
    space = oracle.space
    levels = _along_ray(oracle, wanted, beyond=fill == "budget")
    if fill == "none":
        return levels
    return _grow(oracle, levels, wanted, past=fill == "budget", top=space.nearest(wanted))


def _along_ray(oracle: Oracle, wanted: Floats, *, beyond: bool) -> Ints:
    """The largest scaling of the wanted units that holds the budget, as levels."""
    space = oracle.space
    top = 1.0
    if beyond:
        high = space.choice(space.counts - 1)
        top = max(1.0, float(np.max(high / np.maximum(wanted, 1.0), initial=1.0)))
    # The grid is finer below 1 (where the answer mostly is) than above.
    factors = np.linspace(0.0, 1.0, RAY + 1)
    if top > 1.0:
        factors = np.concatenate([factors, np.geomspace(1.0, top, RAY + 1)[1:]])
    rows = space.nearest(factors[:, None] * wanted)
    held = oracle.holds(rows)
    if not held.any():
        return find_feasible(oracle)
    best = int(np.flatnonzero(held)[-1])
    found: Ints = rows[best]
    if best == len(factors) - 1:
        return found
    finer = np.linspace(factors[best], factors[best + 1], RAY + 1)[1:-1]
    inner = space.nearest(finer[:, None] * wanted)
    inside = np.flatnonzero(oracle.holds(inner))
    if len(inside):
        found = inner[inside[-1]]
    return found


def _grow(oracle: Oracle, levels: Ints, wanted: Floats, *, past: bool, top: Ints) -> Ints:
    """Raise single decisions while the budget holds: towards the wanted units, then past them."""
    space = oracle.space
    limits = [np.maximum(top, levels)] + ([space.counts - 1] if past else [])
    for limit in limits:
        for _ in range(ROUNDS):
            movable = np.flatnonzero(levels < limit)
            if not len(movable):
                break
            grown = _grow_once(oracle, levels, wanted, movable)
            if grown is None:
                break
            levels = grown
    return levels


def _grow_once(oracle: Oracle, levels: Ints, wanted: Floats, movable: Ints) -> Ints | None:
    """One round: every single step in one prediction, then as many together as fit in another."""
    space = oracle.space
    rows = np.repeat(levels[None], len(movable) + 1, axis=0)
    rows[np.arange(len(movable)), movable] += 1
    costs = oracle.costs(rows)
    violation = oracle.violation(costs)
    fits = np.flatnonzero((violation[:-1] <= 0).all(axis=1))
    if not len(fits):
        return None
    ratio = space.choice(rows[fits])[np.arange(len(fits)), movable[fits]] / np.maximum(
        wanted[movable[fits]], 1.0
    )
    order = fits[np.argsort(ratio, kind="stable")]  # the one farthest below the point first
    # Taken as additive, which steps fit together? Then predict that in full.
    delta = violation[:-1] - violation[-1]
    room = -violation[-1]
    accepted: list[int] = []
    used = np.zeros_like(room)
    for index in order.tolist():
        if (used + delta[index] <= room).all():
            used = used + delta[index]
            accepted.append(int(movable[index]))
    if not accepted:
        accepted = [int(movable[order[0]])]  # only the estimate of room said no
    together = np.repeat(levels[None], len(accepted), axis=0)
    for count, index in enumerate(accepted):
        together[count:, index] += 1
    held = np.flatnonzero(oracle.holds(together))
    if not len(held):
        return None
    grown: Ints = together[held[-1]]
    return grown


def find_feasible(oracle: Oracle, dense_cost: Cost | None = None) -> Ints:
    """Levels that hold the budget: the smallest, or what `descend` finds where cost is uneven.

    Raises:
        InfeasibleBudgetError: none was found; says the least that is possible.
    """
    violation, levels = descend(oracle, oracle.worst, stop=0.0)
    if violation > 0:
        raise InfeasibleBudgetError(_impossible(oracle, levels, dense_cost))
    return levels


def descend(
    oracle: Oracle, objective: Callable[[Costs], Floats], stop: float = -np.inf
) -> tuple[float, Ints]:
    """Coordinate descent on a function of costs; the least value found and its levels.

    Cost may fall with width in places, so it starts from the smallest, a narrow and the largest
    candidate, and each step takes the best of every change of one decision.

    Args:
        oracle: predicts.
        objective: costs of N candidates → (N,) values.
        stop: a value low enough.
    """
    space = oracle.space
    best_value, best = np.inf, np.zeros_like(space.counts)
    for start in (np.zeros_like(space.counts), (space.counts - 1) // 4, space.counts - 1):
        levels = start
        value = float(objective(oracle.costs(levels[None]))[0])
        while value > stop:
            rows = neighbours(space, levels)
            values = objective(oracle.costs(rows)) if len(rows) else np.array([np.inf])
            found = int(np.argmin(values))
            if not values[found] < value:
                break
            value, levels = float(values[found]), rows[found]
        if value < best_value:
            best_value, best = value, levels
        if best_value <= stop:
            break
    return best_value, best


def neighbours(space: SearchSpace, levels: Ints) -> Ints:
    """(M, n) every change of one decision to any of its other choices."""
    owner = np.repeat(np.arange(len(space)), space.counts)
    value = np.concatenate([np.arange(c) for c in space.counts.tolist()] or [owner])
    changed = value != levels[owner]
    rows: Ints = np.repeat(levels[None], int(changed.sum()), axis=0)
    rows[np.arange(len(rows)), owner[changed]] = value[changed]
    return rows


def least_possible(
    space: SearchSpace, budget: Budget, cost_model: CostModel, z: float = 1.645
) -> dict[str, float]:
    """The least upper bound that could be found in each bounded metric, each taken alone."""
    oracle = Oracle(space, budget, cost_model, z)
    return {
        metric: descend(oracle, partial(Costs.upper, metric=metric, z=z))[0]
        for metric in oracle.limits
    }


def check_feasible(
    space: SearchSpace,
    budget: Budget,
    cost_model: CostModel,
    dense_cost: Cost | None = None,
    z: float = 1.645,
) -> Candidate:
    """A candidate that holds a budget; refuses one that can't be met before anything is spent.

    Args:
        space: the choices.
        budget: absolute.
        cost_model: predicts.
        dense_cost: of the dense network, so that the message can speak in fractions of it.
        z: standard deviations in an upper bound.

    Raises:
        InfeasibleBudgetError: nothing holds it; says the least that is possible in each bound.
        BudgetError: the budget is relative, or bounds what the cost model does not predict.
    """
    return space.candidate(find_feasible(Oracle(space, budget, cost_model, z), dense_cost))


def _impossible(oracle: Oracle, nearest: Ints, dense: Cost | None) -> str:
    """What is wrong with a budget that nothing holds, bound by bound."""
    least = least_possible(oracle.space, oracle.budget, oracle.cost_model, oracle.z)
    limits = oracle.limits
    hopeless = [m for m in limits if least[m] > limits[m]]
    if hopeless:
        parts = [
            f"{m}: {_figure(m, least[m], dense)} is the least, got {_figure(m, limits[m], dense)}"
            for m in hopeless
        ]
        reason = "; ".join(parts)
    else:
        cost = oracle.costs(nearest[None])[0]
        uppers = {metric: cost.estimates[metric].upper(oracle.z) for metric in limits}
        reason = "each bound can be held alone but not all at once; the nearest has " + ", ".join(
            f"{m} {_figure(m, uppers[m], dense)} (bound {_figure(m, limits[m], dense)})"
            for m in limits
        )
    return (
        f"no candidate of the search space holds the budget ({reason}); ask for more, or widen "
        "the search space (a lower min_keep, fewer frozen groups)"
    )


def _figure(metric: str, value: float, dense: Cost | None) -> str:
    """A figure, and its fraction of the dense network's where that is known."""
    whole = None if dense is None else dense.get(metric)
    return f"{value:.4g}" if not whole else f"{value / whole:.3g}x ({value:.4g})"
