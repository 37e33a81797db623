"""The measuring protocol: latency and energy ratios on a machine that is not quiet.

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
from dataclasses import replace

import numpy as np

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.profile.energy import MeterError, Windows
from autoprune.profile.neighbours import Watched
from autoprune.profile.series import Dependence, Reference, Series, as_timed, bounded
from autoprune.profile.slopes import slopes
from autoprune.profile.throttling import RESTS, Rest, unsteady
from autoprune.profile.visits import COLD_MS, Runner, Visit, Visitor, is_time, timed, visit

__all__ = ["Runner", "Visit", "Visitor", "measure_interleaved", "timed"]

#: A block of timed runs whose fastest counts lasts at least about this long, so that short networks
#: get more runs.
BLOCK_MS = 10.0
#: Where it is known what else is at work beside each run, those that count do, and are so many.
COUNTED_MS, COUNTED = 4.0, 2
#: Runs in a row at most.
MOST_RUNS = 1000

#: Rounds that are taken again are at most this fraction of `MeasuringProtocol.max_rounds`.
RETAKES = 0.5


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect(1)  # the young; all of torch's objects would take as long as a short measurement
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def measure_interleaved(
    keys: Sequence[str],
    runners: Sequence[Runner | Visitor],
    protocol: MeasuringProtocol,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Measurement]:
    """Measure networks against a reference that is run before and after each of them.

    Every round visits the networks in shuffled order: reference, network, reference, network,
    ..., reference (or `protocol.between` networks between two of the reference). Each visit is
    `protocol.runs` runs in a row (more for short networks, so that a visit lasts about 10 ms) of
    which the fastest counts (or their mean: see `Visit`), and gives a ratio to the mean of the
    reference's visits before and after, so a linear drift cancels. With `protocol.meter`, a window
    of runs follows in which energy is read, and gives a ratio in the same way. The ratio is a
    robust mean over rounds (`robust_mean`), whose interval allows for rounds that depend on each
    other, as far as those of all networks together tell. Networks whose intervals are narrow
    enough drop out of later rounds.

    A round in which the reference itself jumped is taken again. So is one in which the device was
    throttled: in which the reference is far from its usual time (see `throttling`). The device
    rests then, and the rounds that are left out are told in the measurement's notes; where it does
    not recover before the time limit, so that less than two rounds are left, that is an error.

    Args:
        keys: a name for each network.
        runners: each runs its network once and returns the milliseconds; the first is the
            reference. One that raises, or returns something that is no positive finite number,
            gets a measurement with `error`, and the others go on. A `Visitor` is asked once for
            all runs in a row, and may tell energy.
        protocol: how long to measure; `kernels` is not looked at here.
        clock: seconds, for `protocol.timeout_s` and for windows of energy.
        sleep: waits, where a throttled device should rest.

    Returns:
        A measurement for each, in order. `latency_ms` is the ratio times the reference's latency
        over the whole call, so latencies of one call are comparable too; `energy_mj` likewise.
    """
    if not runners:
        return []
    measuring = _Measuring([Series(runner) for runner in runners], protocol, clock, sleep)
    with _no_garbage_collection():
        measuring.run()
    return measuring.results(keys)


_FAILED = Visit(math.nan)


class _Measuring:
    """The state of one `measure_interleaved`."""

    def __init__(
        self,
        series: list[Series],
        protocol: MeasuringProtocol,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.first, self.others = series[0], series[1:]
        self.reference = Reference()
        self.protocol = protocol
        self.clock = clock
        self.deadline = clock() + protocol.timeout_s
        self.rest = Rest(sleep, RESTS * protocol.timeout_s)
        self.rng = np.random.default_rng(protocol.seed)
        self.no_energy = ""
        self.windows: Windows | None = None
        if protocol.meter is not None:
            try:
                self.windows = Windows(protocol.meter, clock)
            except MeterError as error:
                self.no_energy = str(error)

    def run(self) -> None:
        self._warm_up()
        rounds = 0
        while self.first.error is None:
            rounds += 1
            self._take_up_again(rounds)
            active = [s for s in self.others if not s.stopped and s.error is None]
            if active:
                self._round([active[i] for i in self.rng.permutation(len(active))])
            elif rounds == 1 or (self._healthy() == [] and not self.first.stopped):
                self._reference_block()
                active = [self.first]
            else:
                break
            self._decide(active, rounds)
            if not self._late():
                self.rest.after(self.reference.levels)

    def _take_up_again(self, rounds: int) -> None:
        """Networks that were done, where the others' rounds have shown the device to be quicker.

        What was its usual speed in their rounds is then none, and too few of them count.
        """
        if self._late() or rounds >= (1 + RETAKES) * self.protocol.max_rounds:
            return
        for series in self._healthy():
            done = int(series.steady(self.reference).sum()) if series.visits else 0
            if series.stopped == "interval" and done < self._enough:
                series.stopped = ""

    @property
    def _enough(self) -> int:
        """Rounds that must count before an interval is looked at."""
        return max(2, self.protocol.min_rounds)

    def _healthy(self) -> list[Series]:
        return [s for s in self.others if s.error is None]

    def _late(self) -> bool:
        return self.clock() > self.deadline

    def _warm_up(self) -> None:
        """Run everything a few times, and make blocks of short networks longer."""
        every = [self.first, *self.others]
        found = [self._block(s, max(1, self.protocol.warmup), energy=False) for s in every]
        times = [v.latency_ms for v in found]
        good = [ms for ms in times if not math.isnan(ms)]
        if not good or self.first.error is not None:
            return
        # The fastest of more runs is faster: all get as many, where that counts.
        wanted = min(BLOCK_MS / min(good), 4 * BLOCK_MS / times[0])
        for series, own, ms in zip(every, found, times, strict=True):
            if series.error is None:
                runs = _watched_runs(ms) if own.watched else math.ceil(wanted)
                series.runs = max(self.protocol.runs, min(runs, MOST_RUNS))

    def _block(self, series: Series, runs: int, *, energy: bool = True) -> Visit:
        """Several runs in a row (see `Visit`), then a window of energy.

        NaN with `series.error` if one fails.
        """
        try:
            found = visit(series.runner, runs)
            wrong = _wrong(found)
            self.no_energy = found.no_energy or self.no_energy
            if not wrong and energy and self.windows is not None:
                found = self._metered(series, found)
        except Exception as error:  # a runtime or a user's own profiler: anything may come
            series.error = f"a run failed: {type(error).__name__}: {error}"
            return _FAILED
        series.error = series.error or wrong or None
        return _FAILED if series.error else found

    def _metered(self, series: Series, found: Visit) -> Visit:
        """The visit with the energy that the meter tells; a meter that fails twice is left."""
        if found.energy_mj is not None:
            series.error = "the device measures energy itself; leave out meter to use that"
            return found
        runner = series.runner
        if isinstance(runner, Watched):  # in windows of energy nothing but it must run
            runner = runner.runner
        for attempt in range(2):
            if self.windows is None:
                break
            try:
                energy = self.windows.per_run(lambda runs: visit(runner, runs))
                return replace(found, energy_mj=energy)
            except MeterError as error:
                if attempt:
                    self.no_energy = str(error)
                    self.windows = None
        return found

    def _reference_block(self) -> int:
        """Visit the reference; the visit's number, or -1 where it failed."""
        found = self._block(self.first, self.first.runs)
        return -1 if self.first.error is not None else self.reference.add(found)

    def _round(self, order: list[Series]) -> None:
        before = self._reference_block()
        for start in range(0, len(order), self.protocol.between):
            if self.first.error is not None or (start and self._late()):
                return
            few = order[start : start + self.protocol.between]
            visits = [self._block(series, series.runs) for series in few]
            after = self._reference_block()
            for series, own in zip(few, visits, strict=True):
                if series.error is None and self.first.error is None:
                    series.add(before, own, after)
            before = after

    def _decide(self, active: list[Series], rounds: int) -> None:
        """Which of the active ones are done, and why."""
        protocol, late = self.protocol, self._late()
        self._learn_slopes()
        depend = Dependence.of(self._healthy(), self.reference)
        for series in active:
            if series.error is not None:
                continue
            done = self._alone() if series is self.first else 0
            if series.visits:
                done = int(series.steady(self.reference).sum())
            if done >= self._enough:
                if series is self.first:
                    _, low, high = self.reference.level(protocol.confidence)
                    narrow = (high - low) / 2 <= protocol.width
                else:
                    narrow = series.narrow(self.reference, protocol, depend)
                if narrow:
                    series.stopped = "interval"
                    continue
            if late:
                series.stopped = "time"
            elif done >= protocol.max_rounds or rounds >= (1 + RETAKES) * protocol.max_rounds:
                series.stopped = "rounds"

    def _learn_slopes(self) -> None:
        """How much what else is at work on the device slows each network down, by all visits."""
        every: list[Reference | Series] = [self.reference, *self._healthy()]
        told = [each for each in every if each.visits]
        visits = [each.visits for each in told]
        found = slopes(
            [np.log([v.latency_ms for v in each]) for each in visits],
            [np.array([v.slowed for v in each]) for each in visits],
        )
        for each, slope in zip(told, found, strict=True):
            each.slope = slope

    def _alone(self) -> int:
        return int((~self.reference.throttled()).sum())

    def results(self, keys: Sequence[str]) -> list[Measurement]:
        failed = self.first.error
        if failed is None and not self.reference.visits:
            failed = "no run finished"
        if failed is not None:
            reason = f"the reference (artifact {keys[0]!r}) has no figure: {failed}"
            return [Measurement(keys[0], error=failed)] + [
                Measurement(key, error=s.error or reason)
                for key, s in zip(keys[1:], self.others, strict=True)
            ]
        found = [self._reference_result(keys[0])]
        depend = Dependence.of(self._healthy(), self.reference)
        for key, series in zip(keys[1:], self.others, strict=True):
            series.no_energy = self.no_energy
            found.append(series.result(key, self.reference, self.protocol, depend))
        return found

    def _reference_result(self, key: str) -> Measurement:
        level, low, high = self.reference.level(self.protocol.confidence)
        energy = self.reference.energy(self.protocol.confidence)
        keep = ~self.reference.throttled()
        steady = self.reference.levels[keep]
        times = tuple(np.exp(steady).tolist())
        raw = as_timed(self.reference.visits, keep, self.reference.visits)
        notes = (unsteady(steady), f"no energy: {self.no_energy}" if self.no_energy else "")
        return Measurement(
            key=key,
            latency_ms=math.exp(level),
            latency_interval_ms=(bounded(low), bounded(high)),
            ratio=1.0,
            ratio_interval=(1.0, 1.0),
            samples_ms=times,
            reference_ms=times,
            raw_ms=raw,
            raw_reference_ms=raw,
            slowed=self.reference.slowed,
            energy_mj=None if energy is None else math.exp(energy[0]),
            energy_ratio=None if energy is None else 1.0,
            energy_ratio_interval=None if energy is None else (1.0, 1.0),
            stopped=self.first.stopped or _worst(s.stopped for s in self._healthy()),
            notes=tuple(note for note in notes if note),
        )


def _watched_runs(ms: float) -> int:
    """Runs in a row of a network that takes so long: those that are cold, and those that count."""
    return math.ceil(COLD_MS / ms) + max(COUNTED, math.ceil(COUNTED_MS / ms))


def _wrong(found: Visit) -> str:
    """What is wrong with a visit's figures; "" for nothing."""
    for what, value in (("milliseconds", found.latency_ms), ("millijoules", found.energy_mj)):
        if value is not None and not is_time(value):
            return f"a run must take a positive, finite number of {what}; got {value}"
    return ""


def _worst(reasons: Iterable[str]) -> str:
    given = set(reasons)
    return next((r for r in ("time", "rounds", "interval") if r in given), "")
