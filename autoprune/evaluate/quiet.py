"""Computing and measuring of one machine, kept apart.

A latency measured beside a busy core is not the device's. So whatever computes (an evaluation, a
step of fine-tuning, the refitting of a winner) holds a shared lock of the machine for as long as
it takes, and whatever measures holds it alone, be it in one process or in several. The locks are
the operating system's: they end with their process, however that ends. Where there are none
(Windows), nothing waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from autoprune.core.errors import RunError

#: Seconds after which somebody who waits says so.
TOLD_S = 20.0

#: What the calling thread holds: `measuring`, or the handle of its shared lock as `evaluating`.
_held = threading.local()


def lock_folder() -> Path:
    """Where the locks of this machine and user are: `$AUTOPRUNE_LOCKS`, or the temporary folder."""
    given = os.environ.get("AUTOPRUNE_LOCKS")
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(given) if given else Path(tempfile.gettempdir()) / f"autoprune-{user}"


@contextlib.contextmanager
def evaluating() -> Iterator[None]:
    """Compute beside others, but not while a measurement runs or waits to run.

    A block inside another one of the same thread, or inside a measurement, is a part of it.

    Raises:
        RunError: the locks can't be used.
    """
    if _measures() or _shared() is not None:
        yield
        return
    _pass_gate()
    with _locked("machine", alone=False) as handle:
        _held.evaluating = handle
        try:
            yield
        finally:
            _held.evaluating = None


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Measure with nothing computed beside; waits for what runs, and holds back what is next.

    A block inside another one of the same thread is a part of it. Inside `evaluating`, the thread
    gives its share back meanwhile: it would wait for itself.

    Raises:
        RunError: the locks can't be used.
    """
    if _measures():
        yield
        return
    shared = _shared()
    if shared is not None:
        _unlock(shared)
    try:
        with _locked("gate", alone=True), _locked("machine", alone=True):
            _held.measuring = True
            try:
                yield
            finally:
                _held.measuring = False
    finally:
        if shared is not None:
            _pass_gate()
            _lock("machine", shared, alone=False)


@contextlib.contextmanager
def using(device: str) -> Iterator[None]:
    """Measure on a device that is no part of this machine: by one at a time, beside all else.

    Raises:
        RunError: the locks can't be used.
    """
    name = hashlib.sha256(device.encode()).hexdigest()[:16]
    with _locked(f"device-{name}", alone=True):
        yield


def _measures() -> bool:
    return getattr(_held, "measuring", False)


def _shared() -> int | None:
    handle: int | None = getattr(_held, "evaluating", None)
    return handle


def _pass_gate() -> None:
    """At once, unless a measurement stands in the gate: then it goes first."""
    with _locked("gate", alone=False):
        pass


@contextlib.contextmanager
def _locked(name: str, *, alone: bool) -> Iterator[int]:
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
        _lock(name, handle, alone=alone)
        yield handle
    finally:
        # A process forked meanwhile has the file open too, and would go on holding it.
        _unlock(handle)
        os.close(handle)


def _lock(name: str, handle: int, *, alone: bool) -> None:
    try:
        import fcntl
    except ImportError:
        return
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        told = threading.Timer(TOLD_S, _tell_wait, (name, alone))
        told.daemon = True
        told.start()
        try:
            fcntl.flock(handle, how)
        finally:
            told.cancel()


def _unlock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(handle, fcntl.LOCK_UN)


def _tell_wait(name: str, alone: bool) -> None:
    other = "something else computes or measures" if alone else "something is measured"
    what = "device" if name.startswith("device") else "machine"
    warnings.warn(
        f"waiting since {TOLD_S:g} s because {other} on this {what}; to go on beside it, and with "
        "latencies that are worth less, set AUTOPRUNE_LOCKS to a folder of your own",
        stacklevel=2,
    )
