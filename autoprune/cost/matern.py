"""The Matérn 3/2 covariance of points and their distances."""

from __future__ import annotations

import numpy as np

from autoprune.core.cost import Floats


def distance(a: Floats, b: Floats) -> Floats:
    """(N, M) Euclidean distances of (N, D) and (M, D) points."""
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.sqrt(squared))


def matern(d: Floats) -> Floats:
    """Of distances in length scales (Rasmussen and Williams 2006, eq. 4.17)."""
    r = np.sqrt(3.0) * d
    return np.asarray((1.0 + r) * np.exp(-r))
