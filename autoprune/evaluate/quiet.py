"""Evaluations and measurements of one machine, kept apart.

A latency measured beside a busy core is not the device's. So whoever evaluates holds a shared
lock of the machine for as long as one evaluation takes, and whoever measures holds it alone. The
locks are the operating system's: they end with their process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from autoprune.core.errors import RunError

#: What the calling thread holds.
_held = threading.local()


def lock_folder() -> Path:
    """Where the locks of this machine and user are: `$AUTOPRUNE_LOCKS`, or the temporary folder."""
    given = os.environ.get("AUTOPRUNE_LOCKS")
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(given) if given else Path(tempfile.gettempdir()) / f"autoprune-{user}"


@contextlib.contextmanager
def evaluating() -> Iterator[None]:
    """Evaluate beside others, but not while a measurement runs or waits to run.

    A block inside another one of the same thread is a part of it.

    Raises:
        RunError: the locks can't be used.
    """
    if getattr(_held, "evaluating", False):
        yield
        return
    with _locked("gate", alone=False):
        # Passed at once, unless a measurement stands in the gate: then it goes first.
        pass
    with _locked("machine", alone=False):
        _held.evaluating = True
        try:
            yield
        finally:
            _held.evaluating = False


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Measure with no evaluation beside; waits for those that run, and holds back the next ones.

    Raises:
        RunError: the locks can't be used.
    """
    with _locked("gate", alone=True), _locked("machine", alone=True):
        yield


@contextlib.contextmanager
def _locked(name: str, *, alone: bool) -> Iterator[None]:
    try:
        import fcntl
    except ImportError as error:
        raise RunError(
            "keeping measurements and evaluations apart needs a POSIX system; on this one, "
            "evaluate in one process (no workers)"
        ) from error
    folder = lock_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(
            f"the lock {folder / name}.lock can't be used: {error.strerror}; set AUTOPRUNE_LOCKS "
            "to a folder on this machine that you may write to"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)
