"""Why a pruned network is as fast as it is: each layer's time, dense against pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.core.errors import (
    AutopruneError,
    MissingDependencyError,
    ProfilerError,
    RunError,
    TableError,
)
from autoprune.cost.table import LatencyTable
from autoprune.profile.checked import device_of
from autoprune.profile.onnx_work import LayerWork, layer_work
from autoprune.profile.options import merged
from autoprune.study.again import exported, run_config
from autoprune.study.config import SearchConfig
from autoprune.study.folder import RunFolder
from autoprune.study.layer_times import LayerTime, Rates, by_layer
from autoprune.study.progress import Progress
from autoprune.study.quietly import measure_quietly
from autoprune.study.table import make_profiler
from autoprune.study.table_records import plateaus, recorded_times

#: Of `explain.json`.
SCHEMA = 1
#: A layer with less than this share of its work left is no faster if it takes more than `SLOW`.
FEWER, SLOW = 0.97, 0.97
#: Options of a device that make a network's arithmetic cheaper, and what they are without it.
CHEAPER: Mapping[str, object] = {"precision": "fp32", "sparse_weights": False}


def explain_run(run: str | Path, progress: Progress) -> dict[str, Any]:
    """Measure each layer of a finished run's network and of the dense one; what it tells.

    On the run's device; where that is not here or does not tell the times of kernels, from the
    records of the run's latency table.

    Returns:
        The content of `explain.json`, which is written into the run's folder.

    Raises:
        RunError: no finished run is there, or its network was never measured.
        ProfilerError: nothing tells the times of its layers.
    """
    folder = RunFolder.open(run)
    told = folder.read_result()
    config = run_config(folder)
    if not folder.dense_onnx.is_file() or not folder.onnx.is_file():
        raise RunError(
            f"the run {folder.path} has no measured network (dense.onnx and pruned.onnx); it was "
            "searched without a device. Search with a device to measure on"
        )
    works = [layer_work(path.read_bytes()) for path in (folder.dense_onnx, folder.onnx)]
    kept = {name: entry["kept"] for name, entry in told["winner"]["kept"].items()}
    notes: list[str] = []
    table = _table(folder, notes)
    measured = _measured(folder, config, progress, notes)
    data: dict[str, Any] = {"schema": SCHEMA, "run": str(folder.path)}
    if measured is not None:
        data |= _from_measured(works, measured)
        data["cheaper"] = _without_cheaper(folder, config, progress, works, measured, notes)
    else:
        data |= _from_table(works, table, kept)
        data["cheaper"] = None
    flat = [] if table is None else plateaus(table, kept)
    for row in data["layers"]:
        row["could_keep"] = next(
            (p["could_keep"] for p in flat if row["layer"] in p["layers"]), None
        )
    data |= {"plateaus": flat, "notes": notes}
    folder.write_json(folder.path / "explain.json", data)
    return data


def _table(folder: RunFolder, notes: list[str]) -> LatencyTable | None:
    if not folder.table.is_file():
        notes.append("the run has no latency table, so plateaus are told by measured times alone")
        return None
    try:
        return LatencyTable.load(folder.table)
    except TableError as error:
        notes.append(f"the run's latency table can't be read: {error}")
        return None


def _measured(
    folder: RunFolder, config: SearchConfig, progress: Progress, notes: list[str]
) -> list[Measurement] | None:
    """The dense and the pruned network with the times of their kernels, or None and why."""
    try:
        profiler = make_profiler(config)
        progress.stage(f"measuring each layer on {device_of(profiler)}")
        found = _measure(profiler, folder, config)
    except (ProfilerError, MissingDependencyError) as error:
        notes.append(f"the device can't measure now, the table's records are shown: {error}")
        return None
    wrong = next((m.error for m in found if not m.ok), None)
    if wrong is not None:
        notes.append(f"the network can't be measured, the table's records are shown: {wrong}")
        return None
    if not all(m.kernels for m in found):
        notes.append(
            f"{profiler.device} does not tell the times of single kernels; the table's records are "
            "shown"
        )
        return None
    return found


def _measure(profiler: Any, folder: RunFolder, config: SearchConfig) -> list[Measurement]:
    artifacts = exported(folder, config)
    protocol = replace(
        MeasuringProtocol(),
        width=config.verify.width,
        timeout_s=config.verify.timeout_s,
        seed=config.seed,
        kernels=True,
    )
    return measure_quietly(profiler, artifacts, protocol)


def _from_measured(
    works: list[dict[str, LayerWork]], measured: list[Measurement]
) -> dict[str, Any]:
    dense, pruned = (by_layer(m.kernels, work) for m, work in zip(measured, works, strict=True))
    pairs = [
        (times[name], work[name])
        for times, work in ((dense, works[0]), (pruned, works[1]))
        for name in times
    ]
    rates = Rates.of(pairs, [kernel for m in measured for kernel in m.kernels])
    return {
        "source": "measured",
        "dense_ms": measured[0].latency_ms,
        "pruned_ms": measured[1].latency_ms,
        "ratio": measured[1].ratio,
        "ratio_interval": list(measured[1].ratio_interval),
        "rates": {
            "gmacs_per_s": rates.macs_per_ms / 1e6,
            "gbytes_per_s": rates.bytes_per_ms / 1e6,
            "launch_us": 1e3 * rates.launch_ms,
        },
        "layers": [
            _layer(name, works, dense[name], pruned[name], rates)
            for name in works[0]
            if name in dense and name in pruned and name in works[1]
        ],
        "removed": _removed(works, {name: time.latency_ms for name, time in dense.items()}),
    }


def _from_table(
    works: list[dict[str, LayerWork]], table: LatencyTable | None, kept: Mapping[str, int]
) -> dict[str, Any]:
    """The same by the table's records.

    Raises:
        ProfilerError: it has none.
    """
    times = {} if table is None else recorded_times(table, kept)
    if not times:
        raise ProfilerError(
            "the times of layers must be measured on a device that tells them, or stand in the "
            "run's latency table; this run has neither. Explain it where its device is, or search "
            "with a device that tells them (PyTorch's mode compiled tells none, eager does)"
        )
    both = {
        name: (LayerTime(dense, ()), LayerTime(pruned, ()))
        for name, (dense, pruned) in times.items()
        if name in works[0] and name in works[1]
    }
    pairs = [
        pair for name, (d, p) in both.items() for pair in ((d, works[0][name]), (p, works[1][name]))
    ]
    rates = Rates.of(pairs, ())
    gone = _removed(works, {name: dense for name, (dense, _) in times.items()})
    dense_ms = sum(dense for dense, _ in times.values())
    pruned_ms = sum(pruned for name, (_, pruned) in times.items() if name not in gone)
    return {
        "source": "table",
        "dense_ms": dense_ms,
        "pruned_ms": pruned_ms,
        "ratio": pruned_ms / dense_ms,
        "ratio_interval": None,
        "rates": {
            "gmacs_per_s": rates.macs_per_ms / 1e6,
            "gbytes_per_s": rates.bytes_per_ms / 1e6,
            "launch_us": None,
        },
        "layers": [_layer(name, works, *both[name], rates) for name in works[0] if name in both],
        "removed": gone,
    }


def _removed(works: list[dict[str, LayerWork]], dense_ms: Mapping[str, float]) -> dict[str, float]:
    """Layer that the pruned network does without → its time in the dense network."""
    return {n: dense_ms[n] for n in works[0] if n in dense_ms and n not in works[1]}


def _layer(
    name: str,
    works: list[dict[str, LayerWork]],
    dense: LayerTime,
    pruned: LayerTime,
    rates: Rates,
) -> dict[str, Any]:
    before, after = works[0][name], works[1][name]
    slow = pruned.latency_ms > SLOW * dense.latency_ms
    return {
        "layer": name,
        "op": before.op,
        "dense_ms": dense.latency_ms,
        "pruned_ms": pruned.latency_ms,
        "dense_macs": before.macs,
        "pruned_macs": after.macs,
        "dense_channels": list(before.channels),
        "pruned_channels": list(after.channels),
        "macs_per_byte": after.macs / after.size_bytes,
        "bound": rates.bound(after),
        "no_faster": after.macs < FEWER * before.macs and slow,
        "fusion": None
        if dense.ops == pruned.ops
        else {"dense": list(dense.ops), "pruned": list(pruned.ops)},
    }


def _without_cheaper(
    folder: RunFolder,
    config: SearchConfig,
    progress: Progress,
    works: list[dict[str, LayerWork]],
    measured: list[Measurement],
    notes: list[str],
) -> dict[str, Any] | None:
    """What int8, fp16 or 2:4 sparsity brought: the pruned network without it; None without any."""
    if config.device is None:
        return None
    device, _, query = config.device.name.partition("?")
    options = merged(f"profiler {device!r}", query, config.device.options)
    used = {
        name: value
        for name, value in options.items()
        if name in CHEAPER and str(value).lower() != str(CHEAPER[name]).lower()
    }
    if not used:
        return None
    options |= {name: CHEAPER[name] for name in used}
    plain = config.model_copy(
        update={"device": config.device.model_copy(update={"name": device, "options": options})}
    )
    what = ", ".join(f"{name}={value}" for name, value in used.items())
    progress.message(f"measuring without {what}")
    try:
        found = _measure(make_profiler(plain), folder, plain)
    except AutopruneError as error:
        notes.append(f"what {what} brought can't be told: {error}")
        return None
    if not all(m.ok and m.kernels for m in found):
        notes.append(f"what {what} brought can't be told: it can't be measured without")
        return None
    without = by_layer(found[1].kernels, works[1])
    with_it = by_layer(measured[1].kernels, works[1])
    return {
        "what": what,
        "without_ms": found[1].latency_ms,
        "layers": {
            name: {"without_ms": without[name].latency_ms, "ms": with_it[name].latency_ms}
            for name in with_it
            if name in without
        },
        "brought_nothing": [
            name
            for name in with_it
            if name in without and with_it[name].latency_ms > SLOW * without[name].latency_ms
        ],
    }
