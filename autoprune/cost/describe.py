"""A latency table in words and small numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost.format import read_header
from autoprune.cost.layout import Layout
from autoprune.cost.table import LatencyTable

#: Points of a group's curve.
_WIDTH = 24
#: At most so many of the measurements' notes are told, those of the most candidates first.
_SAID = 5


@dataclass(frozen=True)
class GroupRow:
    """A channel group of the reference network.

    Attributes:
        group: its name.
        units: in the dense network.
        measured: distinct kept counts among the measured candidates.
        share: of the dense latency, what keeping one unit alone saves.
        edges: right edges of the plateaus.
        curve: latency ratio as the kept units rise from 1 to all, between 0 and 1 of its range.
    """

    group: str
    units: int
    measured: int
    share: float
    edges: tuple[int, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """A table's header, what it covers, and its plateaus.

    Attributes:
        device: what it was measured on.
        details: what else is told of it.
        reference_ms: the dense network's latency.
        schema: of the file.
        written: when, UTC.
        autoprune_version: that wrote it.
        notes: further (name, text) lines.
        groups: of the reference network.
        info: as in the file.
    """

    device: str
    details: Mapping[str, str]
    reference_ms: float
    schema: int
    written: str
    autoprune_version: str
    notes: tuple[tuple[str, str], ...]
    groups: tuple[GroupRow, ...]
    info: Mapping[str, Any]


def describe(path: Path) -> Description:
    """Read a table and describe it.

    Raises:
        TableFormatError: it can't be read.
        TableError: it holds no candidate.
    """
    table = LatencyTable.load(path)
    header = read_header(path)
    layout = table.reference
    return Description(
        str(table.device),
        dict(table.device.details),
        table.reference_ms,
        int(header["schema"]),
        str(header.get("written", "unknown")),
        str(header.get("autoprune_version", "unknown")),
        tuple(_notes(table)),
        tuple(_row(table, layout, column) for column in range(len(layout.groups))),
        table.info,
    )


def _notes(table: LatencyTable) -> list[tuple[str, str]]:
    info = table.info
    notes: list[tuple[str, str]] = []
    for name in ("network", "model", "inputs", "protocol", "conditions"):
        if name in info:
            told = info[name]
            notes.append((name, _flat(told) if isinstance(told, Mapping) else str(told)))
    error = info.get("accuracy")
    if isinstance(error, Mapping):
        noise = error.get("noise")
        beside = "" if noise is None else f"; noise {noise:.1%}"
        notes.append(
            (
                "error",
                f"median {error['median_error']:.1%}, 90 % below {error['p90_error']:.1%}, on "
                f"{error['candidates']} held-out candidates{beside}",
            )
        )
    build = info.get("build")
    if isinstance(build, Mapping):
        why = {
            "error": "the error aimed at",
            "noise": "near the noise, where more bring little",
            "time": "the time",
            "candidates": "all candidates",
        }
        stopped = why.get(str(build.get("stopped")), str(build.get("stopped")))
        notes.append(
            ("measured", f"{build['candidates']} candidates in {build['seconds']:.0f} s: {stopped}")
        )
    for layout in table.layouts.values():
        mine = [o for o in table.observations if o.network == layout.fingerprint]
        origins = Counter(o.origin for o in mine)
        counts = ", ".join(f"{n} {origin}" for origin, n in origins.items())
        timed = sum(bool(o.kernel_ms) for o in mine)
        notes.append(
            (
                f"network {layout.fingerprint[:8]}",
                f"{len(layout.groups)} groups, {len(layout.kernels)} kernels of "
                f"{len(layout.by_signature)} signatures; {len(mine)} candidates ({counts}), "
                f"{timed} with kernel times, {sum(len(o.samples_ms) for o in mine)} rounds",
            )
        )
    said = Counter(note for o in table.observations for note in o.notes)
    for note, times in said.most_common(_SAID):
        notes.append((f"note of {times} candidate{'s' * (times > 1)}", note))
    if len(said) > _SAID:
        notes.append(("further notes", f"{len(said) - _SAID}, beside the candidates in the file"))
    if table.borrowed:
        networks = len({b.layout.fingerprint for b in table.borrowed})
        text = f"{len(table.borrowed)} runs of {networks} other networks' tables"
        notes.append(("kernels reused", text))
    notes.append(("predicts", ", ".join(table.metrics)))
    return notes


def _row(table: LatencyTable, layout: Layout, column: int) -> GroupRow:
    units = int(layout.units[column])
    counts = np.unique(np.linspace(1, units, min(units, _WIDTH)).round().astype(np.int64))
    kept = np.repeat(layout.units[None], len(counts), axis=0)
    kept[:, column] = counts
    ratio, _, _ = table.predict_ratio(layout, kept)
    low, high = float(ratio.min()), float(ratio.max())
    seen = {o.kept[column] for o in table.observations if o.network == layout.fingerprint}
    return GroupRow(
        layout.groups[column],
        units,
        len(seen),
        max(0.0, float(ratio[-1] - ratio[0])),
        tuple(table.layout_edges(layout, layout.groups[column])),
        tuple(((ratio - low) / max(high - low, 1e-12)).tolist()),
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> str:
    parts = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            parts.append(_flat(value, f"{prefix}{name} "))
        else:
            parts.append(f"{prefix}{name} {value}")
    return ", ".join(part for part in parts if part)
