"""What a program or a remote device replied, checked: a wrong reply is never a number."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from autoprune.core.device import DeviceSpec, KernelTime
from autoprune.core.errors import ProfilerError
from autoprune.profile.node_times import NodeTimes, kernel_time
from autoprune.profile.visits import Visit, is_time, of_runs


def parse(text: bytes, who: str) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ProfilerError: it is something else, or it says that something failed (`error`).
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProfilerError(
            f"{who} must reply with one JSON object, got {_short(text)}: {error}"
        ) from error
    if not isinstance(data, dict):
        raise ProfilerError(f"{who} must reply with one JSON object, got {_short(text)}")
    if "error" in data:
        raise ProfilerError(f"{who} says: {str(data['error'])[:1000]}")
    return data


def visit(data: Mapping[str, Any], runs: int, who: str) -> Visit:
    """The times of a visit: `latencies_ms`, one of each run, and `energy_mj` or `no_energy`.

    And `slowed`, where that can be told: as of `Visit`, of each run.

    Raises:
        ProfilerError: another number of times, or one that no run can take.
    """
    times = data.get("latencies_ms")
    if not isinstance(times, list) or len(times) != runs:
        got = f"{len(times)} of them" if isinstance(times, list) else _short(repr(times).encode())
        raise ProfilerError(f"{who} must tell latencies_ms, a list of {runs} numbers; got {got}")
    energy = data.get("energy_mj")
    for what, value in [*(("latencies_ms", t) for t in times), ("energy_mj", energy)]:
        if what == "energy_mj" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_time(value):
            raise ProfilerError(f"{what} of {who} must be positive, finite numbers; got {value!r}")
    why = str(data.get("no_energy", "")) if energy is None else ""
    slowed = data.get("slowed")
    if slowed and not _slownesses(slowed, runs):
        got = _short(repr(slowed).encode())
        raise ProfilerError(f"{who} must tell slowed, {runs} numbers of 0 or more; got {got}")
    told = of_runs(times, slowed) if slowed else Visit(float(min(times)))
    return replace(told, energy_mj=None if energy is None else float(energy), no_energy=why[:1000])


def _slownesses(slowed: object, runs: int) -> bool:
    return (
        isinstance(slowed, list)
        and len(slowed) == runs
        and all(isinstance(s, int | float) and math.isfinite(s) and s >= 0 for s in slowed)
    )


def node_times(data: Mapping[str, Any], runs: int, who: str) -> NodeTimes:
    """The nodes of a profiled network and their times: `nodes`, `runs`, and `times_us` packed.

    The times of a network that is quicker than the profile's clock are all 0.

    Raises:
        ProfilerError: another number of runs or times, or a node without a name.
    """
    nodes = data.get("nodes")
    if not isinstance(nodes, list) or not nodes or not all(map(_is_node, nodes)):
        raise ProfilerError(
            f"{who} must tell nodes, each with a name, an op and shapes of whole numbers; "
            f"got {_short(repr(nodes).encode())}"
        )
    if data.get("runs") != runs:
        raise ProfilerError(f"{who} must tell {runs} profiled runs, got {data.get('runs')!r}")
    size = 4 * runs * len(nodes)
    times = unpacked(data, "times_us", size, who)
    if len(times) != size:
        raise ProfilerError(
            f"times_us of {who} must be {runs * len(nodes)} numbers of 4 bytes, "
            f"got {len(times)} bytes"
        )
    table = np.frombuffer(times, dtype="<u4").reshape(runs, len(nodes)).astype(np.float64)
    return NodeTimes(nodes, table)


@dataclass(frozen=True)
class Told:
    """A kernel as the agent tells it, its milliseconds as they were profiled.

    Attributes:
        kernel: the kernel.
        about: what else the agent's runtime tells of it.
    """

    kernel: KernelTime
    about: str = ""


def kernels(data: Mapping[str, Any], who: str, *, reference: bool) -> tuple[list[Told], float]:
    """The kernels of a network that was profiled beside the reference: `kernels`, `reference_ms`.

    Args:
        data: the reply.
        who: replied, for messages.
        reference: whether it is the reference itself, whose kernels add up to `reference_ms`.

    Returns:
        Each kernel with the milliseconds that were told, and those of all of the reference's.

    Raises:
        ProfilerError: something of it is missing, of another type, or no time that can be.
    """
    told, whole_ms = data.get("kernels"), data.get("reference_ms")
    if not isinstance(told, list) or not told or not all(map(_is_node, told)):
        raise ProfilerError(
            f"{who} must tell kernels, each with a name, an op and shapes of whole numbers; "
            f"got {_short(repr(told).encode())}"
        )
    names = [each["name"] for each in told]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ProfilerError(f"kernels of {who} must have names of their own; {twice!r} comes twice")
    if not _is_time(whole_ms) or not whole_ms:
        raise ProfilerError(
            f"reference_ms of {who} must be a positive, finite number; got {whole_ms!r}"
        )
    for each in told:
        if not _is_time(each.get("ms")):
            raise ProfilerError(
                f"ms of the kernel {each['name']!r} of {who} must be a finite number of at least "
                f"0; got {each.get('ms')!r}"
            )
        if not isinstance(each.get("about", ""), str):
            raise ProfilerError(
                f"about of the kernel {each['name']!r} of {who} must be text; got {each['about']!r}"
            )
    total = math.fsum(each["ms"] for each in told)
    if reference and not math.isclose(total, whole_ms, rel_tol=1e-6):
        raise ProfilerError(
            f"kernels of {who} must add up to reference_ms, {whole_ms:g}, of the reference itself; "
            f"got {total:g}"
        )
    return [
        Told(kernel_time(each, float(each["ms"])), each.get("about", "")) for each in told
    ], float(whole_ms)


def unpacked(data: Mapping[str, Any], name: str, most: int, who: str) -> bytes:
    """Bytes that were sent compressed, in base64.

    Args:
        data: the reply.
        name: which of its fields.
        most: bytes of it when unpacked.
        who: replied, for messages.

    Raises:
        ProfilerError: it is something else, or more than that.
    """
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(base64.b64decode(data[name], validate=True), most + 1)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ProfilerError(f"{name} of {who} can't be unpacked: {error}") from error
    if len(found) > most or not unpacker.eof:
        raise ProfilerError(f"{name} of {who} must be whole, and at most {most} bytes")
    return found


def _is_time(value: Any) -> bool:
    """Whether it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value >= 0


def _is_node(node: object) -> bool:
    return (
        isinstance(node, dict)
        and all(isinstance(node.get(name), str) for name in ("name", "op"))
        and _is_list(node.get("layers", []), lambda layer: isinstance(layer, str))
        and all(
            _is_list(node.get(name, []), lambda shape: _is_list(shape, _is_size))
            for name in ("input_shapes", "output_shapes")
        )
    )


def _is_list(value: object, is_item: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def device(data: Mapping[str, Any], who: str) -> DeviceSpec:
    """The device that a reply describes, field by field as in `DeviceSpec`.

    Raises:
        ProfilerError: a field is missing, unknown or of the wrong type.
    """
    known = [field.name for field in fields(DeviceSpec)]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ProfilerError(
            f"{who} describes its device by {', '.join(known)}; got also {', '.join(unknown)}"
        )
    for name in known:
        if name == "threads":
            threads = data.get(name, 0)
            if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
                raise ProfilerError(
                    f"threads of {who} must be an integer of at least 0, got {threads!r}"
                )
        elif name == "details":
            details = data.get(name, {})
            if not isinstance(details, dict):
                raise ProfilerError(f"details of {who} must be an object, got {details!r}")
        elif (name in data or name in known[:3]) and not (
            isinstance(data.get(name), str) and data[name]
        ):
            raise ProfilerError(
                f"{name} of {who} must be text that is not empty, got {data.get(name)!r}"
            )
    told = {name: data[name] for name in known[:5] if name in data}
    details = {str(key): str(value) for key, value in data.get("details", {}).items()}
    return DeviceSpec(**told, threads=data.get("threads", 0), details=details)


def _short(text: bytes) -> str:
    shown = text[:200].decode("utf-8", "replace")
    return "nothing" if not text.strip() else repr(shown + "…" * (len(text) > 200))
