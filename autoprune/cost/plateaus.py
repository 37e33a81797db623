"""Right edges of the plateaus of a measured staircase: the most channels at each cost."""

from __future__ import annotations

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints


def right_edges(counts: Ints, cost: Floats, tolerance: float | Floats, choices: int) -> list[int]:
    """The kept counts worth offering.

    Going down from the dense count, a count is kept where it is cheaper than every larger one
    kept so far by more than `tolerance`; on a staircase that is the right edge of each plateau,
    and where fewer channels are slower it is none. The smallest and the largest always stay. Of
    more than `choices`, those that are closest to a neighbour in cost are dropped.

    Args:
        counts: (M,) rising kept counts, the last of them dense.
        cost: (M,) their cost.
        tolerance: differences below it are noise; (M,) where it depends on the count.
        choices: at most this many, 2 or more.

    Returns:
        Rising kept counts.
    """
    below = cost + tolerance
    keep = [len(counts) - 1]
    for i in range(len(counts) - 2, -1, -1):
        if below[i] < cost[keep[-1]]:
            keep.append(i)
    if keep[-1] != 0:
        keep.append(0)
    keep.reverse()
    return thin(counts[keep], cost[keep], choices)


def thin(counts: Ints, cost: Floats, choices: int) -> list[int]:
    """Drop counts that are closest to a neighbour in cost until `choices` are left.

    Args:
        counts: (M,) rising kept counts; the first and the last stay.
        cost: (M,) their cost.
        choices: at most this many, 2 or more.
    """
    keep = list(range(len(counts)))
    while len(keep) > choices:
        gaps = np.abs(np.diff(cost[keep]))
        keep.pop(1 + int(np.argmin(gaps[:-1] + gaps[1:])))
    return [int(counts[i]) for i in keep]
