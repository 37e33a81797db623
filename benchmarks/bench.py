"""A device that measures nothing, and the log of what is struck; quick to import on a worker."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol

#: The measurement at which the device's node is killed, once.
KILLED_AT = "2"


@dataclass
class Log:
    """Lines that processes write down, and the mark that the fault struck.

    Attributes:
        folder: of both.
    """

    folder: Path

    def first(self) -> bool:
        """Whether the fault has not struck yet; from now on it has."""
        try:
            (self.folder / "struck").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def note(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(line + "\n")

    def lines(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


def kill_node() -> None:
    """Kill the node that this worker is on; the worker ends with it."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)


class Bench:
    """A device; measuring writes a line when it begins and one when it ends.

    Args:
        folder: of the log.
    """

    def __init__(self, folder: str) -> None:
        self.log = Log(Path(folder))

    @property
    def device(self) -> DeviceSpec:
        return DeviceSpec("bench", "none", "1")

    def measure(self, artifacts: list[Artifact], protocol: MeasuringProtocol) -> list[Measurement]:
        key = artifacts[0].key
        self.log.note(f"begin {key}")
        if key == KILLED_AT and self.log.first():
            kill_node()
        self.log.note(f"end {key}")
        return []
