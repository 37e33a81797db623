"""What is particular to a kernel's shape, as features: its likeness to shapes that were measured.

Whole networks are timed far more closely than single kernels are profiled, so that they tell which
shapes take more or less than a kernel's curve says. What they tell of a shape holds for shapes like
it: of like channel counts, and divisible by the same powers of two, which decide the blocks a
runtime works in and the remainders it has to treat apart. That is a Gaussian process over shapes;
these features are its approximation of finite rank (Nyström's; Williams and Seeger, "Using the
Nyström method to speed up kernel machines", 2001).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.context import BLOCK, FLAGS
from autoprune.cost.matern import distance, matern

#: Landmarks of a signature, at most.
LANDMARKS = 24
#: Powers of two that divide a count or do not.
_DIVISORS = (2, 4, 8, 16, 32)
#: Length scale of the likeness, in octaves of one count or differences in what divides it.
_LENGTH = 6.0
#: Keeps landmarks that are nearly alike apart.
_JITTER = 1e-4


class Landmarks:
    """Features of shapes of one signature.

    Args:
        x: (N, D + FLAGS) distinct shapes that were measured: channel counts, and flags of what
            surrounds the kernel (see `context`).
        block: channels in a block of the runtime's.
    """

    def __init__(self, x: Ints, block: int = BLOCK) -> None:
        self._block = block
        where = _embed(x, block)
        self._where = where[_far_apart(where)]
        gram = _likeness(self._where, self._where)
        gram[np.diag_indices(len(gram))] += _JITTER
        self._whiten = np.linalg.inv(np.linalg.cholesky(gram)).T

    def features(self, x: Ints) -> Floats:
        """(N, LANDMARKS) whose products are likenesses, of (N, D + FLAGS) shapes."""
        result = np.zeros((len(x), LANDMARKS))
        result[:, : len(self._where)] = (
            _likeness(_embed(x, self._block), self._where) @ self._whiten
        )
        return result


def _embed(x: Ints, block: int) -> Floats:
    """Where two shapes lie close whose times deviate alike."""
    counts = x[:, : x.shape[1] - FLAGS]
    blocks = -(-counts // block)
    columns = [np.log2(np.maximum(c, 1).astype(np.float64)) for c in (counts, blocks)]
    columns += [(counts % divisor == 0).astype(np.float64) for divisor in _DIVISORS]
    return np.hstack([*columns, x[:, counts.shape[1] :].astype(np.float64)])


def _likeness(a: Floats, b: Floats) -> Floats:
    return matern(distance(a, b) / _LENGTH)


def _far_apart(where: Floats) -> npt.NDArray[np.intp]:
    """Indices of the landmarks: each the farthest from those before it, the first one given."""
    chosen = [0]
    nearest = ((where - where[0]) ** 2).sum(axis=1)
    while len(chosen) < min(LANDMARKS, len(where)):
        farthest = int(np.argmax(nearest))
        if nearest[farthest] == 0.0:
            break
        chosen.append(farthest)
        nearest = np.minimum(nearest, ((where - where[farthest]) ** 2).sum(axis=1))
    return np.array(chosen, dtype=np.intp)
