"""The file of a latency table: JSON lines, readable, versioned, sealed by a checksum.

The first line is the header: schema version, device, units, reference and what else is told of
the measuring. Then a line for each network (its kernels) and each measured candidate, with the raw
repeats; since schema 2 also the kernel times that were taken over from other tables of the
device. The last line is the SHA-256 of all lines before it. Nothing fitted is stored: the same
file gives the same predictions, and a better model makes better use of an old file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.device import DeviceSpec
from autoprune.core.errors import TableError, TableFormatError, TableMismatchError
from autoprune.core.files import write_atomically
from autoprune.cost.borrow import Borrowed
from autoprune.cost.context import channel_block
from autoprune.cost.energy import ReferenceEnergy
from autoprune.cost.layout import Layout
from autoprune.cost.records import Observation

if TYPE_CHECKING:
    from autoprune.cost.table import LatencyTable

#: Files of this schema and of every one before it can be read.
SCHEMA = 2
_KIND = "autoprune_latency_table"
_UNITS = {
    "reference_ms, samples_ms, kernel_ms": "milliseconds for one forward pass of the batch",
    "ratio, std": "of the candidate's latency to the reference's, measured beside it",
    "energy_mj": "millijoules for one forward pass of the batch",
    "energy_ratio, energy_std": "of the candidate's energy to the reference's, beside it",
    "macs": "multiply-accumulates per product of the channel counts, whole batch",
}
_OPTION = {
    "name": "measure a table on this device: autoprune profile",
    "runtime": "use the runtime that the table was measured with, or measure a table for this one",
    "runtime_version": "install that version, or measure the table again: autoprune profile",
    "provider": "use that provider, or measure a table for this one",
    "precision": "use that precision, or measure a table for this one",
    "threads": "use as many threads, or measure a table for this number",
    "network": "PyTorch over ssh runs exported networks, on its own machine the modules "
    "themselves; use the table as it was measured, or measure a table for this one",
}
_SETTING = "give the device that option, or measure a table for this one"


def write(table: LatencyTable, path: Path) -> Path:
    """Write a table, all of it or nothing.

    Raises:
        TableError: nothing was measured yet, or the folder can't be written.
    """
    write_atomically(path, sealed_text(table), TableError)
    return path


def sealed_text(table: LatencyTable) -> str:
    """What a table's file holds: its lines, and the seal that tells of changes.

    Raises:
        TableError: nothing was measured yet.
    """
    text = "\n".join(_lines(table)) + "\n"
    seal = hashlib.sha256(text.encode()).hexdigest()
    return text + json.dumps({"kind": "seal", "sha256": seal}) + "\n"


def _lines(table: LatencyTable) -> Iterator[str]:
    header = {
        "kind": _KIND,
        "schema": SCHEMA,
        "device": asdict(table.device),
        "reference_ms": table.reference_ms,
        "reference_network": table.reference.fingerprint,
        **({"reference_energy": asdict(table.reference_energy)} if table.reference_energy else {}),
        "units": _UNITS,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "autoprune_version": _version(),
        "info": table.info,
    }
    yield json.dumps(header, ensure_ascii=False, default=dict)
    for fingerprint, layout in table.layouts.items():
        yield json.dumps({"kind": "network", "fingerprint": fingerprint, **layout.to_dict()})
    for observation in table.observations:
        yield json.dumps({"kind": "candidate", **observation.to_dict()})
    for fingerprint, layout in {b.layout.fingerprint: b.layout for b in table.borrowed}.items():
        data = {"kind": "borrowed_network", "fingerprint": fingerprint, **layout.to_dict()}
        yield json.dumps(data)
    for borrowed in table.borrowed:
        yield json.dumps({"kind": "borrowed", **borrowed.to_dict()})


def read(path: Path, device: DeviceSpec | None = None) -> LatencyTable:
    """Read a table; see `LatencyTable.load`."""
    from autoprune.cost.table import LatencyTable

    header, lines = _sealed_lines(path)
    spec = _device(path, header)
    try:
        if device is not None:
            refuse_other(spec, device, str(path))
        table = LatencyTable(spec, float(header["reference_ms"]), header.get("info", {}))
        if "reference_energy" in header:
            table.reference_energy = ReferenceEnergy.from_dict(header["reference_energy"])
        block = channel_block(spec)
        names: dict[str, str] = {}
        others: dict[str, Layout] = {}
        for line in map(json.loads, lines):
            if line["kind"] == "network":
                layout = Layout.from_dict(line, block)
                names[str(line["fingerprint"])] = layout.fingerprint
                table.layouts[layout.fingerprint] = layout
            elif line["kind"] == "candidate":
                network = names[str(line["network"])]
                table.observations.append(Observation.from_dict({**line, "network": network}))
            elif line["kind"] == "borrowed_network":
                others[str(line["fingerprint"])] = Layout.from_dict(line, block)
            elif line["kind"] == "borrowed":
                table.borrowed.append(Borrowed.from_dict(line, others))
            else:
                raise ValueError(f"unknown kind of line {line['kind']!r}")
        if table.reference_energy is None:
            table.reference_energy = ReferenceEnergy.of_old(table)
    except (KeyError, TypeError, ValueError) as error:
        raise TableFormatError(
            f"latency table {path} must hold a header, networks and candidates as autoprune writes "
            f"them; a line can't be read ({type(error).__name__}: {error}); measure it again with "
            "autoprune profile"
        ) from error
    return table


def read_device(path: Path) -> DeviceSpec:
    """The device of a table, from its header alone.

    Raises:
        TableFormatError: the header can't be read, or is of a newer schema.
    """
    return _device(path, read_header(path))


def _device(path: Path, header: Mapping[str, Any]) -> DeviceSpec:
    try:
        return DeviceSpec.from_dict(header["device"])
    except (KeyError, TypeError, AttributeError) as error:
        raise TableFormatError(
            f"the header of latency table {path} must describe its device as autoprune writes it; "
            f"it can't be read ({type(error).__name__}: {error}); measure the table again with "
            "autoprune profile"
        ) from error


def read_header(path: Path) -> Mapping[str, Any]:
    """A table's first line.

    Raises:
        TableFormatError: it can't be read, or is of a newer schema.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise TableFormatError(f"latency table {path} can't be read: {error}") from error
    return _header(path, first)


def refuse_other(table: DeviceSpec, device: DeviceSpec, what: str) -> None:
    """Raise if a table is not of this device.

    Raises:
        TableMismatchError: names each field that differs, with both values and what to do.
    """
    differences = table.differences(device)
    if differences:
        told = "; ".join(
            f"{name}: the table has {ours!r}, this is {theirs!r} ({_OPTION.get(name, _SETTING)})"
            for name, (ours, theirs) in differences.items()
        )
        raise TableMismatchError(f"latency table {what} was measured on another device. {told}")


def _sealed_lines(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableFormatError(f"latency table {path} can't be read: {error}") from error
    body, _, last = text.rstrip("\n").rpartition("\n")
    header = _header(path, text.partition("\n")[0])
    try:
        seal = json.loads(last)["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise TableFormatError(
            f"latency table {path} must end with its checksum; it is truncated: copy or measure it "
            "again"
        ) from error
    if seal != hashlib.sha256((body + "\n").encode()).hexdigest():
        raise TableFormatError(
            f"latency table {path} must match its checksum; it was edited or damaged: copy or "
            "measure it again (measured figures are not for editing)"
        )
    return header, body.split("\n")[1:]


def _header(path: Path, line: str) -> Mapping[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise TableFormatError(
            f"latency table {path} must begin with a JSON header of kind {_KIND!r}; got "
            f"{line[:60]!r}"
        )
    schema = header.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise TableFormatError(
            f"latency table {path} must be of schema {SCHEMA} or older, got {schema!r}; it was "
            "written by a newer autoprune: update autoprune, or measure the table again"
        )
    return header


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("autoprune")
    except PackageNotFoundError:
        return "unknown"
