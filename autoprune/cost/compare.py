"""Two latency tables side by side: whether one predicts the other, and merging them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import TableError, TableMismatchError
from autoprune.cost.borrow import median_times, steady_runs
from autoprune.cost.format import refuse_other
from autoprune.cost.noise import halves_apart
from autoprune.cost.pooling import medians
from autoprune.cost.records import Observation
from autoprune.cost.table import LatencyTable

#: Kernels' times repeat no better than this (relative), and tables differ where the difference
#: is this many standard deviations.
_KERNEL_NOISE, _BEYOND = 0.03, 3.0
#: Predictions of another table's candidates agree where this much of them lies in 90 % intervals,
#: or where their median error is below so many times what the tables' own uncertainty explains.
_INSIDE, _EXPLAINED = 0.75, 2.0
#: The median of what is normally distributed, without its sign, in standard deviations.
_MEDIAN = 0.6745


@dataclass(frozen=True)
class Agreement:
    """How well one table predicts the candidates that another has measured.

    Attributes:
        candidates: of the other table, of networks that both know.
        median_error: median of |predicted / measured − 1|.
        p90_error: its 90 % quantile.
        bias: median of predicted / measured − 1.
        inside: fraction within the 90 % interval of prediction and measurement.
        limit: median error that both tables' own uncertainty explains: twice the largest of what
            their standard deviations say, their errors on candidates they had held out, and their
            noise. Intervals are of the rounds of one session; those of another day, or another
            load, scatter by more.
    """

    candidates: int
    median_error: float
    p90_error: float
    bias: float
    inside: float
    limit: float

    @property
    def agrees(self) -> bool:
        """Whether the tables tell the same, as far as they know."""
        return self.inside >= _INSIDE or self.median_error <= self.limit


@dataclass(frozen=True)
class KernelDifference:
    """Kernels of one signature in two tables.

    Attributes:
        signature: of the kernels.
        share: fraction of the first table's kernel time on the shapes that both have.
        ratio: the second's time over the first's, the whole device's factor taken out.
        noise: standard deviation of that ratio.
        shapes: that both have measured.
    """

    signature: str
    share: float
    ratio: float
    noise: float
    shapes: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the tables differ here by more than they repeat."""
        return abs(math.log(self.ratio)) > _BEYOND * self.noise


@dataclass(frozen=True)
class Difference:
    """Two tables compared.

    Attributes:
        device: fields in which the devices differ, as (first's, second's).
        details: the same of what is told but not compared (driver, clocks, ...).
        reference_ms: of both.
        same_network: whether ratios are to the same network's dense form.
        speed: the second's kernel times over the first's; NaN where no shape is in both.
        forward: the first's predictions of the second's candidates, or None.
        backward: the other way round, or None.
        kernels: by share of time, the largest first.
    """

    device: dict[str, tuple[object, object]]
    details: dict[str, tuple[object, object]]
    reference_ms: tuple[float, float]
    same_network: bool
    speed: float
    forward: Agreement | None
    backward: Agreement | None
    kernels: tuple[KernelDifference, ...]

    @property
    def beyond_noise(self) -> bool:
        """Whether the second table tells something else than the first."""
        told = [a for a in (self.forward, self.backward) if a is not None]
        if self.device or not self.same_network or not told:
            return True
        return not all(a.agrees for a in told)


def agreement(table: LatencyTable, other: LatencyTable) -> Agreement | None:
    """A table's predictions of another's candidates; None where they share no network.

    Candidates that both have measured count too, but the dense one does not: it is 1 in both.
    """
    errors, spreads = [], []
    for fingerprint, layout in other.layouts.items():
        mine = [o for o in other.observations if o.network == fingerprint]
        mine = [o for o in mine if o.kept != tuple(layout.units.tolist())]
        if fingerprint not in table.layouts or not mine:
            continue
        kept = np.array([o.kept for o in mine], dtype=np.int64)
        mean, std, _ = table.predict_ratio(table.layouts[fingerprint], kept)
        ratio, noise = np.array([o.ratio for o in mine]), np.array([o.std for o in mine])
        errors.append(mean / ratio - 1.0)
        spreads.append(np.hypot(std, other.measuring_std(layout, kept, noise)) / ratio)
    if not errors:
        return None
    signed, spread = np.concatenate(errors), np.concatenate(spreads)
    explained = [_MEDIAN * float(np.median(spread)), *_own(table), *_own(other)]
    return Agreement(
        len(signed),
        float(np.median(np.abs(signed))),
        float(np.quantile(np.abs(signed), 0.9)),
        float(np.median(signed)),
        float((np.abs(signed) <= 1.645 * spread).mean()),
        _EXPLAINED * max(explained),
    )


def _own(table: LatencyTable) -> tuple[float, float]:
    """A table's error on what it had held out, and its noise; 0 where it tells none."""
    stated = (table.info.get("accuracy") or {}).get("median_error") or 0.0
    noise = halves_apart(table.observations)
    return float(stated), noise if np.isfinite(noise) else 0.0


def difference(first: LatencyTable, second: LatencyTable) -> Difference:
    """Compare two tables.

    Raises:
        TableError: one of them holds no measured candidate.
    """
    ours, theirs = dict(first.device.details), dict(second.device.details)
    names = sorted(ours.keys() | theirs.keys())
    same = first.reference.fingerprint == second.reference.fingerprint
    speed, kernels = _kernels(first, second)
    return Difference(
        first.device.differences(second.device),
        {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)},
        (first.reference_ms, second.reference_ms),
        same,
        speed,
        agreement(first, second) if same else None,
        agreement(second, first) if same else None,
        kernels,
    )


def _kernels(
    first: LatencyTable, second: LatencyTable
) -> tuple[float, tuple[KernelDifference, ...]]:
    ours, theirs = (median_times(steady_runs(table)) for table in (first, second))
    both = [shape for shape in ours if shape in theirs]
    if not both:
        return math.nan, ()
    logs = np.array([math.log(theirs[s] / ours[s]) for s in both])
    time = np.array([ours[s] for s in both])
    speed = float(medians(np.zeros(len(both), dtype=np.intp), logs, time, 1)[0])
    found = []
    for signature in dict.fromkeys(s for s, _ in both):
        rows = np.array([s == signature for s, _ in both])
        left, weight = logs[rows] - speed, time[rows]
        middle = float(medians(np.zeros(len(left), dtype=np.intp), left, weight, 1)[0])
        spread = max(1.48 * float(np.median(np.abs(left - middle))), _KERNEL_NOISE)
        noise = max(1.25 * spread / math.sqrt(len(left)), _KERNEL_NOISE / 3)
        share = float(weight.sum() / time.sum())
        found.append(KernelDifference(signature, share, math.exp(middle), noise, len(left)))
    return math.exp(speed), tuple(sorted(found, key=lambda k: -k.share))


def merge(tables: Sequence[LatencyTable]) -> LatencyTable:
    """One table of several of the same device and network.

    The first one's dense latency stays the reference. `info["merged"]` tells the parts, and
    `info["accuracy"]` is dropped: every candidate is fitted now.

    Raises:
        TableError: fewer than two tables.
        TableMismatchError: of another device, or ratios to another network.
    """
    if len(tables) < 2:
        raise TableError(f"merging must be of two tables or more, got {len(tables)}")
    first = tables[0]
    result = LatencyTable(first.device, first.reference_ms, first.info)
    result.reference_energy = first.reference_energy
    seen: set[Observation] = set()
    parts = []
    for number, table in enumerate(tables):
        refuse_other(table.device, first.device, f"number {number + 1} to merge")
        if table.reference.fingerprint != first.reference.fingerprint:
            raise TableMismatchError(
                "tables to merge must be relative to the same network and batch; number "
                f"{number + 1} is to {table.reference.fingerprint}, the first to "
                f"{first.reference.fingerprint}"
            )
        for fingerprint, layout in table.layouts.items():
            result.layouts.setdefault(fingerprint, layout)
        new = [o for o in table.observations if o not in seen]
        seen.update(new)
        result.observations += new
        result.borrowed += table.borrowed
        parts.append(
            {
                "candidates": len(new),
                "reference_ms": table.reference_ms,
                "build": table.info.get("build"),
                "accuracy": table.info.get("accuracy"),
            }
        )
    result.info["merged"] = parts
    result.info.pop("accuracy", None)
    result.info.pop("build", None)
    return result
