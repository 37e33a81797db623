"""The measuring protocol: latency ratios on a machine that is not quiet.

Independent of any runtime: it is given functions that run a network once and say how long that
took, so a profiler of one's own gets interleaving, drift detection and intervals by calling
`measure_interleaved`.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.profile.statistics import robust_mean

#: Runs a network once and returns the milliseconds that took.
Runner = Callable[[], float]


@dataclass(frozen=True)
class Visit:
    """What several runs of a network in a row gave.

    Attributes:
        latency_ms: of the fastest run.
        energy_mj: of one run, their mean; None where it can't be read.
    """

    latency_ms: float
    energy_mj: float | None = None


@runtime_checkable
class Visitor(Protocol):
    """Runs a network several times in a row, where asking for each run alone would disturb.

    For devices at the other end of a wire, and for meters that need more than one run.
    """

    def visit(self, runs: int) -> Visit:
        """Run that many times in a row."""


#: A block of timed runs lasts at least about this long, so that short networks get more runs.
BLOCK_MS = 10.0

#: A round whose reference changed by more than this from before to after is taken again (or by
#: more than three times what is usual on this machine at this hour, where that is more).
DRIFT = 0.04

#: So is a round whose reference is slower than its median by more than this factor.
THROTTLED = 1.3

#: Rounds that are taken again are at most this fraction of `MeasuringProtocol.max_rounds`.
RETAKES = 0.5


def timed(run: Callable[[], object], *, cpu_time: bool = False) -> Runner:
    """Make a runner of a function that runs a network once.

    Args:
        run: one forward pass; it must have finished when the function returns.
        cpu_time: count the calling thread's CPU time instead of the time on the wall: right for
            work that runs in this thread alone, since what other processes take away on a shared
            machine is then not counted as the network's. Where the operating system's clock for
            it is coarser than a microsecond, the wall clock is used.
    """
    fine = time.get_clock_info("thread_time").resolution <= 1e-6
    clock = time.thread_time_ns if cpu_time and fine else time.perf_counter_ns

    def runner() -> float:
        start = clock()
        run()
        return (clock() - start) / 1e6

    return runner


@dataclass
class _Series:
    """One artifact's rounds: its figure, and the reference's before and after it."""

    runner: Runner | Visitor
    own: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    energies: list[tuple[float, float] | None] = field(default_factory=list)
    stopped: str = ""
    error: str | None = None

    def add(self, before: Visit, own: Visit, after: Visit) -> None:
        self.own.append(own.latency_ms)
        self.before.append(before.latency_ms)
        self.after.append(after.latency_ms)
        energies = (before.energy_mj, own.energy_mj, after.energy_mj)
        told = [energy for energy in energies if energy is not None]
        self.energies.append(
            (told[1], math.sqrt(told[0] * told[2])) if len(told) == len(energies) else None
        )

    def energy(self, reference_mj: float | None) -> float | None:
        """Energy of a run: the ratio to the reference's beside it, times the reference's."""
        told = [pair for pair in self.energies if pair is not None]
        if reference_mj is None or not told or len(told) < len(self.energies):
            return None
        own, beside = np.log(np.array(told)).T
        return reference_mj * math.exp(robust_mean((own - beside)[self.steady()])[0])

    def steady(self) -> npt.NDArray[np.bool_]:
        """Which rounds the reference held still in."""
        before, after = np.log(self.before), np.log(self.after)
        change = np.abs(before - after)
        level = (before + after) / 2
        keep = (change <= max(DRIFT, 3 * float(np.median(change)))) & (
            level <= float(np.median(level)) + math.log(THROTTLED)
        )
        return keep if 2 * keep.sum() > len(keep) else np.ones(len(keep), dtype=bool)

    def references(self) -> npt.NDArray[np.float64]:
        """The reference beside each round: the geometric mean of before and after."""
        beside: npt.NDArray[np.float64] = np.sqrt(np.array(self.before) * np.array(self.after))
        return beside

    def ratio(self, confidence: float) -> tuple[float, float, float]:
        """Robust mean of the log ratio over the steady rounds, and its interval."""
        keep = self.steady()
        return robust_mean(np.log(self.own)[keep] - np.log(self.references())[keep], confidence)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_FAILED = Visit(math.nan)


def _block(series: _Series, runs: int) -> Visit:
    """Several runs in a row, of which the fastest counts; NaN with `series.error` if one fails."""
    try:
        found = _visit(series.runner, runs)
    except Exception as error:  # a runtime or a user's own profiler: anything may come
        series.error = f"a run failed: {type(error).__name__}: {error}"
        return _FAILED
    for what, value in (("milliseconds", found.latency_ms), ("millijoules", found.energy_mj)):
        if value is not None and not (math.isfinite(value) and value > 0):
            series.error = f"a run must take a positive, finite number of {what}; got {value}"
            return _FAILED
    return found


def _visit(runner: Runner | Visitor, runs: int) -> Visit:
    if isinstance(runner, Visitor):
        return runner.visit(runs)
    best = math.inf
    for _ in range(runs):
        latency = float(runner())
        if not (math.isfinite(latency) and latency > 0):
            return Visit(latency)
        best = min(best, latency)
    return Visit(best)


def measure_interleaved(
    keys: Sequence[str],
    runners: Sequence[Runner | Visitor],
    protocol: MeasuringProtocol,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Measurement]:
    """Measure networks against a reference that is run before and after each of them.

    Every round visits the networks in shuffled order: reference, network, reference, network,
    ..., reference. Each visit is `protocol.runs` runs in a row (more for short networks, so that
    a visit lasts about 10 ms) of which the fastest counts, and gives a ratio to the mean of the
    reference's visits before and after, so a linear drift cancels. A round in which the reference
    itself jumped or was throttled is taken again. The ratio is a robust mean over rounds
    (`robust_mean`). Networks whose interval is narrow enough drop out of later rounds.

    Args:
        keys: a name for each network.
        runners: each runs its network once and returns the milliseconds; the first is the
            reference. One that raises, or returns something that is no positive finite number,
            gets a measurement with `error`, and the others go on. A `Visitor` is asked once for
            all runs in a row, and may tell energy.
        protocol: how long to measure; `kernels` is not looked at here.
        clock: seconds, for `protocol.timeout_s`.

    Returns:
        A measurement for each, in order. `latency_ms` is the ratio times the reference's latency
        over the whole call, so latencies of one call are comparable too.
    """
    if not runners:
        return []
    measuring = _Measuring([_Series(runner) for runner in runners], protocol, clock)
    with _no_garbage_collection():
        measuring.run()
    return measuring.results(keys)


class _Measuring:
    """The state of one `measure_interleaved`."""

    def __init__(
        self, series: list[_Series], protocol: MeasuringProtocol, clock: Callable[[], float]
    ) -> None:
        self.reference, self.others = series[0], series[1:]
        self.protocol = protocol
        self.clock = clock
        self.deadline = clock() + protocol.timeout_s
        self.rng = np.random.default_rng(protocol.seed)
        self.levels: list[float] = []  # the reference's blocks, in order
        self.energies: list[float | None] = []  # of one run of the reference, beside them
        self.runs = protocol.runs

    def run(self) -> None:
        self._warm_up()
        rounds = 0
        while self.reference.error is None:
            rounds += 1
            active = [s for s in self.others if not s.stopped and s.error is None]
            if active:
                self._round([active[i] for i in self.rng.permutation(len(active))])
            elif rounds == 1 or (self._healthy() == [] and not self.reference.stopped):
                self._reference_block()
                active = [self.reference]
            else:
                break
            self._decide(active, rounds)

    def _healthy(self) -> list[_Series]:
        return [s for s in self.others if s.error is None]

    def _late(self) -> bool:
        return self.clock() > self.deadline

    def _warm_up(self) -> None:
        """Run everything a few times, and make blocks of short networks longer."""
        fastest = {}
        for series in [self.reference, *self.others]:
            fastest[id(series)] = _block(series, max(1, self.protocol.warmup)).latency_ms
        times = [t for t in fastest.values() if not math.isnan(t)]
        if times and not math.isnan(fastest[id(self.reference)]):
            wanted = min(BLOCK_MS / min(times), 4 * BLOCK_MS / fastest[id(self.reference)])
            self.runs = max(self.protocol.runs, math.ceil(min(wanted, 1000)))

    def _reference_block(self) -> Visit:
        figure = _block(self.reference, self.runs)
        if self.reference.error is None:
            self.levels.append(figure.latency_ms)
            self.energies.append(figure.energy_mj)
        return figure

    def _reference_energy(self) -> float | None:
        told = [energy for energy in self.energies if energy is not None]
        if not told or len(told) < len(self.energies):
            return None
        return math.exp(robust_mean(np.log(told))[0])

    def _round(self, order: list[_Series]) -> None:
        before = self._reference_block()
        for series in order:
            if self.reference.error is not None:
                return
            own = _block(series, self.runs)
            after = self._reference_block()
            if series.error is None and self.reference.error is None:
                series.add(before, own, after)
            before = after
            if self._late():
                return

    def _decide(self, active: list[_Series], rounds: int) -> None:
        """Which of the active ones are done, and why."""
        protocol, late = self.protocol, self._late()
        for series in active:
            if series.error is not None:
                continue
            done = int(series.steady().sum()) if series.own else 0
            alone = series is self.reference
            if alone:
                done = len(self.levels)
            if done >= max(2, protocol.min_rounds):
                _, low, high = (
                    robust_mean(np.log(self.levels), protocol.confidence)
                    if alone
                    else series.ratio(protocol.confidence)
                )
                if (high - low) / 2 <= protocol.width:
                    series.stopped = "interval"
                    continue
            if late:
                series.stopped = "time"
            elif done >= protocol.max_rounds or rounds >= (1 + RETAKES) * protocol.max_rounds:
                series.stopped = "rounds"

    def results(self, keys: Sequence[str]) -> list[Measurement]:
        confidence = self.protocol.confidence
        failed = self.reference.error
        if failed is None and not self.levels:
            failed = "no run finished"
        if failed is not None:
            reason = f"the reference (artifact {keys[0]!r}) has no figure: {failed}"
            return [Measurement(keys[0], error=failed)] + [
                Measurement(key, error=s.error or reason)
                for key, s in zip(keys[1:], self.others, strict=True)
            ]
        level, low, high = robust_mean(np.log(self.levels), confidence)
        reference = Measurement(
            key=keys[0],
            latency_ms=math.exp(level),
            latency_interval_ms=(math.exp(low), math.exp(high)),
            ratio=1.0,
            ratio_interval=(1.0, 1.0),
            samples_ms=tuple(self.levels),
            reference_ms=tuple(self.levels),
            energy_mj=self._reference_energy(),
            stopped=self.reference.stopped or _worst(s.stopped for s in self._healthy()),
        )
        return [reference] + [
            self._result(key, s, (level, low, high))
            for key, s in zip(keys[1:], self.others, strict=True)
        ]

    def _result(self, key: str, series: _Series, level: tuple[float, float, float]) -> Measurement:
        if series.error is None and not series.own:
            series.error = (
                f"the {self.protocol.timeout_s:g} s of timeout_s were over before its first round; "
                "allow more time, or measure fewer networks in a call"
            )
        if series.error is not None:
            return Measurement(key, error=series.error)
        centre, low, high = series.ratio(self.protocol.confidence)
        middle = level[0] + centre
        below = math.hypot(centre - low, level[0] - level[1])
        above = math.hypot(high - centre, level[2] - level[0])
        keep = series.steady()
        return Measurement(
            key=key,
            latency_ms=math.exp(middle),
            latency_interval_ms=(_exp(middle - below), _exp(middle + above)),
            ratio=math.exp(centre),
            ratio_interval=(_exp(low), _exp(high)),
            samples_ms=tuple(np.array(series.own)[keep].tolist()),
            reference_ms=tuple(series.references()[keep].tolist()),
            energy_mj=series.energy(self._reference_energy()),
            stopped=series.stopped,
        )


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def _worst(reasons: Iterable[str]) -> str:
    given = set(reasons)
    return next((r for r in ("time", "rounds", "interval") if r in given), "")
