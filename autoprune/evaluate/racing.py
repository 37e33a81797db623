"""Racing: an evaluation stops once a candidate is surely worse than enough others."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]

#: The first look is at this share of the samples, each later one at twice as many.
FIRST_LOOK = 1 / 16
#: Samples at the first look, at least.
FEWEST = 64


@runtime_checkable
class Raced(Protocol):
    """An evaluator that can be asked for single samples, as `autoprune.evaluate.Accuracy` can.

    Attributes:
        samples: how many there are.
    """

    samples: int

    def hits(self, model: Any, indices: npt.NDArray[np.int64]) -> Bools:
        """(len(indices),) whether the network is right on these samples; their mean counts."""
        ...


def looks(samples: int) -> list[int]:
    """After how many samples an evaluation is looked at: growing subsets, the last one whole."""
    size = max(FEWEST, math.ceil(samples * FIRST_LOOK))
    found = []
    while size < samples:
        found.append(size)
        size *= 2
    return [*found, samples]


def surely_below(bar: Bools, hits: Bools, doubt: float) -> bool:
    """Whether a candidate is worse than another on all samples, by what it does on some.

    Only samples on which one of the two is right count (McNemar 1947). Were the candidate as good,
    each would speak for it at least as often as against it; how many speak against it, drawn
    without replacement, then exceeds a half by so much with a probability of at most
    exp(-m · KL(share ‖ 1/2)) (Hoeffding 1963, theorems 1 and 4), m being their number.

    Args:
        bar: (n,) where the other one is right.
        hits: (n,) where the candidate is right, on the same samples, drawn at random.
        doubt: the probability of a wrong answer, at most.
    """
    against = int((bar & ~hits).sum())
    count = against + int((hits & ~bar).sum())
    if 2 * against <= count:
        return False
    share = against / count
    divergence = math.log(2) + share * math.log(share)
    if share < 1:
        divergence += (1 - share) * math.log(1 - share)
    return count * divergence >= math.log(1 / doubt)
