"""Random changes of candidates: what the evolutions share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.workload import Ints
from autoprune.space.space import SearchSpace

Bools = npt.NDArray[np.bool_]


def reach(done: int, planned: int | None, misses: int) -> float:
    """Standard deviation of a mutation's steps: four levels at first, one at the end.

    Args:
        done: trials so far.
        planned: trials in all, where known.
        misses: proposals in a row that were known already; more of them reach further.
    """
    shrinking = max(1.0, 4.0 * (1.0 - done / max(planned or 100, 1)))
    return shrinking * float(2.0 ** min(misses / 4, 4))


def mutated(
    space: SearchSpace,
    rows: Ints,
    rng: np.random.Generator,
    *,
    reach: float,
    changes: Sequence[float],
) -> tuple[Ints, Bools]:
    """(M, n) levels with some decisions moved by random steps, at least one in each.

    Args:
        space: with at least one decision that is free.
        rows: (M, n) levels; not changed.
        rng: draws.
        reach: standard deviation of the steps.
        changes: how many decisions are moved on average, one of these for each row.

    Returns:
        The levels within their bounds, and (M, free) which decisions were moved.
    """
    free, shape = space.free, (len(rows), len(space.free))
    rate = np.minimum(1.0, rng.choice(changes, size=(len(rows), 1)) / len(free))
    touched = rng.random(shape) < rate
    touched[np.arange(len(rows)), rng.integers(len(free), size=len(rows))] = True
    steps = np.rint(reach * rng.standard_normal(shape)).astype(np.int64)
    steps = np.where(steps == 0, rng.choice([-1, 1], size=shape), steps)
    moved = rows.copy()
    moved[:, free] += np.where(touched, steps, 0)
    return np.clip(moved, 0, space.counts - 1), touched
