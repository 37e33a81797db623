"""Names of profilers, as they stand in YAML and on the command line."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from autoprune.core.device import DeviceSpec, Profiler
from autoprune.core.errors import AutopruneError, PluginError, ProfilerError
from autoprune.core.plugins import known_names, resolve
from autoprune.profile.metered import Metered, make_meter
from autoprune.profile.options import convert, converted, merged, parameters
from autoprune.profile.power import StatedPower

#: Entry points that installed packages name their profilers by.
GROUP = "autoprune.profilers"

#: Our own: name → `package.module:Name`, imported when it is asked for.
BUILTIN = {
    "onnxruntime-cpu": "autoprune.profile.registry:onnxruntime_cpu",
    "onnxruntime-cuda": "autoprune.profile.registry:onnxruntime_cuda",
    "onnxruntime": "autoprune.profile.onnxruntime:OnnxRuntimeProfiler",
    "tensorrt": "autoprune.profile.tensorrt:TensorRTProfiler",
    "trtexec": "autoprune.profile.trtexec:TrtexecProfiler",
    "openvino-cpu": "autoprune.profile.openvino:OpenVinoProfiler",
    "pytorch-cpu": "autoprune.profile.pytorch:pytorch_cpu",
    "pytorch-cuda": "autoprune.profile.pytorch:pytorch_cuda",
    "ssh": "autoprune.profile.ssh:SshProfiler",
    "command": "autoprune.profile.command:CommandProfiler",
}


def onnxruntime_cpu(
    threads: int = 1,
    graph_optimization: str = "all",
    precision: str = "fp32",
    calibration: object = None,
) -> Profiler:
    """onnxruntime's CPU provider on this machine; arguments as of `OnnxRuntimeProfiler`."""
    from autoprune.profile.onnxruntime import OnnxRuntimeProfiler

    return OnnxRuntimeProfiler(
        threads, "cpu", precision, graph_optimization, calibration=calibration
    )


def onnxruntime_cuda(
    precision: str = "fp32",
    graph_optimization: str = "all",
    gpu: int = 0,
    cpu_fallback: bool = True,
    calibration: object = None,
) -> Profiler:
    """onnxruntime's CUDA provider on this machine; arguments as of `OnnxRuntimeProfiler`."""
    from autoprune.profile.onnxruntime import OnnxRuntimeProfiler

    return OnnxRuntimeProfiler(
        1, "cuda", precision, graph_optimization, {"device_id": gpu}, cpu_fallback, calibration
    )


#: The options that every profiler takes: watts, for energy that is modelled; a meter, for energy
#: that is measured; and what begins as the last is an option of the meter.
POWER, METER, OF_METER = "power_w", "meter", "meter."


@dataclass(frozen=True)
class DeviceRow:
    """A line of `autoprune devices`.

    Attributes:
        name: what the profiler is called by.
        available: whether it can measure here.
        device: what it measures on, where it can.
        missing: what is missing and how to get it, where it can't.
    """

    name: str
    available: bool
    device: DeviceSpec | None = None
    missing: str = ""


def make_profiler(name: str | Profiler, **options: Any) -> Profiler:
    """Make a profiler by its name, with options.

    Args:
        name: a built-in name, an entry point of the group "autoprune.profilers", or
            `package.module:Name`; options may follow as in a web address:
            `onnxruntime-cpu?threads=2`. An address such as `ssh://user@host?threads=2` goes to
            the profiler that its scheme names, as its option `address`. A profiler itself is
            returned as it is.
        options: more of them; one that stands in both places is an error. Every profiler takes
            `meter`, which reads energy (see `Metered`; options of the meter are written
            `meter.name`; a profiler whose attribute `meters` names it reads it by itself, where it
            measures), and `power_w`, from which energy is modelled (see `StatedPower`).

    Raises:
        PluginError: no profiler has that name.
        ProfilerError: it has no such option, a value is wrong, or it can't run here.
        MissingDependencyError: a package that it needs is not installed.
    """
    if not isinstance(name, str):
        if options:
            raise ProfilerError(
                f"options {sorted(options)} can't be given with a profiler that is made already"
            )
        if not _measures(name):
            raise PluginError(
                "a profiler must be a name or have `device` and `measure`; "
                f"got {type(name).__name__}"
            )
        return name
    plain, _, query = name.partition("?")
    scheme, separator, _ = plain.partition("://")
    if separator:
        if "address" in options:
            raise ProfilerError(f"the address of {plain!r} stands twice")
        options["address"], plain = plain, scheme
    factory = resolve(plain, GROUP, BUILTIN, what="profiler")
    if not callable(factory):
        raise PluginError(f"profiler {plain!r} must be a class or a function, got {factory!r}")
    what = f"profiler {plain!r}"
    given = merged(what, query, options)
    own = parameters(factory)
    of_meter = {
        option.removeprefix(OF_METER): given.pop(option)
        for option in list(given)
        if option.startswith(OF_METER)
    }
    power_w = None if POWER in own else given.pop(POWER, None)
    if power_w is not None and given.get(METER) is not None:
        raise ProfilerError("energy is either measured or modelled: give meter or power_w")
    meter = None
    if isinstance(given.get(METER), str) and given[METER] in getattr(factory, "meters", ()):
        given["meter_options"], of_meter = of_meter, {}
    elif METER not in own or hasattr(factory, "meters"):
        meter = given.pop(METER, None)
    if of_meter and meter is None:
        raise ProfilerError(f"options of a meter, {sorted(of_meter)}, need the option meter")
    profiler = factory(**converted(what, factory, given, f"{plain}?"))
    if not _measures(profiler):
        raise PluginError(
            f"{what} must have `device` and `measure`; it makes a {type(profiler).__name__}"
        )
    made: Profiler = profiler
    if power_w is not None:
        return StatedPower(made, convert(what, POWER, power_w, float))
    return made if meter is None else Metered(made, make_meter(meter, of_meter))


def takes(name: str, option: str) -> bool:
    """Whether a profiler has an option that its name does not set already.

    Args:
        name: as `make_profiler` takes it; one that stands for nothing has no option.
        option: "calibration", say.
    """
    plain, _, query = name.partition("?")
    try:
        factory = resolve(plain.partition("://")[0], GROUP, BUILTIN, what="profiler")
    except PluginError:
        return False
    return option in parameters(factory) and option not in merged("", query, {})


def devices() -> list[DeviceRow]:
    """Every named profiler, whether it can measure here, and what is missing where not."""
    rows = []
    for name in sorted(known_names(GROUP, BUILTIN)):
        try:
            rows.append(DeviceRow(name, True, make_profiler(name).device))
        except AutopruneError as error:
            rows.append(DeviceRow(name, False, missing=str(error)))
        except Exception as error:  # an installed plug-in: anything may come
            rows.append(DeviceRow(name, False, missing=f"{type(error).__name__}: {error}"))
    return rows


def _measures(profiler: object) -> bool:
    """Whether it has `device` and `measure`; not asked for, as a device may be far away."""
    return all(
        inspect.getattr_static(profiler, name, None) is not None or hasattr(profiler, name)
        for name in ("device", "measure")
    )
