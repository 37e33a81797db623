"""Tells by the reference, which runs in each round, whether the device held its speed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autoprune.core.device import UNSTEADY

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: A reference that is off its usual time by more than the first factor was throttled (or boosted);
#: where the machine is noisy, by more than so many of its usual changes from one visit to the next,
#: but by more than the second factor in any case.
THROTTLED, SPREADS, ALWAYS = 1.35, 6.0, 1.7

#: Where in the sorted times of the reference its usual time is looked for: throttling only slows
#: down, and may last for most of a call.
USUAL = 0.2

#: A device is not steady where this share of the reference's visits, in the middle, spans more than
#: this factor; of fewer visits than so many it can't be told.
MIDDLE, STEADY, VISITS = 0.9, 1.15, 10

#: A device that was slowed down rests between rounds: so many seconds at first, doubled while it
#: stays slow, and no more of `MeasuringProtocol.timeout_s` in all than this fraction.
FIRST_REST_S, RESTS = 0.25, 0.2


def usual(levels: Floats) -> float:
    """The reference's usual time, as a logarithm, of (n,) logarithms in the order of time.

    One of them, none in between: between two speeds that the device takes in turns there is none.
    """
    return float(np.quantile(levels, USUAL, method="nearest"))


def throttled(levels: Floats) -> Bools:
    """Which visits of the reference are off its usual time.

    The threshold is robust: the usual change from one visit to the next is a median, which a step
    to another clock does not move.

    Args:
        levels: (n,) logarithms of the reference's times, in the order they were taken.

    Returns:
        (n,) whether each is off; never all of them.
    """
    if len(levels) < 2:
        return np.zeros(len(levels), dtype=bool)
    changes = np.abs(np.diff(levels))
    spread = float(np.median(changes)) / (0.6745 * math.sqrt(2))
    limit = min(max(math.log(THROTTLED), SPREADS * spread), math.log(ALWAYS))
    return np.asarray(np.abs(levels - usual(levels)) > limit)


def told(levels: Floats, off: Bools) -> str:
    """By how much the reference was off, for people: "up to 1.8 times as long"."""
    factors = np.exp(levels[off] - usual(levels))
    if factors.max() > 1:
        return f"the reference took up to {factors.max():.2g} times as long as usual"
    return f"the reference took down to {factors.min():.2g} times its usual time"


def unsteady(levels: Floats) -> str:
    """That the device changed its speed all the time, for people; "" where it did not.

    Of networks side by side the ratio stays, as long as what slows one down slows the other down as
    much. Neighbours on the same core don't: they cost small networks more than large ones.
    """
    if len(levels) < VISITS:
        return ""
    low, high = np.exp(np.quantile(levels, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2]))
    if high <= STEADY * low:
        return ""
    return (
        f"{UNSTEADY}: {MIDDLE:.0%} of the reference's {len(levels)} visits took "
        f"{low:.3g} to {high:.3g} ms; at other times ratios may be others"
    )


class Rest:
    """Lets a device that was slowed down cool.

    Args:
        sleep: waits so many seconds.
        limit_s: in all.
    """

    def __init__(self, sleep: Callable[[float], None], limit_s: float) -> None:
        self._sleep = sleep
        self._left = limit_s
        self._next = FIRST_REST_S

    def after(self, levels: Floats) -> None:
        """Wait, if the reference's last visit was slow."""
        off = throttled(levels)
        if not len(levels) or not off[-1] or levels[-1] < usual(levels):
            self._next = FIRST_REST_S
            return
        seconds = min(self._next, self._left)
        self._next *= 2
        self._left -= seconds
        if seconds > 0:
            self._sleep(seconds)
