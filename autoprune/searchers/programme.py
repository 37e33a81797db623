"""The mixed-integer programme: the least additive loss that a budget allows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.quiet import quiet_stdout
from autoprune.core.workload import Ints
from autoprune.space.projection import Oracle, neighbours, project_levels

#: Linearisations around the candidate that the last one gave, at most.
ROUNDS = 6
#: Nodes of one branch and bound, at most: what is not proven then is good enough.
NODES = 400
#: Relative gap at which a solution counts as the best.
GAP = 1e-4


class Programme:
    """Chooses a level for each decision so that a sum of losses is least and the budget holds.

    Cost is not a sum over decisions (a layer's is a product of its input and output width), and a
    cost model only predicts. So it is linearised around a candidate, by predicting every change of
    one decision; the programme's solution is repaired by projection where the linearised cost was
    too low, and is what the cost is linearised around next, until nothing gets better. Changes
    of two decisions at a time, predicted in full, end it.

    Args:
        oracle: says what holds the budget.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.space = oracle.space
        self._owner = np.repeat(np.arange(len(self.space)), self.space.counts)
        self._level = np.concatenate(
            [np.arange(c) for c in self.space.counts.tolist()] or [self._owner]
        )

    def best(
        self, table: Floats, starts: Sequence[Ints], avoid: Collection[tuple[int, ...]] = ()
    ) -> Ints | None:
        """The (n,) levels of least loss that were found, none of them in `avoid`.

        Args:
            table: (n, C) loss of each choice.
            starts: (n,) levels that hold the budget, to linearise around first.
            avoid: levels that may not come again ("no-good cuts").

        Returns:
            None where every solution that was found is to be avoided.
        """
        found: Ints | None = None
        least = np.inf
        known = set(avoid)
        for start in starts:
            around = start
            reached = np.inf
            for _ in range(ROUNDS):
                solved = self._solve(table, around, known)
                if solved is None:
                    break
                levels = self._polish(table, self._repaired(solved))
                loss = self._loss(table, levels)
                if tuple(levels.tolist()) in known:
                    aside = self._step_aside(table, levels, known)
                    if aside is None:
                        break
                    levels = aside
                    loss = self._loss(table, levels)
                if loss < least:
                    found, least = levels, loss
                if loss >= reached - 1e-9 * abs(reached):
                    break
                around, reached = levels, loss
        return found

    def _loss(self, table: Floats, levels: Ints) -> float:
        return float(table[np.arange(len(table)), levels].sum())

    def _solve(
        self, table: Floats, around: Ints, avoid: Collection[tuple[int, ...]]
    ) -> Ints | None:
        """The programme with costs linear around a candidate; (n,) levels, or None if none."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        space = self.space
        size, n = len(self._owner), len(space)
        rows = np.concatenate([around[None], neighbours(space, around)])
        violation = self.oracle.violation(self.oracle.costs(rows))
        delta = np.zeros((size, violation.shape[1]))
        delta[self._level != around[self._owner]] = violation[1:] - violation[0]
        if not np.isfinite(delta).all() or not np.isfinite(violation[0]).all():
            return None
        delta = np.where(np.abs(delta) < 1e-12, 0.0, delta)
        scale = np.maximum(np.abs(delta).max(axis=0), 1e-12)
        objective = table[self._owner, self._level]
        objective = objective / max(float(objective.max(initial=0.0)), 1e-300)
        columns = np.arange(size)
        one = csr_array((np.ones(size), (self._owner, columns)), shape=(n, size))
        constraints = [
            LinearConstraint(one, 1, 1),
            LinearConstraint((delta / scale).T, -np.inf, -violation[0] / scale),
        ]
        near = [levels for levels in avoid if len(levels) == n]
        if near:
            offset = np.concatenate([[0], np.cumsum(space.counts)[:-1]])
            picked = (np.array(near) + offset).ravel()
            cut = np.repeat(np.arange(len(near)), n)
            cuts = csr_array((np.ones(len(picked)), (cut, picked)), shape=(len(near), size))
            constraints.append(LinearConstraint(cuts, -np.inf, n - 1))
        with quiet_stdout():  # HiGHS prints a line of its own for some problems
            answer = milp(
                objective,
                integrality=np.ones(size),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"node_limit": NODES, "mip_rel_gap": GAP},
            )
        if answer.x is None:
            return None
        chosen = np.zeros(n, dtype=np.int64)
        on = np.flatnonzero(answer.x > 0.5)
        chosen[self._owner[on]] = self._level[on]
        return chosen

    def _repaired(self, levels: Ints) -> Ints:
        """Scaled down until the budget holds in full, and grown until it is used up."""
        wanted = self.space.choice(levels).astype(np.float64)
        return project_levels(self.oracle, wanted, fill="budget")

    def _polish(self, table: Floats, levels: Ints) -> Ints:
        """Changes of two decisions, one step up and any steps down, while they lower the loss."""
        for _ in range(2 * len(self.space)):
            rows = self._exchanges(table, levels)
            if not len(rows):
                break
            held = np.flatnonzero(self.oracle.holds(rows))
            if not len(held):
                break
            levels = rows[held[0]]
        return levels

    def _exchanges(self, table: Floats, levels: Ints, most: int = 256) -> Ints:
        """(M, n) one decision up (or none to pay) that lower the loss, the most first."""
        n = len(self.space)
        here = table[np.arange(n), levels]
        up = np.minimum(levels + 1, self.space.counts - 1)
        gain = here - table[np.arange(n), up]
        down = np.maximum(levels - 1, 0)
        pain = table[np.arange(n), down] - here
        pain[levels == 0] = np.inf
        alone = np.flatnonzero((gain > 0) & (up > levels))
        better = gain[:, None] - pain[None, :]
        better[up == levels] = -np.inf
        np.fill_diagonal(better, -np.inf)
        grow, pay = np.nonzero(better > 1e-12)
        order = np.argsort(-better[grow, pay], kind="stable")[:most]
        rows = np.repeat(levels[None], len(alone) + len(order), axis=0)
        rows[np.arange(len(alone)), alone] += 1
        pairs = np.arange(len(alone), len(rows))
        rows[pairs, grow[order]] += 1
        rows[pairs, pay[order]] -= 1
        return rows

    def _step_aside(
        self, table: Floats, levels: Ints, avoid: Collection[tuple[int, ...]]
    ) -> Ints | None:
        """The change of one or two decisions that holds the budget, is new, and costs least."""
        n = len(self.space)
        rows = [neighbours(self.space, levels)]
        free = self.space.free
        ups = free[levels[free] < self.space.counts[free] - 1]
        downs = free[levels[free] > 0]
        grow, pay = (a.ravel() for a in np.meshgrid(ups, downs))
        grow, pay = grow[grow != pay], pay[grow != pay]
        pairs = np.repeat(levels[None], len(grow), axis=0)
        pairs[np.arange(len(grow)), grow] += 1
        pairs[np.arange(len(grow)), pay] -= 1
        everything = np.concatenate([*rows, pairs])
        loss = table[np.arange(n), everything].sum(axis=1)
        order = np.argsort(loss, kind="stable")
        for begin in range(0, len(order), 128):
            part = everything[order[begin : begin + 128]]
            for row in part[self.oracle.holds(part)]:
                if tuple(row.tolist()) not in avoid:
                    new: Ints = row
                    return new
        return None
