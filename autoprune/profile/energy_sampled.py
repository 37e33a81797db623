"""Energy where only power can be read: sampled, and summed up.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: How often power is sampled, in seconds.
PERIOD_S = 0.02


class SampledPower:
    """An energy total from a power that is read again and again (the trapezoidal rule).

    A thread reads it while a window is open, and at no other time; reading the total reads the
    power too.

    Args:
        read_w: the power now, in watts.
        period_s: between two readings.
        clock: seconds.
    """

    def __init__(
        self,
        read_w: Callable[[], float],
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_w = read_w
        self._clock = clock
        #: Windows take many samples.
        self.resolution_s = 2 * period_s
        self._period_s = period_s
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._total_mj = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._last, self._problem = None, None
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def read_mj(self) -> float:
        """The total so far in millijoules."""
        if self._problem is not None:
            raise self._problem
        with self._lock:
            now, power = self._clock(), float(self._read_w())
            if self._last is not None:
                then, before = self._last
                self._total_mj += (now - then) * (before + power) / 2 * 1e3
            self._last = now, power
            return self._total_mj

    def _sample(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.read_mj()
            except Exception as error:  # of a driver or a user's meter: told by read_mj
                self._problem = error
                return
