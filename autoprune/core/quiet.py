"""What a library prints by itself, kept off the standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what C or C++ code prints to the standard error instead.

    Standard output may be read by a program (`--json`). Python's own prints go the same way while
    it lasts.
    """
    try:
        ours = os.dup(1)
    except OSError:  # there is none
        yield
        return
    _flush()
    try:
        os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(ours, 1)
        os.close(ours)


def _flush() -> None:
    """Write out what Python and C hold back."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if sys.platform != "win32":
        ctypes.CDLL(None).fflush(None)
