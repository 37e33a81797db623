"""Kernel times that another table of the same device has measured, taken over.

Kernels of one signature take the same time in any network, up to the machine's speed at the time
of measuring: a table's times are freed of its own drift, and then moved as a whole to where the
shapes that both have measured agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.device import DeviceSpec
from autoprune.core.workload import Ints
from autoprune.cost.layout import Layout, work
from autoprune.cost.pooling import Run, medians, pool

if TYPE_CHECKING:
    from autoprune.cost.table import LatencyTable

#: No table is taken to be further off than this (log).
_FAR = 0.5
#: Networks that share less of the arithmetic than this have nothing to tell each other.
_SHARED = 0.05


@dataclass(frozen=True, eq=False)
class Borrowed:
    """A run of another network.

    Attributes:
        layout: of that network.
        kept: (G,) kept units.
        times: (K,) each kernel's time in ms, freed of the drift within its table.
    """

    layout: Layout
    kept: Ints
    times: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        times = [float(f"{t:.6g}") for t in self.times.tolist()]
        return {
            "network": self.layout.fingerprint,
            "kept": self.kept.tolist(),
            "kernel_ms": times,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Borrowed:
        """The inverse of `to_dict`."""
        layout = layouts[str(data["network"])]
        return cls(
            layout, np.array(data["kept"], dtype=np.int64), np.array(data["kernel_ms"], dtype=float)
        )


def borrow(table: LatencyTable, device: DeviceSpec) -> list[Borrowed]:
    """The runs whose kernels were timed, of a table and those it had borrowed itself.

    Raises:
        TableMismatchError: the table is of another device.
    """
    from autoprune.cost.format import refuse_other

    refuse_other(table.device, device, "whose kernels are to be reused")
    own = [Borrowed(run.layout, run.kept, run.times) for run in steady_runs(table)]
    return [*own, *table.borrowed]


def borrow_for(
    layout: Layout, tables: Sequence[LatencyTable], device: DeviceSpec
) -> tuple[list[Borrowed], list[str]]:
    """What tables of a device know of a network's kernels.

    A run that one table measured and others took over counts once.

    Args:
        layout: of the network.
        tables: of the device.
        device: that the network is measured on.

    Returns:
        Runs of networks that share kernels with it, and names of the tables they are of.

    Raises:
        TableMismatchError: a table is of another device.
    """
    wanted = _arithmetic(layout)
    measured = {fingerprint for table in tables for fingerprint in table.layouts}
    found: list[Borrowed] = []
    names: list[str] = []
    for table in tables:
        known = [
            run
            for run in borrow(table, device)
            if sum(wanted.get(s, 0.0) for s in run.layout.by_signature) >= _SHARED
            and (run.layout.fingerprint in table.layouts or run.layout.fingerprint not in measured)
        ]
        if known:
            found += known
            measured.update(run.layout.fingerprint for run in known)
            model = table.info.get("model")
            named = model.get("name") if isinstance(model, Mapping) else model
            names.append(str(named or table.info.get("network") or "unnamed"))
    return found, names


def _arithmetic(layout: Layout) -> dict[str, float]:
    """Each signature's share of a dense network's multiply-accumulates."""
    macs = {
        signature: float(
            work(
                [layout.kernels[i] for i in indices], layout.channels(indices, layout.units[None])
            )[:, :, 0].sum()
        )
        for signature, indices in layout.by_signature.items()
    }
    total = sum(macs.values()) or 1.0
    return {signature: value / total for signature, value in macs.items()}


def steady_runs(table: LatencyTable) -> list[Run]:
    """A table's own runs whose kernels were timed, freed of the drift among them."""
    return [Run(r.layout, r.kept, r.times / scale) for r, scale in table.timed_runs()]


def aligned(borrowed: Sequence[Borrowed], own: Sequence[Run]) -> list[Run]:
    """Borrowed runs as if measured when a table's own ones were.

    One factor for each network, the weighted median over the shapes that both have measured; 1
    where there are none.
    """
    times = median_times(own)
    result = []
    for fingerprint in dict.fromkeys(b.layout.fingerprint for b in borrowed):
        runs = [
            Run(b.layout, b.kept, b.times) for b in borrowed if b.layout.fingerprint == fingerprint
        ]
        theirs = median_times(runs)
        both = [shape for shape in theirs if shape in times]
        factor = 1.0
        if both:
            logs = np.array([np.log(times[s] / theirs[s]) for s in both])
            weight = np.array([times[s] for s in both])
            middle = medians(np.zeros(len(both), dtype=np.intp), logs, weight, 1)[0]
            factor = float(np.exp(np.clip(middle, -_FAR, _FAR)))
        result += [Run(r.layout, r.kept, r.times * factor) for r in runs]
    return result


def median_times(runs: Sequence[Run]) -> dict[tuple[str, tuple[int, ...]], float]:
    """Median time of each shape of each signature, where it takes any."""
    result = {}
    for signature, one in pool(runs).items():
        shapes, inverse = one.shapes()
        for i, shape in enumerate(shapes.tolist()):
            median = float(np.median(one.t[inverse == i]))
            if median > 0:
                result[signature, tuple(shape)] = median
    return result
