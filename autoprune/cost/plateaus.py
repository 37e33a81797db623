"""Right edges of the plateaus of a measured staircase: the most channels at each cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.errors import CandidateError
from autoprune.core.workload import Ints
from autoprune.cost.layout import Layout

if TYPE_CHECKING:
    from autoprune.cost.sums import KernelSums

#: Fractions of the other groups' units beside which plateau edges are looked for.
_CONTEXTS = (1.0, 0.5, 0.25)


def edges(
    layout: Layout,
    group: str,
    predict: Callable[[Layout, Ints], KernelSums],
    minimum: int,
    choices: int,
    within: float,
) -> list[int]:
    """Kept counts of a group that are worth offering (see `LatencyTable.plateau_edges`).

    Args:
        layout: of the network.
        group: name of the group.
        predict: kernel times of candidates of a layout.
        minimum: fewest units kept.
        choices: at most this many, 2 or more.
        within: levels closer than this fraction of the network's latency count as one.

    Raises:
        CandidateError: the network has no such group, or `minimum` is out of range.
    """
    if group not in layout.groups:
        raise CandidateError(
            f"plateau edges must be asked of one of the network's groups, got {group!r}"
        )
    column = layout.groups.index(group)
    units = int(layout.units[column])
    if not 1 <= minimum <= units:
        raise CandidateError(
            f"minimum of group {group!r} must be between 1 and {units}, got {minimum}"
        )
    counts = np.arange(minimum, units + 1, dtype=np.int64)
    own = layout.touching(column)
    found: set[int] = set()
    # Groups that share a tensor add their channels up, so that a group's edges shift with
    # the others: they are looked for beside a dense network and beside pruned ones.
    for fraction in _CONTEXTS:
        others = np.maximum(1, np.rint(layout.units * fraction)).astype(np.int64)
        kept = np.repeat(others[None], len(counts), axis=0)
        kept[:, column] = counts
        sums = predict(own, kept)
        cost = sums.total
        least = max(within, 0.02 * float(cost.max() - cost.min()))
        tolerance = least + np.sqrt(sums.variance)
        found |= set(right_edges(counts, cost, tolerance, max(2, choices)))
        if fraction == 1.0:
            dense = cost
    rising = np.array(sorted(found), dtype=np.int64)
    return thin(rising, dense[rising - minimum], max(2, choices))


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
