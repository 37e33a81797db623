"""What runs a network: a function that runs it once, or an object that runs it many times.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: Runs a network once and returns the milliseconds that took.
Runner = Callable[[], float]


@dataclass(frozen=True)
class Visit:
    """What several runs of a network in a row gave.

    Attributes:
        latency_ms: of the fastest run.
        energy_mj: of one run, their mean; None where it can't be read.
        no_energy: why it can't, where that is to be told.
        slowed: logarithm of how many times slower its core was beside that run than on its own; 0
            where that is not told.
        usually_slowed: the same over all of the visit.
    """

    latency_ms: float
    energy_mj: float | None = None
    no_energy: str = ""
    slowed: float = 0.0
    usually_slowed: float = 0.0


@runtime_checkable
class Visitor(Protocol):
    """Runs a network several times in a row, where asking for each run alone would disturb.

    For devices at the other end of a wire, and for meters that need more than one run.
    """

    def visit(self, runs: int) -> Visit:
        """Run that many times in a row."""


def timed(run: Callable[[], object], *, cpu_time: bool = False) -> Runner:
    """Make a runner of a function that runs a network once.

    Args:
        run: one forward pass; it must have finished when the function returns.
        cpu_time: count the calling thread's CPU time instead of the time on the wall: right for
            work that runs in this thread alone, since what other processes take away on a shared
            machine is then not counted as the network's. Where the operating system's clock for
            it is coarser than a microsecond, the wall clock is used.
    """
    clock = time.thread_time_ns if cpu_time and fine() else time.perf_counter_ns

    def runner() -> float:
        start = clock()
        run()
        return (clock() - start) / 1e6

    return runner


def clock_name(cpu_time: bool) -> str:
    """What a device's details tell of the clock that `timed` uses."""
    return "thread CPU time" if cpu_time and fine() else "wall"


def fine() -> bool:
    """Whether the clock of a thread's CPU time is finer than a microsecond, or as fine."""
    return time.get_clock_info("thread_time").resolution <= 1e-6


def visit(runner: Runner | Visitor, runs: int) -> Visit:
    """Run that many times in a row; the latency of a run that can't be one is told as it is."""
    if isinstance(runner, Visitor):
        return runner.visit(runs)
    best = math.inf
    for _ in range(runs):
        latency = float(runner())
        if not (math.isfinite(latency) and latency > 0):
            return Visit(latency)
        best = min(best, latency)
    return Visit(best)
