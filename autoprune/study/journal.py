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

#: Optuna's code of an entry that holds a whole trial.
CREATE_TRIAL = 4


def mend(path: Path) -> list[dict[str, Any]]:
    """Drop a last line that was only half written when the process died, with a warning.

    Returns:
        The entries that are left.

    Raises:
        RunError: another line is not what was written: the file was edited or damaged.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}") from error
    lines = raw.split(b"\n")
    tail = lines.pop()
    entries = []
    for number, line in enumerate(lines, start=1):
        entry = _entry(line)
        if entry is not None:
            entries.append(entry)
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
        return entries
    last = _entry(tail)
    if last is not None:
        _rewrite(path, len(raw), b"\n")
        return [*entries, last]
    warnings.warn(
        f"{path}: the last line was only half written when the run was stopped; it is dropped, "
        "and what it held is done again",
        stacklevel=2,
    )
    _rewrite(path, len(raw) - len(tail), b"")
    return entries


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


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None


def open_journal(path: Path) -> tuple[JournalStorage, Callable[[], AbstractContextManager[None]]]:
    """Open a mended journal as an Optuna storage.

    It is Optuna's format, so Optuna's own tools read it. What differs from its own file backend:
    the lock is the operating system's, which does not survive the death of its process; each line
    is parsed once; and the trials' parameters, which stand in their attributes too, are written
    but not read back, for that takes Optuna most of the time.

    Returns:
        The storage, and what opens a block whose entries are forced to the disk together, at its
        end, instead of one by one.

    Raises:
        RunError: it can't be read or written, or holds what Optuna did not write.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    lock = FileLock(f"{path}.lock")

    class Journal(BaseJournalBackend):
        """A journal whose entries can be forced to the disk together."""

        def __init__(self) -> None:
            self._entries = [_brief(entry) for entry in mend(path)]
            self._read = 0
            path.touch()
            self._offset = path.stat().st_size
            self._later = False

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            if log_number_from != self._read:
                raise ValueError(f"entry {self._read} is next, not {log_number_from}")
            entries, self._entries = self._entries, []
            for entry in entries:
                self._read += 1
                yield entry
            with path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return  # still being written
                    self._offset += len(line)
                    self._read += 1
                    yield _brief(json.loads(line))

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            with lock, path.open("ab") as file:
                file.write(lines.encode())
                if not self._later:
                    file.flush()
                    os.fsync(file.fileno())

        @contextmanager
        def together(self) -> Iterator[None]:
            with lock:  # once for all of them
                self._later = True
                try:
                    yield
                finally:
                    self._later = False
                    with path.open("ab") as file:
                        os.fsync(file.fileno())

    try:
        journal = Journal()
        return JournalStorage(journal), journal.together
    except OSError as error:
        raise RunError(f"{path} can't be opened: {error.strerror}; give another folder") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} holds entries that no journal has ({type(error).__name__}: {error}). It was "
            "edited or damaged; restore it from a copy, or start anew in another folder"
        ) from error


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    """A trial's entry without its parameters; any other one as it is."""
    if entry["op_code"] == CREATE_TRIAL and "params" in entry:
        return {**entry, "params": {}, "distributions": {}}
    return entry
