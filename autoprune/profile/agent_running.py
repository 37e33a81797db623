"""What a runtime of the agent on a remote device is, and networks that it has loaded.

A runtime is a module `agent_NAME` with a class of its own, which `agent_runtimes.make` knows by its
name. It is sent there as it is: Python 3.9, numpy and the runtime, and the modules that it imports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from autoprune.core.errors import ProfilerError
from autoprune.profile.neighbours import times_ms, watched


class Running(Protocol):
    """A network that is loaded. It tells its times itself: what a clock is depends on the runtime.

    Attributes:
        note: what is to be known of its figures; "" for nothing.

    One beside whose runs it is known what else is at work has `slowed` too: of the runs that were
    timed last, as of `neighbours.Watched.times_ms`.
    """

    note: str

    def run(self, runs: int) -> None:
        """Run it that many times in a row, and wait until that is done; for windows of energy."""

    def times_ms(self, runs: int) -> list[float]:
        """Run it that many times in a row; the milliseconds of each."""


class Profiled(Protocol):
    """A network whose runtime tells each node's time: `ProfiledSession` or `ProfiledRequest`."""

    def run(self, runs: int = 1) -> None:
        """Run it that many times."""

    def read(self) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """Its nodes (`replies.node_times`), and for each run the microseconds of each."""


class Runtime:
    """Runs networks; the base of each runtime's own class.

    Attributes:
        about: name, runtime, runtime_version, provider and threads, as of `DeviceSpec`.
        details: as of `DeviceSpec`; with `clock`, by which its networks tell their times.
        gpu: number or UUID of the GPU that it runs on, if it does.
    """

    about: Mapping[str, Any]
    details: Mapping[str, str]
    gpu: str = "0"

    def load(self, model: str, inputs: Mapping[str, Any]) -> Running:
        """A network to be timed, run once.

        Args:
            model: its file, as it was sent.
            inputs: array by name.

        Raises:
            Exception: whatever the runtime raises is that network's error.
        """
        raise NotImplementedError

    def elsewhere(self, model: str, inputs: Mapping[str, Any]) -> str:
        """Which nodes run elsewhere than they should, in words; "" where none does."""
        return ""

    def profile(self, model: str, inputs: Mapping[str, Any]) -> Profiled:
        """A network to be profiled by itself, of a runtime that tells times of each run's nodes."""
        raise ProfilerError(f"{self.about['runtime']} does not profile a network by itself")

    def kernels(self, reference: Any, own: Any) -> tuple[list[dict[str, Any]], float]:
        """A network's kernels, profiled beside the reference.

        Args:
            reference: what `load` gave for it.
            own: and for the network; the reference itself gives its own.

        Returns:
            Kernels in the order of execution, each with `name`, `op` and `ms`, and where known
            `layers`, `input_shapes`, `output_shapes`, and `about`, any text for the class on the
            other side (`ssh_runtime.RemoteRuntime.kernels`). And the milliseconds of all of the
            reference's kernels beside it.
        """
        raise ProfilerError(f"{self.about['runtime']} does not profile a network beside another")


class Timed:
    """A network that a plain function runs, which returns when the run is finished.

    Args:
        run: runs it once; run once here.
        cpu_time: whether the calling thread does all of the work, so that its CPU time counts,
            as of `visits.timed`.
    """

    note = ""
    slowed: Sequence[float] = ()

    def __init__(self, run: Callable[[], object], *, cpu_time: bool) -> None:
        self._run = run
        self._timed = watched(run, cpu_time=cpu_time)
        run()

    def run(self, runs: int) -> None:
        """As of `Running`."""
        for _ in range(runs):
            self._run()

    def times_ms(self, runs: int) -> list[float]:
        """As of `Running`."""
        times, self.slowed = times_ms(self._timed, runs)
        return times


def missing(package: str, error: ImportError) -> str:
    """What to do where a runtime's package is not there."""
    return (
        f"needs {package} there: {sys.executable} -m pip install {package}, or name another "
        f"interpreter by the option python ({error})"
    )
