"""What else is at work on a network's core, and what its times would be without.

What shares a core with a network (on a rented machine another one's thread, say) slows it down by
1.1 to 1.8 times, and small networks more than large ones: no other network beside it cancels that.
It comes and goes within milliseconds, and a short piece of work whose time is known tells how much
of it there is. So the thread does that before and after each run; and since all networks slow down
in proportion to the logarithm of what that piece of work does, each by its own slope, their times
on a core of their own are known from any moments.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable
from functools import cache

from autoprune.profile.visits import Runner, Visit, fine, is_time, of_runs, timed

#: The core is its thread's own where the probe takes no longer than so many times its fastest
#: (which it must have been so often: once may be a fault of the clock); and the most that counts.
OWN, CONFIRMED, MOST = 1.12, 20, 1.7
#: The probe: products of square matrices of this size (so small that one thread does them), so many
#: that are not timed (a network has had the caches) and so many that are.
SIZE, WARM, TIMED = 56, 3, 4
#: At first it looks for so long how quick the core can be.
LOOK_S = 0.3
#: Between two probes a network runs for so long at least, in milliseconds.
BETWEEN_MS = 1.0


class Core:
    """How much else is at work on a core.

    Args:
        probe: does a piece of work that is always the same, and tells how long it took.
        clock: seconds.
    """

    def __init__(
        self, probe: Callable[[], float], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._probe = probe
        self._quickest: list[float] = []
        until = clock() + LOOK_S
        while clock() < until:
            self.slowed()

    def slowed(self) -> float:
        """Logarithm of how many times slower it is now than on its own; 0 on its own."""
        took = self._probe()
        if len(self._quickest) < CONFIRMED or took < self._quickest[-1]:
            insort(self._quickest, took)
            del self._quickest[CONFIRMED:]
        times = took / self._quickest[-1]
        return math.log(min(times, MOST)) if times > OWN else 0.0


@cache
def this_core() -> Core:
    """The one that this thread runs on."""
    import numpy as np

    left, right = np.random.default_rng(0).random((2, SIZE, SIZE), dtype=np.float32)
    out = np.empty_like(left)

    def probe() -> float:
        for _ in range(WARM):
            np.matmul(left, right, out=out)
        start = time.perf_counter_ns()
        for _ in range(TIMED):
            np.matmul(left, right, out=out)
        return float(time.perf_counter_ns() - start)

    return Core(probe)


class Watched:
    """A network that the calling thread runs, with what else is at work beside each run.

    Args:
        runner: runs it once and returns the milliseconds.
        core: of the calling thread.

    Attributes:
        runner: that.
    """

    def __init__(self, runner: Runner, core: Core) -> None:
        self.runner = runner
        self._core = core

    def visit(self, runs: int) -> Visit:
        """Run it that many times in a row."""
        return of_runs(*self.times_ms(runs))

    def times_ms(self, runs: int) -> tuple[list[float], list[float]]:
        """Run it that many times in a row.

        Returns:
            The milliseconds of each run, and how slow the core was beside each (`Core.slowed`).
        """
        times: list[float] = []
        slowed: list[float] = []
        before = self._core.slowed()
        while len(times) < runs:
            at_once = 1 if not times or not is_time(times[-1]) else BETWEEN_MS / times[-1]
            few = min(max(1, math.ceil(at_once)), runs - len(times))
            times += [float(self.runner()) for _ in range(few)]
            after = self._core.slowed()
            slowed += [(before + after) / 2] * few
            before = after
        return times, slowed


def times_ms(runner: Runner | Watched, runs: int) -> tuple[list[float], list[float]]:
    """As of `Watched`; no slownesses of one that is not watched."""
    if isinstance(runner, Watched):
        return runner.times_ms(runs)
    return [runner() for _ in range(runs)], []


def watched(run: Callable[[], object], *, cpu_time: bool) -> Runner | Watched:
    """Times a network, and tells what else is at work beside its runs where that can be known.

    Args:
        run: runs it once, as of `visits.timed`.
        cpu_time: whether the calling thread does all of the work, as of that.
    """
    runner, core = timed(run, cpu_time=cpu_time), core_of(cpu_time=cpu_time)
    return runner if core is None else Watched(runner, core)


def core_of(*, cpu_time: bool) -> Core | None:
    """The core of what the calling thread does alone, where it can be known what else is on it."""
    return this_core() if cpu_time and fine() else None
