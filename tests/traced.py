"""Traced networks of the zoo, made once a run, and random selections of their units."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import zoo

from autoprune.core.candidate import Candidate
from autoprune.graph.network import Network, Selection
from autoprune.graph.trace import trace


@cache
def traced(name: str, dtype: torch.dtype = torch.float32) -> Network:
    """The traced architecture; shared, so don't change its model."""
    model, inputs = zoo.build(name, dtype)
    return trace(model, inputs)


def random_candidate(network: Network, rng: np.random.Generator) -> Candidate:
    """Any number of units of each group."""
    return Candidate.of({g.name: int(rng.integers(1, g.units + 1)) for g in network.groups})


def random_selection(network: Network, rng: np.random.Generator) -> Selection:
    """Any units of each group."""
    result = {}
    for group in network.groups:
        mask = np.zeros(group.units, dtype=bool)
        mask[rng.permutation(group.units)[: rng.integers(1, group.units + 1)]] = True
        result[group.name] = mask
    return result
