"""What pruning each group alone would lose, as searchers are given it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.errors import ConfigError
from autoprune.core.workload import Ints
from autoprune.searchers.programme import Programme
from autoprune.space.profiles import known_profiles
from autoprune.space.projection import Oracle
from autoprune.space.space import SearchSpace

if TYPE_CHECKING:
    from autoprune.searchers.base import SearchContext

#: Kinds, and what each costs. "trials" knows nothing beforehand, and learns from trials alone.
KINDS = {
    "divergence": "about three passes over the calibration batches for every group",
    "reconstruction": "a pass of the dense network over the calibration batches",
    "fisher": "two passes, one of them with gradients",
    "measured": "an evaluation of every group at a few widths",
    "trials": "nothing",
}


def known_losses(
    context: SearchContext, wanted: str | Mapping[str, npt.ArrayLike] | None
) -> dict[str, Floats] | None:
    """The losses that an option `sensitivity` asks for.

    Args:
        context: of the search; its `sensitivity` computes them.
        wanted: a kind (see `KINDS`), losses by group, or None: "divergence" where the search
            can compute it, else "trials".

    Returns:
        Group → (choices,) losses, or None for "trials".

    Raises:
        ConfigError: no such kind, losses that don't fit the space, or nothing to compute it from.
    """
    if wanted is None:
        wanted = "trials" if context.sensitivity is None else context.sensitivity.usual
    if not isinstance(wanted, str):
        return check_losses(context.space, wanted)
    if wanted not in KINDS:
        raise ConfigError(f"sensitivity must be one of {', '.join(KINDS)}, got {wanted!r}")
    if wanted == "trials":
        return None
    if context.sensitivity is None:
        raise ConfigError(
            f"sensitivity {wanted!r} must be computed by a search (autoprune.search); give the "
            "losses by group instead, or take sensitivity='trials'"
        )
    return check_losses(context.space, context.sensitivity(wanted))


def check_losses(space: SearchSpace, sensitivity: Mapping[str, npt.ArrayLike]) -> dict[str, Floats]:
    """Losses by group as arrays.

    Raises:
        ConfigError: a group that has no decision, another count of losses than of choices, or a
            loss that is negative or not finite.
    """
    choices = {decision.group: decision.choices for decision in space.decisions}
    checked: dict[str, Floats] = {}
    for group, losses in sensitivity.items():
        if group not in choices:
            raise ConfigError(
                f"sensitivity must be of groups that the search chooses for, got {group!r}; they "
                f"are: {', '.join(choices) or 'none'}"
            )
        array = np.asarray(losses, dtype=np.float64)
        if array.shape != (len(choices[group]),):
            raise ConfigError(
                f"sensitivity of group {group!r} must be {len(choices[group])} losses, one for "
                f"each of its choices {choices[group]}; got shape {array.shape}"
            )
        if not np.isfinite(array).all() or (array < 0).any():
            raise ConfigError(
                f"sensitivity of group {group!r} must be losses of at least 0, got {array.tolist()}"
            )
        checked[group] = array
    return checked


def loss_table(space: SearchSpace, losses: Mapping[str, Floats]) -> Floats:
    """(n, C) losses of every choice, as `Programme` takes them; 0 for groups that none is of."""
    table = np.zeros((len(space), int(space.counts.max(initial=1))))
    for index, decision in enumerate(space.decisions):
        if decision.group in losses:
            known = losses[decision.group]
            table[index, : len(known)] = known
            table[index, len(known) :] = known[-1]
    return table


def best_by(
    oracle: Oracle, losses: Mapping[str, Floats], count: int = 1, avoid: Sequence[Ints] = ()
) -> list[Ints]:
    """The candidates of least summed loss that hold the budget: seeds for any searcher.

    Args:
        oracle: says what holds.
        losses: group → (choices,) losses, such as `known_losses` gives.
        count: at most so many, the best first, each different from the others.
        avoid: (n,) levels that may not come.

    Returns:
        (n,) levels of each.
    """
    starts = known_profiles(oracle)[:2]
    if not starts:
        return []
    programme, table = Programme(oracle), loss_table(oracle.space, losses)
    found: list[Ints] = []
    known = {tuple(levels.tolist()) for levels in avoid}
    while len(found) < count:
        levels = programme.best(table, starts, known)
        if levels is None:
            break
        found.append(levels)
        known.add(tuple(levels.tolist()))
    return found
