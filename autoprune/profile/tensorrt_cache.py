"""TensorRT's timing cache on disk, one file for each device.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

from autoprune.core.errors import ProfilerError
from autoprune.core.files import write_atomically

_LOG = logging.getLogger("autoprune.profile")


class TimingCache:
    """What the builder measured of each tactic, so that the next engine is built sooner.

    It also makes engines alike: the same layer gets the same kernel in every network. The file
    is written whole or not at all, and a file that can't be read or written only costs time.

    Args:
        device: name of the GPU.
        version: of TensorRT; with the device it names the file.
        folder: where the file lies.
    """

    def __init__(self, device: str, version: str, folder: Path) -> None:
        self.path = folder / file_name(device, version)
        self._data = b""
        self._told = False

    def load(self) -> bytes:
        """What is kept; b"" where there is none."""
        try:
            self._data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._tell(f"can't be read: {error}")
            return b""
        return self._data

    def store(self, data: bytes, combine: Callable[[bytes, bytes], bytes] | None = None) -> None:
        """Keep what a build left.

        Args:
            data: the builder's cache, which began with what `load` gave.
            combine: makes one of two caches; asked for where another process wrote meanwhile.
        """
        if not data or _digest(data) == _digest(self._data):
            return
        before = self._data
        current = self.load()
        if combine is not None and current and _digest(current) != _digest(before):
            data = combine(current, data)
        try:
            write_atomically(self.path, data, ProfilerError)
        except ProfilerError as error:
            self._tell(str(error))
        else:
            self._data = data

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            _LOG.warning(
                "TensorRT's timing cache %s %s; engines take longer to build", self.path, what
            )


def file_name(device: str, version: str) -> str:
    """What the timing cache of a device and a version of TensorRT is called."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", device).strip("-").lower() or "unknown"
    return f"{plain}-{version}.cache"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
