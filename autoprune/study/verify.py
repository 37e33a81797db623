"""Measured end to end before it is believed: which candidates, and whether they hold the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.device import Measurement
from autoprune.core.trial import Trial

#: Metrics that only the device can tell; the others are counted exactly.
MEASURED = ("latency_ms", "energy_mj")

#: What holds its bound within its interval is measured again, so many times as long.
EFFORTS = (1.0, 3.0, 9.0)

#: Measures candidates end to end against the dense network; `effort` scales the time taken.
Measure = Callable[[Sequence[Candidate], float], list[Measurement]]


@dataclass(frozen=True)
class Verification:
    """What measuring says of one network.

    Attributes:
        measurement: against the dense network.
        reference_ms: the dense network's latency, of which the ratio is taken.
    """

    measurement: Measurement
    reference_ms: float

    @property
    def latency_ms(self) -> float:
        """The ratio times the reference: drift of the machine since then cancels."""
        return self.measurement.ratio * self.reference_ms

    @property
    def interval_ms(self) -> tuple[float, float]:
        """Its confidence interval."""
        low, high = self.measurement.ratio_interval
        return low * self.reference_ms, high * self.reference_ms

    @property
    def energy_interval_mj(self) -> tuple[float, float] | None:
        """Confidence interval of the energy; None where none is told.

        A profiler that tells energy without a ratio to the dense network's is taken at its word.
        """
        energy, ratio = self.measurement.energy_mj, self.measurement.energy_ratio
        interval = self.measurement.energy_ratio_interval
        if energy is None or ratio is None or interval is None:
            return None if energy is None else (energy, energy)
        return interval[0] * energy / ratio, interval[1] * energy / ratio

    def __str__(self) -> str:
        """What was measured, for people."""
        if not self.measurement.ok:
            return f"not measured, {self.measurement.error}"
        low, high = self.interval_ms
        # Networks of microseconds need more decimals than those of milliseconds.
        form = ".3f" if low >= 0.1 else ".3g"
        return f"measured {self.latency_ms:{form}} ms ({low:{form}} to {high:{form}})"

    def cost(self, predicted: Cost) -> Cost:
        """The predicted cost with what was measured in its place."""
        estimates = dict(predicted.estimates)
        low, high = self.interval_ms
        if self.measurement.ok:
            # Intervals are two-sided at 95 %: 1.96 standard deviations each way.
            std = (high - low) / 2 / 1.959964
            estimates["latency_ms"] = Estimate(self.latency_ms, std, "measured")
            energy, interval = self.measurement.energy_mj, self.energy_interval_mj
            if energy is not None and interval is not None:
                std = (interval[1] - interval[0]) / 2 / 1.959964
                estimates["energy_mj"] = Estimate(energy, std, self.measurement.energy_source)
        return Cost(estimates)

    def violations(self, budget: Budget, predicted: Cost) -> dict[str, float]:
        """By how much each bound is broken by the measured upper bound; above 0 is broken.

        What is counted exactly is compared as it is. A metric that should have been measured and
        was not is broken infinitely.
        """
        result = {}
        for metric, limit in budget.limits.items():
            if metric == "latency_ms":
                value = self.interval_ms[1] if self.measurement.ok else math.inf
            elif metric == "energy_mj":
                interval = self.energy_interval_mj if self.measurement.ok else None
                value = math.inf if interval is None else interval[1]
            else:
                known = predicted.get(metric)
                value = math.inf if known is None else known
            result[metric] = value / limit.value - 1.0
        return result

    def undecided(self, budget: Budget) -> bool:
        """Whether an interval, of latency or energy, holds its bound: measuring longer may tell."""
        return any(low <= bound < high for (low, high), bound in self._bounded(budget))

    def held(self, budget: Budget) -> bool:
        """Whether each interval, of latency and energy, is within its bound."""
        bounded = self._bounded(budget)
        told = self.measurement.ok and len(bounded) == len(budget.limits.keys() & set(MEASURED))
        return told and all(high <= bound for (_, high), bound in bounded)

    def _bounded(self, budget: Budget) -> list[tuple[tuple[float, float], float]]:
        """Intervals of what was measured, each with its bound; none for what is not told."""
        if not self.measurement.ok:
            return []
        intervals = {"latency_ms": self.interval_ms, "energy_mj": self.energy_interval_mj}
        return [
            (interval, budget.limits[metric].value)
            for metric, interval in intervals.items()
            if interval is not None and metric in budget.limits
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the runtime's times of single kernels are left out."""
        data = asdict(replace(self.measurement, kernels=()))
        del data["kernels"]
        return {
            "reference_ms": self.reference_ms,
            "measurement": {name: _plain(value) for name, value in data.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verification:
        """The inverse of `to_dict`."""
        given = {}
        for name, value in data["measurement"].items():
            if isinstance(value, list):
                value = tuple(math.nan if v is None else v for v in value)
            if name.endswith(("_interval", "_interval_ms")) and value is not None:
                value = tuple(map(float, value))
            elif name in ("latency_ms", "ratio") and value is None:
                value = math.nan
            given[name] = value
        return cls(Measurement(**given), data["reference_ms"])


def _plain(value: object) -> object:
    """JSON has no NaN (None), no infinity (the word) and no tuples."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def holds(violations: Mapping[str, float]) -> bool:
    """Whether no bound is broken."""
    return all(value <= 0 for value in violations.values())


def ranked(trials: Iterable[Trial], merit: str | Callable[[Trial], float]) -> list[Trial]:
    """Trials evaluated in full, the best first, each candidate once; the earliest of equals.

    Args:
        trials: of a search.
        merit: the metric, or what gives the merit of a trial (`Searcher.merit`).
    """

    def key(trial: Trial) -> tuple[float, int]:
        value = trial.score(merit) if isinstance(merit, str) else merit(trial)
        return -value, trial.number

    order = sorted((t for t in trials if t.whole), key=key)
    seen: set[str] = set()
    found = []
    for trial in order:
        if trial.candidate.key not in seen:
            seen.add(trial.candidate.key)
            found.append(trial)
    return found


def measure_until_decided(
    measure: Measure,
    candidates: Sequence[Candidate],
    budget: Budget,
    reference_ms: float | None,
    *,
    every: bool = False,
) -> list[Verification]:
    """Measure candidates; those whose interval holds the bound again, for longer.

    That takes many times as long, and so is done only of those before the first that holds.

    Args:
        measure: the device.
        candidates: distinct, the best first.
        budget: absolute.
        reference_ms: the dense network's latency; None takes the one measured here.
        every: whether those behind one that holds are wanted too.
    """
    found = _verifications(measure(candidates, EFFORTS[0]), reference_ms)
    for effort in EFFORTS[1:]:
        open_ones = []
        for index, verification in enumerate(found):
            if verification.undecided(budget):
                open_ones.append(index)
            elif verification.held(budget) and not every:
                break
        if not open_ones:
            break
        again = measure([candidates[i] for i in open_ones], effort)
        reference = reference_ms if reference_ms is not None else found[0].reference_ms
        for index, verification in zip(open_ones, _verifications(again, reference), strict=True):
            if verification.measurement.ok:
                found[index] = verification
    return found


def measure_network_until_decided(
    measure: Callable[[float], tuple[Measurement, Measurement]],
    budget: Budget,
    reference_ms: float | None,
) -> tuple[Verification, Verification]:
    """Measure a network; again for longer while its interval holds the bound.

    One that fails when it is measured again is told as it was before.

    Args:
        measure: effort → the dense network's and its own.
        budget: absolute.
        reference_ms: the dense network's latency; None takes the one measured here.

    Returns:
        Of it, and of the dense network beside it.
    """

    def measured(effort: float) -> tuple[Verification, Verification]:
        dense, own = measure(effort)
        here = dense.latency_ms if dense.ok else math.nan
        reference = here if reference_ms is None else reference_ms
        return Verification(own, reference), Verification(dense, reference)

    found = measured(EFFORTS[0])
    for effort in EFFORTS[1:]:
        if not found[0].undecided(budget):
            break
        again = measured(effort)
        if again[0].measurement.ok:
            found = again
    return found


def _verifications(
    measurements: Sequence[Measurement], reference_ms: float | None
) -> list[Verification]:
    result = []
    for measurement in measurements:
        reference = reference_ms
        if reference is None:
            reference = measurement.latency_ms / measurement.ratio if measurement.ok else math.nan
        result.append(Verification(measurement, reference))
    return result
