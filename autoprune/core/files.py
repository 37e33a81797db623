"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from autoprune.core.errors import AutopruneError, RunError


def check_writable(path: Path | str, error: type[AutopruneError] = RunError) -> None:
    """Refuse a file that can't be written, before work is done for it.

    Raises:
        AutopruneError: of the type `error`: it is a folder, or its folder can't be written.
    """
    path = Path(path)
    if path.is_dir():
        raise error(f"{path} must be a file to write, but is a folder; give a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise error(
            f"{path} can't be written: {problem.strerror or problem}; "
            "free space or give another folder"
        ) from problem


def write_atomically(
    path: Path | str, data: bytes | str, error: type[AutopruneError] = RunError
) -> None:
    """Write a file whole or not at all: to a temporary one beside it, synced, then renamed.

    Raises:
        AutopruneError: of the type `error`: the folder can't be written or the disk is full.
    """
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise error(
            f"{path} can't be written: {problem.strerror or problem}; "
            "free space or give another folder"
        ) from problem
