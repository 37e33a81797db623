"""The journal file of a run: locked by the operating system, mended after a crash, read safely."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from autoprune.core.errors import RunError

if TYPE_CHECKING:
    from optuna.storages import JournalStorage


def mend(path: Path) -> None:
    """Drop a last line that was only half written when the process died, with a warning.

    Raises:
        RunError: another line is not what was written: the file was edited or damaged.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}") from error
    lines = raw.split(b"\n")
    tail = lines.pop()
    for number, line in enumerate(lines, start=1):
        if _is_entry(line):
            continue
        if number == len(lines) and not tail:
            # The line's end reached the disk before all of the line did.
            tail = line + b"\n"
            break
        raise RunError(
            f"{path} is damaged at line {number}: {line[:40]!r} is not a journal entry. It was "
            "edited or the disk failed; restore it from a copy, or start the search anew in "
            "another folder"
        )
    if not tail:
        return
    if _is_entry(tail):
        _rewrite(path, len(raw), b"\n")
        return
    warnings.warn(
        f"{path}: the last line was only half written when the run was stopped; it is dropped, "
        "and what it held is done again",
        stacklevel=2,
    )
    _rewrite(path, len(raw) - len(tail), b"")


def _rewrite(path: Path, length: int, end: bytes) -> None:
    """Cut a file to a length and put an end to it."""
    try:
        with path.open("r+b") as file:
            file.truncate(length)
            file.seek(length)
            file.write(end)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from error


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry


def open_journal(path: Path) -> tuple[JournalStorage, Callable[[], AbstractContextManager[None]]]:
    """Open a mended journal as an Optuna storage.

    Optuna's own file locks survive the death of their process; this one is the operating
    system's and does not.

    Returns:
        The storage, and what opens a block whose entries are forced to the disk together, at its
        end, instead of one by one.

    Raises:
        RunError: it can't be read or written, or holds what Optuna did not write.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class KernelLock(JournalFileOpenLock):
        """A lock that ends with its process."""

        def __init__(self, file: str) -> None:
            self._kernel = FileLock(file + ".lock")

        def acquire(self) -> bool:
            self._kernel.acquire()
            return True

        def release(self) -> None:
            self._kernel.release()

    class Journal(JournalFileBackend):
        """A journal whose entries can be forced to the disk together."""

        def __init__(self, lock: KernelLock) -> None:
            super().__init__(str(path), lock_obj=lock)
            self._kernel = lock
            self._later = False

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            if not self._later:
                super().append_logs(logs)
                return
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            self._kernel.acquire()
            try:
                with path.open("ab") as file:
                    file.write(lines.encode())
            finally:
                self._kernel.release()

        @contextmanager
        def together(self) -> Iterator[None]:
            self._later = True
            try:
                yield
            finally:
                self._later = False
                with path.open("ab") as file:
                    os.fsync(file.fileno())

    mend(path)
    try:
        journal = Journal(KernelLock(str(path)))
        return JournalStorage(journal), journal.together
    except OSError as error:
        raise RunError(f"{path} can't be opened: {error.strerror}; give another folder") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} holds entries that no journal has ({type(error).__name__}: {error}). It was "
            "edited or damaged; restore it from a copy, or start anew in another folder"
        ) from error
