"""The rounds of one network, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, geometric_mean

import numpy as np

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.profile.slopes import UNKNOWN, Slope
from autoprune.profile.statistics import autocorrelation, robust_mean
from autoprune.profile.throttling import Bools, Floats, throttled, told
from autoprune.profile.visits import Runner, Visit, Visitor

#: A round whose reference changed by more than this from before to after is taken again (or by
#: more than three times what is usual on this machine at this hour, where that is more).
DRIFT = 0.04

#: What slows the device down less than this (a logarithm) is not told.
BESIDE = 0.05

#: A network needs so many rounds that the device held still in.
FEWEST = 2

#: An estimate and the ends of its interval.
Interval = tuple[float, float, float]


@dataclass
class Reference:
    """The reference's visits, in the order of time.

    Attributes:
        visits: as they were told.
        slope: how much what else is at work on the device slows it down.
    """

    visits: list[Visit] = field(default_factory=list)
    slope: Slope = UNKNOWN
    # Of how many visits and which slope; their levels, and which the device was throttled in.
    _found: tuple[int, Slope, Floats, Bools] | None = field(default=None, init=False, repr=False)

    @property
    def levels(self) -> Floats:
        """(n,) logarithms of its latency in ms, on a device of its own."""
        return self._levels()[0]

    @property
    def slowed(self) -> float:
        """Logarithm of how many times slower the device usually was than on its own."""
        return float(np.mean([visit.slowed for visit in self.visits]))

    def add(self, visit: Visit) -> int:
        """Take in a visit.

        Returns:
            Its number.
        """
        self.visits.append(visit)
        return len(self.visits) - 1

    def throttled(self) -> Bools:
        """(n,) which visits the device was not at its usual speed in."""
        return self._levels()[1]

    def _levels(self) -> tuple[Floats, Bools]:
        """Both, worked out once: every network asks for them after each round."""
        if self._found is None or self._found[:2] != (len(self.visits), self.slope):
            levels = alone(self.visits, self.slope)
            self._found = len(self.visits), self.slope, levels, throttled(levels)
        return self._found[2:]

    def level(self, confidence: float) -> Interval:
        """Logarithm of the latency at the usual speed, and its interval."""
        keep = ~self.throttled()
        found = robust_mean(self.levels[keep], confidence)
        return widened(found, unsure(self.visits, keep, self.slope), confidence)

    def energy(self, confidence: float) -> Interval | None:
        """Logarithm of the energy at the usual speed, and its interval; None if not always told."""
        keep = ~self.throttled()
        values = [v.energy_mj for v, k in zip(self.visits, keep, strict=True) if k]
        if not values or any(e is None for e in values):
            return None
        return robust_mean(np.log(np.array(values, dtype=np.float64)), confidence)


@dataclass(frozen=True)
class Dependence:
    """How much a round's figures depend on the round before, on this machine at this hour.

    Attributes:
        latency: autocorrelation of the latency ratios.
        energy: of the energy ratios.
    """

    latency: float
    energy: float

    @classmethod
    def of(cls, series: Sequence[Series], reference: Reference) -> Dependence:
        """That of all networks' rounds together."""
        measured = [each for each in series if each.visits]
        return cls(
            autocorrelation([each.ratios(reference) for each in measured]),
            autocorrelation([each.energy_ratios(reference) for each in measured]),
        )


@dataclass
class Series:
    """A network's rounds: its figure in each, and the reference's visits around it."""

    runner: Runner | Visitor
    visits: list[Visit] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    slope: Slope = UNKNOWN
    stopped: str = ""
    error: str | None = None
    runs: int = 1  # in a row, in each visit
    no_energy: str = ""  # why its energy could not be read
    wide: set[str] = field(default_factory=set)  # intervals that were too wide when looked at

    def add(self, before: int, own: Visit, after: int) -> None:
        """Take in a round."""
        self.before.append(before)
        self.visits.append(own)
        self.after.append(after)

    def throttled(self, reference: Reference) -> Bools:
        """Which rounds the device was not at its usual speed in."""
        off = reference.throttled()
        return off[self.before] | off[self.after]

    def steady(self, reference: Reference) -> Bools:
        """Which rounds count: at the device's usual speed, the reference the same at both ends."""
        levels = reference.levels
        keep = ~self.throttled(reference)
        change = np.abs(levels[self.before] - levels[self.after])
        if not keep.any():
            return keep
        calm = keep & (change <= max(DRIFT, 3 * float(np.median(change[keep]))))
        return calm if 2 * calm.sum() > keep.sum() else keep

    def beside(self, reference: Reference) -> Floats:
        """(rounds,) the reference beside each: the geometric mean of before and after, log ms."""
        levels = reference.levels
        return np.asarray((levels[self.before] + levels[self.after]) / 2)

    def ratios(self, reference: Reference) -> Floats:
        """(steady rounds,) logarithms of the latency ratio, on a device of their own."""
        own = alone(self.visits, self.slope)
        return np.asarray((own - self.beside(reference))[self.steady(reference)])

    def energy_ratios(self, reference: Reference) -> Floats:
        """(steady rounds,) logarithms of the energy ratio; none if not told in each of them."""
        logs = []
        for index in np.flatnonzero(self.steady(reference)):
            around = [
                reference.visits[i].energy_mj for i in (self.before[index], self.after[index])
            ]
            told_mj = [e for e in (self.visits[index].energy_mj, *around) if e is not None]
            if len(told_mj) < 3:
                return np.zeros(0)
            own, first, last = (math.log(e) for e in told_mj)
            logs.append(own - (first + last) / 2)
        return np.array(logs)

    def ratio(self, reference: Reference, confidence: float, depend: Dependence) -> Interval:
        """Logarithm of the latency ratio over the steady rounds, and its interval."""
        found = robust_mean(self.ratios(reference), confidence, depend.latency)
        return widened(found, self.common_std(reference), confidence)

    def common_std(self, reference: Reference) -> float:
        """Standard deviation that the slopes' own give to the mean of `ratios`."""
        keep = self.steady(reference)
        beside = [reference.visits[i] for i in (*self.before, *self.after)]
        return math.hypot(
            unsure(self.visits, keep, self.slope),
            unsure(beside, np.concatenate([keep, keep]), reference.slope),
        )

    def energy_ratio(
        self, reference: Reference, confidence: float, depend: Dependence
    ) -> Interval | None:
        """Logarithm of the energy ratio; None where energy is not told in each steady round."""
        logs = self.energy_ratios(reference)
        return robust_mean(logs, confidence, depend.energy) if len(logs) else None

    def narrow(self, reference: Reference, protocol: MeasuringProtocol, depend: Dependence) -> bool:
        """Whether its intervals, of latency and of energy where told, are narrow enough."""
        found = {"latency": self.ratio(reference, protocol.confidence, depend)}
        energy = self.energy_ratio(reference, protocol.confidence, depend)
        if energy is not None:
            found["energy"] = energy
        wide = {name for name, (_, low, high) in found.items() if (high - low) / 2 > protocol.width}
        self.wide |= wide
        return not wide

    def _told(self, name: str, interval: Interval, protocol: MeasuringProtocol) -> Interval:
        """An interval as it is told: one that was waited for is not narrower than was asked for.

        Rounds that end when an interval is narrow enough end where its spread happens to be
        underestimated. An interval of the width that was asked for holds the truth as often as it
        says (Chow and Robbins, "On the Asymptotic Theory of Fixed-Width Sequential Confidence
        Intervals for the Mean", Annals of Mathematical Statistics 36 (1965)).
        """
        centre, low, high = interval
        if name not in self.wide or (high - low) / 2 >= protocol.width:
            return interval
        return centre, centre - protocol.width, centre + protocol.width

    def result(
        self, key: str, reference: Reference, protocol: MeasuringProtocol, depend: Dependence
    ) -> Measurement:
        """What its rounds come to; an error where there are too few to tell."""
        confidence = protocol.confidence
        if self.error is None and not self.visits:
            self.error = (
                f"the {protocol.timeout_s:g} s of timeout_s were over before its first round; "
                "allow more time, or measure fewer networks in a call"
            )
        if self.error is not None:
            return Measurement(key, error=self.error)
        keep, off = self.steady(reference), self.throttled(reference)
        how = ""
        if off.any():
            around = sorted({*np.array(self.before)[off], *np.array(self.after)[off]})
            slow = np.isin(np.arange(len(reference.levels)), around) & reference.throttled()
            how = told(reference.levels, slow)
        if keep.sum() < min(FEWEST, len(keep)):
            return Measurement(
                key,
                error=(
                    f"the device did not hold its speed: in {off.sum()} of {len(off)} rounds "
                    f"{how}, and it did not recover within timeout_s "
                    f"({protocol.timeout_s:g} s); let it cool, lock its clocks, or allow more time"
                ),
            )
        ratio = self.ratio(reference, confidence, depend)
        centre, low, high = self._told("latency", ratio, protocol)
        level = reference.level(confidence)
        middle = level[0] + centre
        below = math.hypot(centre - low, level[0] - level[1])
        above = math.hypot(high - centre, level[2] - level[0])
        energy = self.energy_ratio(reference, confidence, depend)
        energy = energy and self._told("energy", energy, protocol)
        dense = reference.energy(confidence)
        every = (*self.visits, *reference.visits)
        raw_before = as_timed([reference.visits[i] for i in self.before], keep, every)
        raw_after = as_timed([reference.visits[i] for i in self.after], keep, every)
        return Measurement(
            key=key,
            latency_ms=math.exp(middle),
            latency_interval_ms=(bounded(middle - below), bounded(middle + above)),
            ratio=math.exp(centre),
            ratio_interval=(bounded(low), bounded(high)),
            samples_ms=tuple(np.exp(alone(self.visits, self.slope)[keep]).tolist()),
            reference_ms=tuple(np.exp(self.beside(reference)[keep]).tolist()),
            energy_mj=math.exp(dense[0] + energy[0]) if energy and dense else None,
            energy_ratio=math.exp(energy[0]) if energy and dense else None,
            energy_ratio_interval=(
                (bounded(energy[1]), bounded(energy[2])) if energy and dense else None
            ),
            raw_ms=as_timed(self.visits, keep, every),
            raw_reference_ms=tuple(map(geometric_mean, zip(raw_before, raw_after, strict=True))),
            common_std=self.common_std(reference),
            stopped=self.stopped,
            slowed=reference.slowed,
            ratio_beside=self._beside(centre, reference),
            notes=self._notes(off, int(keep.sum()), how, protocol),
        )

    def _beside(self, centre: float, reference: Reference) -> float | None:
        """The ratio beside what else is at work on the device; None where that is hardly any."""
        if reference.slowed < BESIDE:
            return None
        return math.exp(centre + (self.slope.value - reference.slope.value) * reference.slowed)

    def _notes(
        self, off: Bools, kept: int, how: str, protocol: MeasuringProtocol
    ) -> tuple[str, ...]:
        notes = []
        if off.any():
            short = kept < protocol.min_rounds
            notes.append(
                f"{off.sum()} of {len(off)} rounds are left out, as the device did not hold its "
                f"speed ({how}); "
                + ("it did not recover in time, so that few are left" if short else "taken again")
            )
        if self.no_energy:
            notes.append(f"no energy: {self.no_energy}")
        return tuple(notes)


def alone(visits: Sequence[Visit], slope: Slope) -> Floats:
    """(n,) logarithms of the latency of visits, on a device of their own."""
    levels = np.log([visit.latency_ms for visit in visits])
    return levels - slope.value * np.array([visit.slowed for visit in visits])


def as_timed(visits: Sequence[Visit], keep: Bools, every: Sequence[Visit]) -> tuple[float, ...]:
    """Milliseconds of visits with what others cost; none where that is nothing in every one."""
    if not any(visit.slowed for visit in every):
        return ()
    return tuple(visit.latency_ms for visit, k in zip(visits, keep, strict=True) if k)


def unsure(visits: Sequence[Visit], keep: Bools, slope: Slope) -> float:
    """Standard deviation that the slope's own gives to the mean of `alone`."""
    slowed = np.array([visit.slowed for visit in visits])[keep]
    return slope.std * float(slowed.mean()) if len(slowed) else 0.0


def widened(interval: Interval, std: float, confidence: float) -> Interval:
    """An interval of a value that is unsure besides by a standard deviation."""
    centre, low, high = interval
    more = NormalDist().inv_cdf((1 + confidence) / 2) * std
    return centre, centre - math.hypot(centre - low, more), centre + math.hypot(high - centre, more)


def bounded(value: float) -> float:
    """The exponential, infinite where it is too large for a float."""
    return math.inf if value > 700 else math.exp(value)
