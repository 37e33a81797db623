"""Energy where no meter is read: a stated power times the latency that was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol, Profiler
from autoprune.core.errors import ProfilerError
from autoprune.profile.around import Around


class StatedPower(Around):
    """A profiler whose measurements tell energy as a power that was stated, times latency.

    That is a model: it is as good as the power is constant. The device's details say so
    ("energy: modelled, ...").

    Args:
        profiler: measures the latency; energy that it measures itself is an error, as then there
            would be two.
        power_w: watts while a network runs.

    Raises:
        ProfilerError: the power is not positive and finite.
    """

    def __init__(self, profiler: Profiler, power_w: float) -> None:
        number = isinstance(power_w, int | float) and not isinstance(power_w, bool)
        if not (number and math.isfinite(power_w) and power_w > 0):
            raise ProfilerError(f"power_w must be positive and finite, got {power_w!r}")
        super().__init__(profiler)
        self._power_w = power_w

    @property
    def device(self) -> DeviceSpec:
        """The profiler's, with a word on where the energy comes from."""
        device = self._profiler.device
        said = f"modelled, {self._power_w:g} W (power_w) times latency"
        return replace(device, details={**device.details, "energy": said})

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure, and tell watts times milliseconds: millijoules."""
        return [self._told(m) for m in self._profiler.measure(artifacts, protocol)]

    def _told(self, measurement: Measurement) -> Measurement:
        if not measurement.ok:
            return measurement
        if measurement.energy_mj is not None:
            return Measurement(
                measurement.key,
                error="the device measures energy itself; leave out power_w to use that",
            )
        energy = self._power_w * measurement.latency_ms
        return replace(
            measurement,
            energy_mj=energy,
            energy_ratio=measurement.ratio,
            energy_ratio_interval=measurement.ratio_interval,
            energy_source="modelled",
        )
