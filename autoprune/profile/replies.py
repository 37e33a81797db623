"""What a program or a remote device replied, checked: a wrong reply is never a number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ProfilerError
from autoprune.profile.measuring import Visit


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
    """The times of a visit: `latencies_ms`, one of each run, and where told `energy_mj`.

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
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (math.isfinite(value) and value > 0)
        ):
            raise ProfilerError(f"{what} of {who} must be positive, finite numbers; got {value!r}")
    return Visit(float(min(times)), None if energy is None else float(energy))


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
