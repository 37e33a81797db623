"""What a library prints by itself, kept off the standard output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Discard what C or C++ code prints to the standard output, and Python with it.

    It may be read by a program (`--json`), and a progress display has no use for it either.
    """
    try:
        ours = os.dup(1)
    except OSError:  # there is none
        yield
        return
    _flush()
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
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
