"""What a profiler gave back, checked before anybody computes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    KernelTime,
    Measurement,
    MeasuringProtocol,
    Profiler,
)
from autoprune.core.errors import AutopruneError, PluginError, ProfilerError
from autoprune.profile.overdue import Overdue, limited

#: A call of `measure` that takes longer than this many seconds and ten times its `timeout_s` hangs,
#: unless the profiler has a `limit_s` of its own.
LIMIT_S = 3600.0


def device_of(profiler: Profiler) -> DeviceSpec:
    """What a profiler measures on.

    Raises:
        ProfilerError: it can't tell; as it says, where it is one of ours.
        PluginError: it tells something else.
    """
    who = f"the profiler {type(profiler).__name__}"
    try:
        device: object = profiler.device
    except AutopruneError:
        raise
    except Exception as error:  # a user's own profiler: anything may come
        raise ProfilerError(
            f"`device` of {who} can't be told: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(device, DeviceSpec):
        raise PluginError(f"`device` of {who} must be a DeviceSpec, got {device!r}")
    return device


def measure_checked(
    profiler: Profiler, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
) -> list[Measurement]:
    """Measure, and let no figure through that can't be one.

    Returns:
        One measurement for each artifact, in order. One whose latency, ratio, energy or
        rounds are no positive, finite numbers, that does not lie in its interval, or of which a
        kernel takes no finite time of at least 0, has `error` set instead.

    Raises:
        ProfilerError: the profiler raised, did not come back within its `limit_s` (told in the main
            thread alone, see `overdue`), or gave something else than one measurement for each
            artifact in their order.
    """
    who = f"the profiler {type(profiler).__name__}"
    limit_s = limit_of(profiler, protocol)
    try:
        with limited(limit_s):
            found = profiler.measure(artifacts, protocol)
    except AutopruneError:
        raise
    except Overdue:
        raise ProfilerError(
            f"{who} must come back from measure by itself, and was ended after {limit_s:g} s; give "
            "what may hang a time limit, or the profiler another `limit_s` (seconds for a call)"
        ) from None
    except Exception as error:  # a user's own profiler: anything may come
        raise ProfilerError(
            f"{who} must never raise from measure (a failure is a Measurement with `error` set), "
            f"got {type(error).__name__}: {error}"
        ) from error
    check_answer(who, found, artifacts)
    return [_checked(measurement) for measurement in found]


def limit_of(profiler: Profiler, protocol: MeasuringProtocol) -> float:
    """Seconds that a call of `measure` may take; infinite where it sees to that itself.

    Raises:
        PluginError: the profiler's `limit_s` is no number above 0.
    """
    limit_s = getattr(profiler, "limit_s", LIMIT_S + 10 * protocol.timeout_s)
    if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not limit_s > 0:
        raise PluginError(
            f"`limit_s` of the profiler {type(profiler).__name__} must be a number of seconds "
            f"above 0, or infinite for none; got {limit_s!r}"
        )
    return float(limit_s)


def check_answer(who: str, found: object, artifacts: Sequence[Artifact]) -> None:
    """Whether it is one measurement for each artifact, in their order.

    Raises:
        ProfilerError: it is not; says what it is.
    """
    if not isinstance(found, Sequence) or not all(isinstance(m, Measurement) for m in found):
        raise ProfilerError(
            f"{who} must give a list of Measurement, got {_kind(found)}; "
            "autoprune.testing.profilers.check_profiler tells what else is wrong"
        )
    keys, wanted = [m.key for m in found], [a.key for a in artifacts]
    if len(keys) != len(wanted):
        raise ProfilerError(
            f"{who} must give one measurement for each artifact, got {len(keys)} for {len(wanted)}"
        )
    if keys != wanted:
        at = next(i for i, key in enumerate(keys) if key != wanted[i])
        raise ProfilerError(
            f"{who} must give measurements in the artifacts' order: number {at + 1} must be of "
            f"{wanted[at]!r}, got one of {keys[at]!r}"
        )


def _checked(measurement: Measurement) -> Measurement:
    if not measurement.ok:
        return measurement
    problem = wrong_figure(measurement)
    return Measurement(measurement.key, error=problem) if problem else measurement


def wrong_figure(measurement: Measurement) -> str:
    """What is wrong with the figures of a measurement without an error; "" for nothing."""
    for what, value, (low, high) in (
        ("latency_ms", measurement.latency_ms, measurement.latency_interval_ms),
        ("ratio", measurement.ratio, measurement.ratio_interval),
    ):
        if not _positive(value):
            return f"{what} must be positive and finite, got {value!r}"
        if not low <= value <= high:
            return f"{what} {value:g} must lie in its interval, got {low} to {high}"
    return _wrong_parts(measurement) or _wrong_energy(measurement)


def _wrong_parts(measurement: Measurement) -> str:
    """What is wrong with the rounds and the kernels, which latency tables are fitted to."""
    for what in ("samples_ms", "reference_ms"):
        for value in getattr(measurement, what):
            if not (_finite(value) and value > 0):
                return f"{what} must be positive, finite numbers, got {value!r}"
    kernels: Sequence[object] = measurement.kernels or ()
    for kernel in kernels:
        if not isinstance(kernel, KernelTime):
            return f"kernels must be of KernelTime, got {type(kernel).__name__}"
        if not (_finite(kernel.latency_ms) and kernel.latency_ms >= 0):
            return (
                f"the kernel {kernel.name!r} must take a finite time of at least 0 ms, got "
                f"{kernel.latency_ms!r}"
            )
    return ""


def _wrong_energy(measurement: Measurement) -> str:
    energy = measurement.energy_mj
    if energy is not None and not _positive(energy):
        return f"energy_mj must be positive and finite, or None, got {energy!r}"
    ratio, interval = measurement.energy_ratio, measurement.energy_ratio_interval
    if ratio is None and interval is None:
        return ""
    if energy is None or not _positive(ratio) or interval is None:
        return (
            "energy_ratio must be positive and finite, with energy_ratio_interval and energy_mj, "
            f"or all of them None; got {ratio!r}, {interval!r} and {energy!r}"
        )
    if not interval[0] <= (ratio or 0.0) <= interval[1]:
        return (
            f"energy_ratio {ratio:g} must lie in its interval, got {interval[0]} to {interval[1]}"
        )
    return ""


def _finite(value: object) -> bool:
    """Whether it is a finite number, one of numpy's too."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value)


def _positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0


def _kind(found: object) -> str:
    if not isinstance(found, Sequence):
        return type(found).__name__
    return "a list with " + ", ".join(
        sorted({type(m).__name__ for m in found if not isinstance(m, Measurement)})
    )
