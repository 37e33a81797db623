"""Any profiler with a meter beside it, and the meters that there are by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    EnergyMeter,
    Measurement,
    MeasuringProtocol,
    Profiler,
)
from autoprune.core.errors import AutopruneError, PluginError, ProfilerError
from autoprune.core.plugins import known_names, resolve
from autoprune.profile.around import Around
from autoprune.profile.energy import MeterError, name, window_s
from autoprune.profile.options import converted

#: Entry points that installed packages name their meters by.
GROUP = "autoprune.meters"

#: Our own: name → `package.module:Name`, imported when it is asked for.
BUILTIN = {
    "rapl": "autoprune.profile.energy_zeus:RaplMeter",
    "nvml": "autoprune.profile.energy_zeus:NvmlMeter",
    "jetson": "autoprune.profile.energy_jetson:JetsonMeter",
}


def lengthened(protocol: MeasuringProtocol, count: int, window_s: float) -> MeasuringProtocol:
    """A protocol with time for windows of energy, as many as there are visits at least.

    Args:
        protocol: as it is without.
        count: networks, the reference among them.
        window_s: of each window.
    """
    if not protocol.timeout_s:
        return protocol
    windows = protocol.min_rounds * (2 * count - 1)
    return replace(protocol, timeout_s=protocol.timeout_s + windows * window_s)


class Metered(Around):
    """A profiler whose networks' energy is read from a meter, in windows of runs in a row.

    The profiler must measure by `measure_interleaved` (ours do). Windows come on top of
    `MeasuringProtocol.timeout_s`, as many as there are rounds at least.

    Args:
        profiler: measures the latency.
        meter: reads the energy.

    Raises:
        ProfilerError: the meter reads this machine and the profiler measures on another one, the
            profiler starts a program for each visit, or what the meter tells of itself is wrong.
    """

    def __init__(self, profiler: Profiler, meter: EnergyMeter) -> None:
        if getattr(profiler, "starts_programs", False):
            raise ProfilerError(
                f"a meter can't be read beside {type(profiler).__name__}, which starts a program "
                "for each visit: that would count as the network's energy. Let the program of "
                "command tell energy_mj, measure with tensorrt instead of trtexec, or state "
                "power_w (docs/how-to/energy.md)"
            )
        if getattr(meter, "host", False) and getattr(profiler, "remote", False):
            raise ProfilerError(
                f"the meter {name(meter)} reads this machine, the profiler "
                f"{type(profiler).__name__} measures on another; use a meter of your own that "
                "reads that one (docs/how-to/energy.md)"
            )
        try:
            self._window_s = window_s(meter)
        except MeterError as error:
            raise ProfilerError(str(error)) from error
        super().__init__(profiler)
        self._meter = meter

    @property
    def device(self) -> DeviceSpec:
        """The profiler's, with a word on where the energy comes from."""
        device = self._profiler.device
        covers = getattr(self._meter, "covers", "idle power included")
        said = f"measured, {name(self._meter)}: {covers}"
        return replace(device, details={**device.details, "energy": said})

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure, each network's energy too; one without energy says why in its notes."""
        longer = lengthened(protocol, len(artifacts), self._window_s)
        found = self._profiler.measure(artifacts, replace(longer, meter=self._meter))
        return [self._told(m) for m in found]

    def _told(self, measurement: Measurement) -> Measurement:
        told = any(note.startswith("no energy") for note in measurement.notes)
        if not measurement.ok or measurement.energy_mj is not None or told:
            return measurement
        why = (
            f"no energy: the profiler {type(self._profiler).__name__} did not read the meter in "
            "each round; it must measure by autoprune.profile.measure_interleaved"
        )
        return replace(measurement, notes=(*measurement.notes, why))


@dataclass(frozen=True)
class MeterRow:
    """A line of `autoprune devices` on energy.

    Attributes:
        name: what the meter is called by.
        available: whether it can be read here.
        covers: what it counts, where it can.
        missing: what is missing and how to get it, where it can't.
    """

    name: str
    available: bool
    covers: str = ""
    missing: str = ""


def make_meter(named: str | EnergyMeter, options: Mapping[str, Any]) -> EnergyMeter:
    """Make a meter by its name: built-in, an entry point, or `package.module:Name`.

    Raises:
        PluginError: no meter has that name, or it has no `read_mj`.
        ProfilerError: an option that it lacks, or it can't be read here; says what to do.
        MissingDependencyError: a package that it needs is not installed.
    """
    meter: Any = named
    if isinstance(named, str):
        factory = resolve(named, GROUP, BUILTIN, what="meter")
        if not callable(factory):
            raise PluginError(f"meter {named!r} must be a class or a function, got {factory!r}")
        meter = factory(**converted(f"meter {named!r}", factory, options))
    elif options:
        raise ProfilerError(
            f"options {sorted(options)} can't be given with a meter that is made already"
        )
    if not isinstance(meter, EnergyMeter):
        raise PluginError(f"a meter must be a name or have `read_mj`; got a {type(meter).__name__}")
    return meter


def meters() -> list[MeterRow]:
    """Every named meter, whether it can be read here, and what is missing where not."""
    rows = []
    for each in sorted(known_names(GROUP, BUILTIN)):
        try:
            meter = make_meter(each, {})
            covers = str(getattr(meter, "covers", type(meter).__name__))
            rows.append(MeterRow(each, True, covers))
        except AutopruneError as error:
            rows.append(MeterRow(each, False, missing=str(error)))
        except Exception as error:  # an installed plug-in: anything may come
            rows.append(MeterRow(each, False, missing=f"{type(error).__name__}: {error}"))
    return rows
