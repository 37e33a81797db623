"""Which units a candidate keeps: the most important ones of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError
from autoprune.graph.network import Network, Selection
from autoprune.pruning.importance import Importance
from autoprune.pruning.importance import scores as score


def select(
    network: Network,
    candidate: Candidate,
    importance: str | Importance = "l1",
    *,
    scores: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Selection:
    """Keep the units of each group with the highest scores, as many as the candidate says.

    Equal scores are decided by the index, lower first, so the same scores always give the same
    units.

    Args:
        network: the traced network.
        candidate: how many units of each group are kept.
        importance: what scores the units, unless `scores` is given.
        scores: group → (units,) scores made earlier, so that many candidates share them.

    Raises:
        CandidateError: the candidate does not fit the network, or a group's scores are missing,
            of the wrong length or NaN.
    """
    network.kernels.kept([candidate])  # checks the names and counts
    found = score(network, importance) if scores is None else scores
    result: dict[str, npt.NDArray[np.bool_]] = {}
    kept = dict(candidate.kept)
    for group in network.groups:
        values = found.get(group.name)
        if values is None or np.shape(values) != (group.units,) or np.isnan(values).any():
            got = "none" if values is None else f"shape {np.shape(values)}, {values!r}"
            raise CandidateError(
                f"scores of group {group.name!r} must be {group.units} numbers, got {got}"
            )
        order = np.argsort(-np.asarray(values), kind="stable")
        mask = np.zeros(group.units, dtype=bool)
        mask[order[: kept[group.name]]] = True
        result[group.name] = mask
    return result


def selector(
    network: Network, importance: str | Importance = "l1"
) -> Callable[[Candidate], Selection]:
    """`select` for many candidates of a network: its units are scored once."""
    return partial(select, network, scores=score(network, importance))


def as_selection(
    network: Network, candidate: Candidate | Selection, importance: str | Importance = "l1"
) -> Selection:
    """A candidate's selection, or a selection as it is (checked against the network)."""
    if isinstance(candidate, Candidate):
        return select(network, candidate, importance)
    network.keep(candidate)
    return candidate
