"""Where latency tables lie: `latency_models/<device>/<runtime>-…-<network>.jsonl`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from autoprune.core.data import data_folders
from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ConfigError, TableError, TableFormatError, TableMismatchError
from autoprune.core.workload import KernelGraph
from autoprune.cost.format import read_device
from autoprune.cost.table import LatencyTable

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


def tables_of(device: DeviceSpec) -> list[LatencyTable]:
    """Every table in the data folders that was measured on a device, whatever the network."""
    found = []
    for path in tables():
        try:
            if not read_device(path).differences(device):
                found.append(LatencyTable.load(path, device))
        except (TableFormatError, TableMismatchError):
            continue  # a file that was not asked for by name
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
