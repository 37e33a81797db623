"""What a latency table holds: measured candidates, as they were measured."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core.device import Measurement
from autoprune.core.workload import Ints
from autoprune.cost.align import charge
from autoprune.cost.layout import Layout

#: Relative standard deviation of a ratio whose measurement tells none; and the least believed.
_UNKNOWN, LEAST = 0.02, 0.001


@dataclass(frozen=True)
class Observation:
    """One candidate measured end to end.

    Attributes:
        network: fingerprint of its layout.
        kept: kept units by group, in the network's order.
        ratio: latency over the reference's, measured beside it.
        std: standard deviation of the ratio.
        samples_ms: raw repeats.
        reference_ms: the reference's, beside each of them.
        kernel_ms: each kernel's own time in ms, in the layout's order; () where not profiled.
        energy_mj: for one forward pass, or None.
        origin: "build" (fitted), "check" (held out, then fitted too) or "verified" (a search's).
        energy_ratio: energy over the reference's, measured beside it, or None.
        energy_std: standard deviation of that ratio, or None.
        common_std: as of `Measurement`.
        raw_ms: likewise.
        raw_reference_ms: likewise.
        batch: a name shared by those that were measured beside the same sessions of the reference;
            "" where that is not known.
        notes: what is to be known of the figures: rounds that were left out since the device was
            throttled, nodes that ran elsewhere, why there is no energy.
    """

    network: str
    kept: tuple[int, ...]
    ratio: float
    std: float
    samples_ms: tuple[float, ...] = ()
    reference_ms: tuple[float, ...] = ()
    kernel_ms: tuple[float, ...] = ()
    energy_mj: float | None = None
    origin: str = field(default="build")
    energy_ratio: float | None = None
    energy_std: float | None = None
    notes: tuple[str, ...] = ()
    batch: str = ""
    common_std: float = 0.0
    raw_ms: tuple[float, ...] = ()
    raw_reference_ms: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, layout: Layout, kept: Ints, measurement: Measurement, origin: str, batch: str = ""
    ) -> Observation:
        """Read a successful measurement; runtime nodes are charged to the network's kernels."""
        times: tuple[float, ...] = ()
        if measurement.kernels:
            charged = charge(layout, kept, measurement.kernels)
            times = tuple(float(f"{t:.6g}") for t in charged)
        return cls(
            layout.fingerprint,
            tuple(int(k) for k in kept),
            float(measurement.ratio),
            float(ratio_std(measurement)),
            _rounded(measurement.samples_ms),
            _rounded(measurement.reference_ms),
            times,
            measurement.energy_mj,
            origin,
            *energy_ratio_of(measurement),
            measurement.notes,
            batch,
            float(f"{measurement.common_std:.3g}"),
            _rounded(measurement.raw_ms),
            _rounded(measurement.raw_reference_ms),
        )

    def is_dense(self, layout: Layout) -> bool:
        """Whether it is the dense network of a layout."""
        return self.network == layout.fingerprint and self.kept == tuple(layout.units.tolist())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is empty is left out."""
        data = {
            "network": self.network,
            "origin": self.origin,
            "kept": list(self.kept),
            "ratio": self.ratio,
            "std": self.std,
            "samples_ms": list(self.samples_ms),
            "reference_ms": list(self.reference_ms),
            "kernel_ms": list(self.kernel_ms),
            "energy_mj": self.energy_mj,
            "energy_ratio": self.energy_ratio,
            "energy_std": self.energy_std,
            "notes": list(self.notes),
            "batch": self.batch,
            "common_std": self.common_std or None,
            "raw_ms": list(self.raw_ms),
            "raw_reference_ms": list(self.raw_reference_ms),
        }
        return {k: v for k, v in data.items() if v is not None and v != [] and v != ""}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Observation:
        """The inverse of `to_dict`."""
        return cls(
            str(data["network"]),
            tuple(int(k) for k in data["kept"]),
            float(data["ratio"]),
            float(data["std"]),
            _floats(data.get("samples_ms", ())),
            _floats(data.get("reference_ms", ())),
            _floats(data.get("kernel_ms", ())),
            _number(data.get("energy_mj")),
            str(data["origin"]),
            _number(data.get("energy_ratio")),
            _number(data.get("energy_std")),
            tuple(str(note) for note in data.get("notes", ())),
            str(data.get("batch", "")),
            float(data.get("common_std", 0.0)),
            _floats(data.get("raw_ms", ())),
            _floats(data.get("raw_reference_ms", ())),
        )


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def energy_ratio_of(measurement: Measurement) -> tuple[float | None, float | None]:
    """A measurement's energy ratio and its standard deviation, each None where it is not told."""
    ratio, interval = measurement.energy_ratio, measurement.energy_ratio_interval
    if ratio is None or interval is None:
        return ratio, None
    low, high = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return ratio, None
    return ratio, max((high - low) / (2 * 1.96), LEAST * ratio)


def batch_name(measurements: Sequence[Measurement]) -> str:
    """A short name of what was measured in one call, by what was measured (hexadecimal)."""
    figures = [(m.latency_ms, m.ratio, m.samples_ms) for m in measurements]
    return hashlib.sha256(repr(figures).encode()).hexdigest()[:8]


def usable(measurement: Measurement) -> bool:
    """Whether a measurement gives a finite, positive ratio."""
    return measurement.ok and math.isfinite(measurement.ratio) and measurement.ratio > 0


def ratio_std(measurement: Measurement) -> float:
    """Standard deviation of a measured ratio, from its interval, else from its repeats."""
    low, high = measurement.ratio_interval
    if math.isfinite(low) and math.isfinite(high) and high >= low:
        std = (high - low) / (2 * 1.96)
    else:
        each = ratios(measurement)
        std = (
            float(np.std(each, ddof=1) / math.sqrt(len(each)))
            if len(each) > 2
            else _UNKNOWN * measurement.ratio
        )
    return max(std, LEAST * measurement.ratio)


def ratios(measured: Observation | Measurement) -> list[float]:
    """The ratio in each round."""
    pairs = zip(measured.samples_ms, measured.reference_ms, strict=False)
    return [sample / reference for sample, reference in pairs if reference > 0]
