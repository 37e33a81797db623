"""Candidates that show a device's staircase: every group's counts, at every overall size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.core.errors import CandidateError
from autoprune.core.workload import Ints, KernelGraph

#: Kernels are laid out in such blocks of channels; half of the counts fall on their edges.
_BLOCKS = (4, 8, 16, 32)
#: How often a group is removed whole, where it may be.
_REMOVED = 0.12
#: How often a group is left whole, in every other candidate.
_WHOLE = 0.5


def covering(
    graph: KernelGraph,
    count: int,
    rng: np.random.Generator,
    choices: Mapping[str, Sequence[int]] | None = None,
) -> Ints:
    """(count, G) kept units of candidates to measure.

    A third spreads each group's count evenly and independently of the others (a Latin hypercube:
    McKay, Beckman and Conover 1979), so that kernels of every shape appear; a third has groups
    around a common level, from nearly nothing to nearly dense; a third gives groups with as many
    units the same count, as candidates made by hand do. So sums of kernels are tried over their
    whole range too. In every other one of each third, groups are left whole at random: searches
    leave whole what is sensitive, often the channels that a residual connection carries, and
    beside thinned ones those make kernels of shapes that hardly appear otherwise.

    Args:
        graph: of the network.
        count: how many.
        rng: random source.
        choices: kept counts that may appear, by group; any where none are given, 0 too if the
            group can be removed whole.

    Raises:
        CandidateError: choices of a group that is not there, are empty or out of range.
    """
    allowed = _allowed(graph, choices or {})
    groups = len(graph.groups)
    levels = (rng.permutation(count) + rng.random(count)) / max(count, 1)
    even = np.stack(
        [(rng.permutation(count) + rng.random(count)) / max(count, 1) for _ in range(groups)],
        axis=1,
    ).reshape(count, groups)
    largest = np.array([options[-1] for options in allowed])
    sizes = sorted(set(graph.units.tolist()))
    of_size = np.array([sizes.index(u) for u in graph.units.tolist()], dtype=np.intp)
    kept = np.empty((count, groups), dtype=np.int64)
    for row in range(count):
        kind = row % 3
        if kind == 0:
            fraction = even[row]
        elif kind == 1:
            fraction = np.clip(levels[row] + 0.35 * (even[row] - 0.5), 0.0, 0.999)
        else:
            fraction = rng.random(len(sizes))[of_size]
            fraction = np.clip(fraction + 0.02 * (even[row] - 0.5), 0.0, 0.999)
        for column, options in enumerate(allowed):
            kept[row, column] = _pick(options, float(fraction[column]), rng, choices is None)
        if row // 3 % 2:
            whole = rng.random(groups) < _WHOLE
            whole[rng.integers(groups)] = False  # never all of them: that is the dense network
            kept[row, whole] = largest[whole]
    removable = np.array([options[0] == 0 for options in allowed], dtype=bool)
    if removable.any():
        kept[(rng.random(kept.shape) < _REMOVED) & removable] = 0
    return kept


def _pick(options: Ints, fraction: float, rng: np.random.Generator, snap: bool) -> int:
    value = int(options[int(fraction * len(options))])
    if snap and rng.random() < 0.5:
        block = int(rng.choice([b for b in _BLOCKS if b <= options[-1]] or [1]))
        value = int(np.clip(round(value / block) * block, max(1, options[0]), options[-1]))
    return value


def _allowed(graph: KernelGraph, choices: Mapping[str, Sequence[int]]) -> list[Ints]:
    unknown = sorted(set(choices) - set(graph.groups))
    if unknown:
        raise CandidateError(f"choices must be of the network's groups; unknown: {unknown}")
    result = []
    for group, units in zip(graph.groups, graph.units.tolist(), strict=True):
        least = 0 if group in graph.removable else 1
        options = np.unique(np.asarray(choices.get(group, range(least, units + 1)), dtype=np.int64))
        if not len(options) or options[0] < least or options[-1] > units:
            raise CandidateError(
                f"choices of group {group!r} must be between {least} and {units}, got "
                f"{options.tolist() or 'none'}"
            )
        result.append(options)
    return result
