"""What a run's table tells of its winner: plateaus, and times where none can be measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autoprune.core.workload import Ints
from autoprune.cost.signatures import HEAVY
from autoprune.cost.table import LatencyTable

#: A network is as quick as another where the table's ratios differ by less than this.
SAME = 0.001


def plateaus(table: LatencyTable, kept: Mapping[str, int]) -> list[dict[str, Any]]:
    """Groups that were pruned further than they had to be for the time they take.

    Each group is widened alone, the others as they are, as long as the table's prediction for the
    network stays within `SAME` of the dense network's latency.

    Args:
        table: of the network.
        kept: units that the winner keeps, by group.

    Returns:
        For each such group: its name, kept units, how many it could keep, units, and the layers
        whose output channels these are.
    """
    layout = table.reference
    row = _row(layout.groups, layout.units, kept)
    found = []
    for index, group in enumerate(layout.groups):
        units = int(layout.units[index])
        if row[index] >= units:
            continue
        counts = np.arange(row[index], units + 1)
        rows = np.repeat(row[None], len(counts), axis=0)
        rows[:, index] = counts
        ratio = table.predict_ratio(layout, rows)[0]
        above = np.flatnonzero(ratio > ratio[0] + SAME)
        could = int(counts[above[0] - 1] if len(above) else units)
        if could > row[index]:
            made = [
                k.layer
                for k in layout.kernels
                if k.op in HEAVY and len(k.weight) > 1 and index in k.weight[1]
            ]
            found.append(
                {
                    "group": group,
                    "kept": int(row[index]),
                    "could_keep": could,
                    "of": units,
                    "layers": list(dict.fromkeys(made)),
                }
            )
    return found


def recorded_times(table: LatencyTable, kept: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Layer → its time in the dense network and in the winner, by the table's measured records.

    For each kernel the record counts whose channel counts there come closest to the winner's;
    each record is freed of the machine's drift by its ratio to the dense network.

    Returns:
        Milliseconds; {} where the table holds no kernel times.
    """
    layout = table.reference
    timed = [o for o in table.observations if o.kernel_ms and o.network == layout.fingerprint]
    if not timed:
        return {}
    all_kept = np.array([o.kept for o in timed], dtype=np.int64)
    times = np.array(
        [np.array(o.kernel_ms) / sum(o.kernel_ms) * o.ratio * table.reference_ms for o in timed]
    )
    row = _row(layout.groups, layout.units, kept)
    found: dict[str, tuple[float, float]] = {}
    last = ""
    for index, kernel in enumerate(layout.kernels):
        shapes = layout.channels([index], np.vstack([all_kept, row, layout.units]))[:, 0]
        own = shapes[:-2].astype(np.float64)
        near = [
            int((np.abs(own - w) / np.maximum(w, 1)).max(axis=1).argmin())
            for w in (shapes[-1], shapes[-2])
        ]
        last = kernel.layer if kernel.op in HEAVY else last
        if not last:
            continue
        dense, pruned = found.get(last, (0.0, 0.0))
        found[last] = (dense + float(times[near[0], index]), pruned + float(times[near[1], index]))
    return found


def _row(groups: tuple[str, ...], units: Ints, kept: Mapping[str, int]) -> Ints:
    return np.array(
        [kept.get(g, int(u)) for g, u in zip(groups, units, strict=True)], dtype=np.int64
    )
