"""Where latency tables lie: `latency_models/<device>/<runtime>-…-<network>.jsonl`.

In the data folders, and in the user's cache: there a copy of every table that was measured is kept,
so that the next network of the device need not have the same kernels measured again.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from autoprune.core.data import cache_folder, data_folders
from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ConfigError, TableError, TableFormatError, TableMismatchError
from autoprune.core.workload import KernelGraph
from autoprune.cost.format import read_device
from autoprune.cost.table import LatencyTable

_LOG = logging.getLogger("autoprune.cost")
_FOLDER, _SUFFIX = "latency_models", ".jsonl"


def table_name(device: DeviceSpec, network: str) -> Path:
    """Relative path of a device's table of a network, as the shipped ones are named.

    Args:
        device: what it is measured on.
        network: a short name of the network and batch ("resnet56-batch8").
    """
    threads = [f"{device.threads}threads"] if device.threads else []
    parts = [device.runtime, device.runtime_version, device.provider, device.precision, *threads]
    return Path(_plain(device.name)) / f"{'-'.join(map(_plain, [*parts, network]))}{_SUFFIX}"


def find_table(
    where: str | Path | None, device: DeviceSpec, graph: KernelGraph | None = None
) -> LatencyTable | None:
    """Load the table to use.

    Args:
        where: a file, or None to look through `$AUTOPRUNE_DATA`, the packaged tables and the
            checkout's for one of this device.
        device: what it is to be used on.
        graph: of the network; without an explicit file, only a table that holds measurements of
            this network is taken.

    Returns:
        The table, or None where none was named and none fits.

    Raises:
        ConfigError: the file that was named is not there.
        TableFormatError: it can't be read.
        TableMismatchError: it is of another device.
    """
    if where is not None:
        path = Path(where)
        if not path.is_file():
            raise ConfigError(
                f"the latency table {path} must be a file, it is not there; measure one with "
                "autoprune profile, or leave the path out"
            )
        return LatencyTable.load(path, device)
    for path in tables():
        try:
            if read_device(path).differences(device):
                continue
            table = LatencyTable.load(path, device)
        except (TableFormatError, TableMismatchError):
            continue  # a file that was not asked for by name
        if graph is None or table.knows(graph):
            return table
    return None


def tables() -> Iterator[Path]:
    """Every table file in the data folders, in the order they are looked through."""
    for folder in data_folders(_FOLDER):
        yield from sorted(folder.rglob(f"*{_SUFFIX}"))


def remembered() -> Path | None:
    """Folder of the tables that were measured here before; None where none are to be kept.

    `$AUTOPRUNE_TABLES`, where that is set ("" keeps none), else `latency_models` in the user's
    cache folder.
    """
    named = os.environ.get("AUTOPRUNE_TABLES")
    if named is None:
        return cache_folder() / _FOLDER
    return Path(named) if named else None


def remember(table: LatencyTable) -> Path | None:
    """Keep a copy of a table for the networks to come; the newest of each network and device.

    What it took over itself is left out: that is in tables of its own. A folder that can't be
    written only costs time later, and is told in the log.

    Returns:
        The copy, or None where none is kept.
    """
    folder = remembered()
    if folder is None:
        return None
    copy = LatencyTable(table.device, table.reference_ms, table.info)
    copy.reference_energy = table.reference_energy
    copy.layouts, copy.observations = table.layouts, table.observations
    try:
        return copy.save(folder / table_name(table.device, table.reference.fingerprint))
    except TableError as error:
        _LOG.warning("the table is not kept for other networks: %s", error)
        return None


def tables_of(device: DeviceSpec) -> list[LatencyTable]:
    """Every table that was measured on a device, whatever the network: shipped, or remembered.

    A table is never taken for another device, runtime, version, precision or thread count. Nor is
    one whose times hold what else was at work (`LatencyTable.disturbed`).
    """
    found = []
    own = remembered()
    for path in (*tables(), *(sorted(own.rglob(f"*{_SUFFIX}")) if own else ())):
        try:
            if read_device(path).differences(device):
                continue
            table = LatencyTable.load(path, device)
        except (TableFormatError, TableMismatchError):
            continue  # a file that was not asked for by name
        if not table.disturbed:
            found.append(table)
    return found


def nearest_mismatch(device: DeviceSpec) -> TableError | None:
    """Why no shipped table fits a device: the mismatch of the one that differs in the least."""
    best: tuple[int, Path] | None = None
    for path in tables():
        try:
            count = len(read_device(path).differences(device))
        except TableFormatError:
            continue
        if count and (best is None or count < best[0]):
            best = (count, path)
    if best is None:
        return None
    try:
        LatencyTable.load(best[1], device)
    except TableError as error:
        return error
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "unknown"
