"""Profiles: candidates shaped by what is known of networks before anything was evaluated.

Channels that many layers share (a residual stream runs through every block of its stage) cost
most accuracy for what they save, and later, wider stages bear more pruning per channel than what
they save is worth; both can be read off the kernels alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.space.projection import Oracle, project_levels
from autoprune.space.space import SearchSpace

Bools = npt.NDArray[np.bool_]

#: A decision is widely shared from so many times the median number of kernels on.
WIDELY = 1.5
#: Keep ratios in one prediction along a profile; two rounds resolve it to 1 / STEPS².
STEPS = 24


def kernels_touched(space: SearchSpace) -> Ints:
    """(n,) how many kernels that multiply have a size that depends on each decision."""
    graph = space.kernels
    depends = graph.weight != 0
    touched = np.zeros((len(graph.kernels), len(graph.groups)), dtype=bool)
    for k, kernel in enumerate(graph.kernels):
        for term in kernel.macs:
            touched[k] |= depends[list(term.sizes)].any(axis=0)
    column = {name: i for i, name in enumerate(graph.groups)}
    by_group = touched.sum(axis=0)
    counts = [
        by_group[[column[name] for name in (d.group, *d.tied)]].max() for d in space.decisions
    ]
    return np.array(counts, dtype=np.int64).reshape(len(space))


def widely_shared(space: SearchSpace) -> Bools:
    """(n,) the decisions that touch far more kernels than is usual in the network."""
    touched = kernels_touched(space)
    if not len(space.free):
        return np.zeros(len(space), dtype=bool)
    wide: Bools = touched >= WIDELY * np.median(touched[space.free]) + 0.5
    return wide


def exponents(space: SearchSpace) -> list[tuple[str, Floats]]:
    """Names and (n,) exponents of profiles: decision g keeps the share `ratio ** exponents[g]`.

    "uniform" keeps the same share of all; "spare" keeps what is widely shared whole, "spare half"
    keeps more of it; "late" prunes early groups most, "early" late ones. Those that a network
    can't tell apart (nothing is widely shared, one decision) are left out.
    """
    count = len(space)
    lateness = np.zeros(count)
    if count > 1:
        size = np.log(space.units)
        spread = float(np.ptp(size))
        depth = np.linspace(-1.0, 1.0, count)
        lateness = (depth + (2 * (size - size.min()) / spread - 1)) / 2 if spread > 0 else depth
    wide = widely_shared(space)
    spare = np.where(wide, 0.0, 1.0)
    profiles = [
        ("uniform", np.ones(count)),
        ("spare", spare),
        ("spare, late", spare * (1.0 - 0.4 * lateness)),
        ("spare, later", spare * (1.0 - 0.75 * lateness)),
        ("spare half, late", np.where(wide, 0.4, 1.0) * (1.0 - 0.4 * lateness)),
        ("spare, early", spare * (1.0 + 0.4 * lateness)),
    ]
    known: list[tuple[str, Floats]] = []
    for name, exponent in profiles:
        if not any(np.allclose(exponent, other) for _, other in known):
            known.append((name, exponent))
    return known


def profile_levels(oracle: Oracle, exponent: Floats, *, fill: bool = True) -> Ints | None:
    """The widest candidate of a profile that holds the budget, as (n,) levels.

    Args:
        oracle: says what holds.
        exponent: (n,) decision g keeps `units * ratio ** exponent[g]`.
        fill: whether what is left of the budget is used up.

    Returns:
        None where no ratio holds the budget (what is spared alone costs too much).
    """
    space = oracle.space
    units = space.units.astype(np.float64)
    high, low, found = 1.0, 0.0, None
    for _ in range(2):
        ratios = np.linspace(high, low, STEPS)
        rows = space.nearest(units * np.maximum(ratios[:, None], 1e-6) ** exponent)
        held = np.flatnonzero(oracle.holds(rows))
        if not len(held):
            break
        first = int(held[0])
        found = rows[first]
        if first == 0:
            break
        high, low = float(ratios[first - 1]), float(ratios[first])
    if found is None or not fill:
        return found
    return project_levels(oracle, space.choice(found).astype(np.float64), fill="budget")


def known_profiles(oracle: Oracle) -> list[Ints]:
    """(n,) levels of every profile that can hold the budget, the uniform one first."""
    found: list[Ints] = []
    for _, exponent in exponents(oracle.space):
        levels = profile_levels(oracle, exponent)
        if levels is not None and not any((levels == other).all() for other in found):
            found.append(levels)
    return found
