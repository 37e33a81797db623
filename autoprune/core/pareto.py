"""Pareto fronts: what is not dominated, how much a front covers, which few points show it best.

All figures are losses: smaller is better in each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats

Bools = npt.NDArray[np.bool_]


#: Points up to which all pairs are compared at once.
PAIRS = 600


def nondominated(losses: Floats) -> Bools:
    """(N,) whether no other of (N, M) losses is as good in all and better in one.

    Of equal ones the first counts. Rows with NaN are never on the front.
    """
    known = np.flatnonzero(np.isfinite(losses).all(axis=1))
    front = np.zeros(len(losses), dtype=bool)
    if len(known) <= PAIRS:
        front[known] = ~_dominates(losses[known]).any(axis=0)
        return front
    # Only what comes before a point in lexical order can dominate it.
    rows = losses[known]
    order = np.lexsort((np.arange(len(rows)), *rows.T[::-1]))
    taken = rows[order[:1]]
    front[known[order[0]]] = True
    for index in order[1:]:
        if not (taken <= rows[index]).all(axis=1).any():
            taken = np.vstack([taken, rows[index]])
            front[known[index]] = True
    return front


def _dominates(rows: Floats) -> Bools:
    """(N, N) whether each of (N, M) losses dominates each other, or equals a later one."""
    no_worse = (rows[:, None] <= rows[None]).all(axis=2)
    equal = no_worse & no_worse.T
    dominates: Bools = no_worse & ~equal | np.triu(equal, 1)
    return dominates


def ranks(losses: Floats, enough: int | None = None) -> npt.NDArray[np.int64]:
    """(N,) which front each of (N, M) losses is on once those before it are taken away, from 0.

    The non-dominated sorting of Deb et al. 2002. Rows with NaN come last, with rank N.

    Args:
        losses: of N points.
        enough: once so many points have a rank, the others come last too.
    """
    result = np.full(len(losses), len(losses), dtype=np.int64)
    left = np.flatnonzero(np.isfinite(losses).all(axis=1))
    wanted = len(left) if enough is None else enough
    rank, ranked = 0, 0
    while len(left) and ranked < wanted:
        front = nondominated(losses[left])
        result[left[front]] = rank
        ranked += int(front.sum())
        left = left[~front]
        rank += 1
    return result


def hypervolume(losses: Floats, reference: Floats) -> float:
    """Volume between a front and a reference point: what the front dominates of that box.

    By exclusive volumes (While et al. 2012), exact.

    Args:
        losses: (N, M); what is not better than the reference in every figure adds nothing.
        reference: (M,) the worst that counts.
    """
    inside = losses[(losses < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    front = inside[nondominated(inside)]
    if front.shape[1] == 1:
        return float(reference[0] - front[:, 0].min())
    if front.shape[1] == 2:
        ordered = front[np.argsort(front[:, 0])]
        above = np.concatenate([[reference[1]], ordered[:-1, 1]])
        return float(((reference[0] - ordered[:, 0]) * (above - ordered[:, 1])).sum())
    ordered = front[np.argsort(-front[:, -1], kind="stable")]
    return sum(
        exclusive(point, ordered[index + 1 :], reference) for index, point in enumerate(ordered)
    )


def exclusive(point: Floats, others: Floats, reference: Floats) -> float:
    """What a point adds to the volume that others dominate.

    Args:
        point: (M,) losses.
        others: (N, M) losses.
        reference: (M,) the worst that counts.
    """
    if not (point < reference).all():
        return 0.0
    own = float(np.prod(reference - point))
    if not len(others):
        return own
    return own - hypervolume(np.maximum(others, point), reference)


def contributions(points: Floats, others: Floats, reference: Floats) -> Floats:
    """(K,) what each of (K, M) points would add to the volume that (N, M) others dominate."""
    others = others[(others < reference).all(axis=1)]
    front = others[nondominated(others)]
    if points.shape[1] == 2:
        return _contributions_2d(points, front, reference)
    return np.array([exclusive(point, front, reference) for point in points])


def _contributions_2d(points: Floats, front: Floats, reference: Floats) -> Floats:
    """The same in two dimensions: under a staircase, for all points at once."""
    ordered = front[np.argsort(front[:, 0])]
    left = np.concatenate([[-np.inf], ordered[:, 0]])
    right = np.concatenate([ordered[:, 0], [reference[0]]])
    height = np.concatenate([[reference[1]], ordered[:, 1]])
    width = np.minimum(right, reference[0])[None] - np.maximum(left[None], points[:, :1])
    depth = height[None] - points[:, 1:]
    total: Floats = (np.maximum(width, 0.0) * np.maximum(depth, 0.0)).sum(axis=1)
    return total


def spread(losses: Floats, count: int) -> list[int]:
    """Which few points of a front cover the most, the most important first.

    The best in each figure come first, then one by one the point that adds the most to the
    hypervolume of those taken; each figure is scaled to the front's range.

    Args:
        losses: (N, M) finite.
        count: points at most.

    Returns:
        Indices of rows that are on the front.
    """
    front = np.flatnonzero(nondominated(losses))
    if len(front) <= count:
        return [int(i) for i in front]
    rows = losses[front]
    span = np.ptp(rows, axis=0)
    scaled = (rows - rows.min(axis=0)) / np.where(span > 0, span, 1.0)
    reference = np.full(rows.shape[1], 1.1)
    taken = list(dict.fromkeys(int(i) for i in scaled.argmin(axis=0)))[:count]
    while len(taken) < count:
        gain = contributions(scaled, scaled[taken], reference)
        gain[taken] = -1.0
        taken.append(int(np.argmax(gain)))
    return [int(front[i]) for i in taken]
