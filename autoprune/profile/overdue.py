"""A time limit on a call into somebody else's code, which may hang.

By the operating system's timer (POSIX.1-2017, setitimer), which interrupts a sleep, a read or a
wait too. Such a timer is the main thread's: in another one, and on Windows, there is no limit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Overdue(BaseException):
    """The limit is over; no `Exception`, so that nobody on the way takes it for one of theirs."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Overdue` inside after so many seconds; never, where they are infinite.

    A timer and a handler that were set before are set again afterwards; a timer that would have
    rung meanwhile rings then.
    """
    main = threading.current_thread() is threading.main_thread()
    if not (main and hasattr(signal, "setitimer")) or seconds == float("inf"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overdue

    handler: Any = signal.signal(signal.SIGALRM, ring)
    began = time.monotonic()
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if left > 0:
            left = max(left - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, every)
