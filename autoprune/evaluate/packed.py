"""Objects on their way to processes of this run; never read from a file."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.errors import AutopruneError, ConfigError
from autoprune.evaluate.ray_cluster import import_ray


def pack(value: Any, what: str) -> bytes:
    """Serialise an object for a process of our own; functions and classes of scripts come along.

    Args:
        value: the object.
        what: it is, for messages.

    Raises:
        ConfigError: it can't be sent to another process.
    """
    dumps = import_ray().cloudpickle.dumps
    try:
        data: bytes = dumps(value)
    except Exception as error:  # A user's object: its own __reduce__ may raise anything.
        text = str(error).strip().splitlines()
        raise ConfigError(
            f"{what} can't be sent to workers: {text[0] if text else type(error).__name__}. What "
            "it refers to must be picklable: open files, locks and connections inside `evaluate`, "
            "or leave workers out"
        ) from error
    return data


def unpack(data: bytes, what: str) -> Any:
    """The inverse of `pack`. Only for bytes that come from a process of this run, never a file's.

    Raises:
        ConfigError: what it is made of can't be imported here.
    """
    try:
        return pickle.loads(data)
    except AutopruneError:
        raise
    except Exception as error:  # A user's object: what it imports may be missing on this node.
        raise ConfigError(
            f"{what} can't be unpacked on a worker: {type(error).__name__}: {error}. The modules "
            "that it is made of must be importable on every node (python_path)"
        ) from error


@dataclass(frozen=True)
class Packed:
    """An object on its way to another process, and where its modules are.

    Attributes:
        data: the object.
        paths: the sender's module path, which the receiver's is extended by.
        what: the object is, for messages.
    """

    data: bytes
    paths: tuple[str, ...]
    what: str

    @classmethod
    def of(cls, value: Any, what: str) -> Packed:
        """Pack an object.

        Raises:
            ConfigError: it can't be sent to another process.
        """
        return cls(pack(value, what), tuple(path or str(Path.cwd()) for path in sys.path), what)

    def unpack(self) -> Any:
        """The object.

        Raises:
            ConfigError: what it is made of can't be imported here.
        """
        sys.path.extend(path for path in self.paths if path not in sys.path)
        return unpack(self.data, self.what)
