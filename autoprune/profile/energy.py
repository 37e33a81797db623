"""Energy of one run, read from a counter that moves in steps, wraps around, or stands still.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from autoprune.core.errors import AutopruneError

if TYPE_CHECKING:
    from autoprune.core.device import EnergyMeter

#: A window lasts at least so many times as long as the counter takes to move, and this long.
STEPS, SHORTEST_S = 10.0, 0.05

#: How often a counter moves where its meter does not tell.
RESOLUTION_S = 0.1

#: A counter that does not move for so many of its steps, and this long, stands still.
STILL_STEPS, STILL_S = 20.0, 2.0


class MeterError(AutopruneError):
    """A meter that can't be read, or whose reading can't be a running total."""


def resolution_s(meter: EnergyMeter) -> float:
    """How often a meter's total moves, in seconds.

    Raises:
        MeterError: what it tells is no positive number.
    """
    told = getattr(meter, "resolution_s", RESOLUTION_S)
    if isinstance(told, bool) or not isinstance(told, (int, float)) or not 0 < told < math.inf:
        raise MeterError(f"resolution_s of {name(meter)} must be positive seconds, got {told!r}")
    return float(told)


def window_s(meter: EnergyMeter) -> float:
    """How long a window lasts at least, in seconds."""
    return max(SHORTEST_S, STEPS * resolution_s(meter))


def name(meter: object) -> str:
    """What a meter is called, for people."""
    return str(getattr(meter, "name", "") or type(meter).__name__)


class Unwrapped:
    """A counter's total, made to rise for ever.

    Args:
        read: the counter.
        limit: at which it begins at 0 again, in the counter's unit; None for one that never does.
        what: the counter's name, for messages.
    """

    def __init__(self, read: Callable[[], float], limit: float | None, what: str) -> None:
        self._read = read
        self._limit = limit
        self._what = what
        self._last: float | None = None
        self._total = 0.0

    def __call__(self) -> float:
        """The total since the first call.

        Raises:
            MeterError: it can't be read, is no number, or went backwards without wrapping around.
        """
        try:
            value = float(self._read())
        except MeterError:
            raise
        except Exception as error:  # a user's own meter, or a driver: anything may come
            raise MeterError(
                f"{self._what} can't be read: {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(value):
            raise MeterError(f"{self._what} must tell a finite number, got {value}")
        step = 0.0 if self._last is None else value - self._last
        if step < 0:
            # Windows are short: a counter that wrapped around has not come far since.
            if self._limit is None or not 0 <= step + self._limit <= self._limit / 2:
                raise MeterError(
                    f"{self._what} went backwards, from {self._last:g} to {value:g}; a counter "
                    "that begins again at 0 must tell at what by range_mj"
                )
            step += self._limit
        self._last = value
        self._total += step
        return self._total


class Windows:
    """Measures the energy of a run, as the mean over many in a row.

    The counter moves in steps, at moments of its own. So networks run until it moves, which
    begins the window; then for as long as the window takes, unread; then on until it moves again,
    which ends it. What is counted lies between two moves of the counter, so that its steps cost no
    exactness. What the device draws when idle is included: nothing is subtracted.

    Args:
        meter: a running total.
        clock: seconds.

    Raises:
        MeterError: what the meter tells of itself is wrong.
    """

    def __init__(self, meter: EnergyMeter, clock: Callable[[], float] = time.perf_counter) -> None:
        self._meter = meter
        self._name = f"the meter {name(meter)}"
        self._resolution_s = resolution_s(meter)
        self._window_s = window_s(meter)
        self._clock = clock
        self._total = Unwrapped(meter.read_mj, getattr(meter, "range_mj", None), self._name)

    def per_run(self, run: Callable[[int], object]) -> float:
        """Millijoules of one run.

        Args:
            run: runs the network that many times in a row.

        Raises:
            MeterError: the meter can't be read, or stands still.
        """
        self._call("start")
        try:
            begin, seconds, runs = self._until_it_moves(run)
            count = max(1, math.ceil(self._window_s * runs / max(seconds, 1e-9)))
            run(count)
            end, _, more = self._until_it_moves(run)
        finally:
            self._call("stop")
        energy = (end - begin) / (count + more)
        if energy <= 0:
            raise MeterError(f"{self._name} must rise while a network runs, it rose by {energy:g}")
        return energy

    def _until_it_moves(self, run: Callable[[int], object]) -> tuple[float, float, int]:
        """The total when it has moved, the seconds until then, and the runs."""
        before, start, runs = self._total(), self._clock(), 0
        while True:
            run(1)
            runs += 1
            # The clock first: where this process itself stands still in between, on a busy machine,
            # the total that is read then has moved.
            seconds = self._clock() - start
            total = self._total()
            if total != before:
                return total, seconds, runs
            if seconds > max(STILL_S, STILL_STEPS * self._resolution_s):
                raise MeterError(
                    f"{self._name} stands still: its total stayed the same for {seconds:.1f} s "
                    f"and {runs} runs of a network"
                )

    def _call(self, what: str) -> None:
        method = getattr(self._meter, what, None)
        if method is None:
            return
        try:
            method()
        except Exception as error:  # a user's own meter: anything may come
            raise MeterError(
                f"{self._name} failed to {what}: {type(error).__name__}: {error}"
            ) from error
