"""What runs a network: a function that runs it once, or an object that runs it many times.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Protocol, runtime_checkable

#: Runs a network once and returns the milliseconds that took.
Runner = Callable[[], float]

#: A run of less CPU time than this, in milliseconds, is run again where others had more of the core
#: meanwhile than it; it is run so often at most.
SHORT_MS, AGAIN = 1.0, 5
#: Runs in a row that begin in their first so many milliseconds find the caches, and whatever else
#: a processor learns of what it runs, as other networks left them: a run of 1 ms takes 5 to 35 %
#: longer right behind another network's, 3 to 10 % longer after 2 ms, 1 to 3 % after 4.
COLD_MS = 4.0


@dataclass(frozen=True)
class Visit:
    """What several runs of a network in a row gave.

    Attributes:
        latency_ms: of the fastest run; of a usual one where it is known what else was at work
            beside each (see `watched`).
        energy_mj: of one run, their mean; None where it can't be read.
        no_energy: why it can't, where that is to be told.
        slowed: logarithm of how many times slower its core was beside the runs than on its own; 0
            where that is not known.
        watched: whether it is.
    """

    latency_ms: float
    energy_mj: float | None = None
    no_energy: str = ""
    slowed: float = 0.0
    watched: bool = False


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
            it is coarser than a microsecond, the wall clock is used. A short run that others broke
            into is run again: an operating system in a virtual machine takes time that is stolen
            from it (Linux: "steal") off the CPU time of what runs when it is told of it, which may
            be some 20 us later, so that a run of that length is told as of no time at all.
    """

    def wall_time() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    def thread_time() -> float:
        for _ in range(AGAIN):
            start = time.thread_time_ns()
            wall = wall_time()
            took = (time.thread_time_ns() - start) / 1e6
            if took >= min(SHORT_MS, wall / 2):
                break
        return took

    return thread_time if cpu_time and fine() else wall_time


def clock_name(cpu_time: bool) -> str:
    """What a device's details tell of the clock that `timed` uses."""
    return "thread CPU time" if cpu_time and fine() else "wall"


def fine() -> bool:
    """Whether the clock of a thread's CPU time is finer than a microsecond, or as fine."""
    return time.get_clock_info("thread_time").resolution <= 1e-6


def of_runs(times_ms: Sequence[float], slowed: Sequence[float]) -> Visit:
    """The visit of runs in a row of which it is known what else was at work beside each.

    The first are left out (see `COLD_MS`). The others' geometric mean counts, not the fastest: what
    slowed them down is taken out, by how much there was of it.

    Args:
        times_ms: of each run; one that no run can take is told as it is.
        slowed: as of `Visit`, of each.
    """
    wrong = [ms for ms in times_ms if not is_time(ms)]
    if wrong:
        return Visit(wrong[0], watched=True)
    before_ms = accumulate(times_ms, initial=0.0)
    first = min(sum(ms < COLD_MS for ms in before_ms), len(times_ms) - 1)
    level = fmean(math.log(ms) for ms in times_ms[first:])
    return Visit(math.exp(level), slowed=fmean(slowed[first:]), watched=True)


def is_time(ms: float) -> bool:
    """Whether a run can take that, of time or energy."""
    return math.isfinite(ms) and ms > 0


def visit(runner: Runner | Visitor, runs: int) -> Visit:
    """Run that many times in a row; the latency of a run that can't be one is told as it is."""
    if isinstance(runner, Visitor):
        return runner.visit(runs)
    best = math.inf
    for _ in range(runs):
        latency = float(runner())
        if not is_time(latency):
            return Visit(latency)
        best = min(best, latency)
    return Visit(best)
