"""What a measurement was taken on, of, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, runtime_checkable
from typing import Protocol as TypingProtocol

import numpy as np
import numpy.typing as npt

from autoprune.core.errors import ConfigError


@dataclass(frozen=True)
class DeviceSpec:
    """A device as a latency table sees it: two that compare equal may share one.

    Attributes:
        name: what the hardware calls itself ("AMD EPYC 9B45", "NVIDIA H200").
        runtime: "onnxruntime", "tensorrt", "pytorch", ...
        runtime_version: of the runtime.
        provider: execution provider or mode of the runtime ("cpu", "cuda", "eager").
        precision: "fp32", "fp16", "bf16", "int8", ...
        threads: intra-op threads; 0 where the runtime has none.
        details: what else is worth keeping (driver, clocks, locked, governor, instruction set);
            told in the table, not compared.
        settings: what the runtime was told to do otherwise than it does by default, where that
            changes its times ("graph_optimization": "basic"); compared.
    """

    name: str
    runtime: str
    runtime_version: str
    provider: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    details: Mapping[str, str] = field(default_factory=dict, compare=False)
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceSpec:
        """The inverse of `dataclasses.asdict`; reads what older versions wrote too.

        Raises:
            TypeError: a field is missing or unknown.
        """
        spec = cls(**data)
        if spec.settings.get("device_id") == "0":  # the default, which was told at first
            rest = {name: value for name, value in spec.settings.items() if name != "device_id"}
            spec = replace(spec, settings=rest)
        level = spec.details.get("graph_optimization", "all")
        if level == "all" or "graph_optimization" in spec.settings:
            return spec
        # Before there were settings, this one stood among the details.
        return replace(spec, settings={**spec.settings, "graph_optimization": level})

    def differences(self, other: DeviceSpec) -> dict[str, tuple[object, object]]:
        """The compared fields and settings in which two devices differ, as (ours, theirs)."""
        ours, theirs = self._compared(), other._compared()
        names = dict.fromkeys([*ours, *theirs])
        return {
            name: (ours.get(name, "the default"), theirs.get(name, "the default"))
            for name in names
            if ours.get(name) != theirs.get(name)
        }

    def _compared(self) -> dict[str, object]:
        """Fields and settings by name."""
        fields = asdict(self)
        del fields["details"], fields["settings"]
        return {**self.settings, **fields}

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        settings = "".join(f", {name} {value}" for name, value in self.settings.items())
        return (
            f"{self.name} · {self.runtime} {self.runtime_version} "
            f"({self.provider}, {self.precision}{threads}{settings})"
        )


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """A network as PyTorch runs it.

    Attributes:
        module: a `torch.nn.Module`, in eval mode.
        args: example inputs, in order; tensors of the shapes the latency is asked for.
        kwargs: and by name.
    """

    module: Callable[..., object]
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Artifact:
    """A network ready to be measured.

    Attributes:
        key: names it in the results; unique within a call.
        onnx: the serialised ONNX model.
        inputs: name → array to feed, of the shapes the latency is asked for.
        path: a file holding the same bytes, where one exists.
        call: makes the same network as a PyTorch module, when it is asked for; None where there
            is only the ONNX model.
    """

    key: str
    onnx: bytes
    inputs: Mapping[str, npt.NDArray[np.generic]]
    path: Path | None = None
    call: Callable[[], ModuleCall] | None = None


@runtime_checkable
class EnergyMeter(TypingProtocol):
    """A running total of energy, such as a power meter's or a processor's counter.

    Attributes that a meter may have besides: `name`; `resolution_s`, how often the total moves (0.1
    where it is not told; windows are sized by it); `range_mj`, at which the total begins at 0
    again; `start()` and `stop()`, called around each window.
    """

    def read_mj(self) -> float:
        """The total so far in millijoules; where it began does not matter."""


@dataclass(frozen=True)
class MeasuringProtocol:
    """How to measure on a machine that is not quiet.

    The reference (the first artifact) is run before and after each of the others in every round
    (or before and after a few, see `between`), rounds visit the artifacts in shuffled order, and a
    ratio is taken against the reference's runs beside it; so a drift of the machine cancels.

    Attributes:
        warmup: untimed runs of each artifact.
        runs: timed runs in a row of each artifact, each round; the fastest counts, or their mean
            where what else is at work beside each is known and taken out.
        min_rounds: rounds at least (a confidence interval needs several).
        max_rounds: rounds at most.
        width: stop when the half width of each ratio's confidence interval is below this
            fraction of the ratio.
        timeout_s: stop after this long, whatever the intervals.
        confidence: of the intervals, two-sided.
        seed: of the shuffling.
        kernels: also profile each artifact's kernels (in `Measurement.kernels`).
        meter: also read the energy of each artifact's runs from this meter.
        between: so many artifacts are run between two runs of the reference; more are quicker.

    Raises:
        ConfigError: a figure is out of its range.
    """

    warmup: int = 3
    runs: int = 5
    min_rounds: int = 6
    max_rounds: int = 40
    width: float = 0.02
    timeout_s: float = 60.0
    confidence: float = 0.95
    seed: int = 0
    kernels: bool = False
    meter: EnergyMeter | None = None
    between: int = 1

    def __post_init__(self) -> None:
        for name in ("runs", "min_rounds", "max_rounds", "between"):
            self._must(name, getattr(self, name) >= 1, "at least 1")
        self._must("warmup", self.warmup >= 0, "at least 0")
        self._must("width", self.width > 0, "above 0 (0.02 is 2 %)")
        self._must("timeout_s", self.timeout_s >= 0, "at least 0 seconds")
        self._must("confidence", 0 < self.confidence < 1, "between 0 and 1 (0.95 is 95 %)")

    def _must(self, name: str, holds: bool, be: str) -> None:
        if not holds:
            raise ConfigError(
                f"{name} of a measuring protocol must be {be}, got {getattr(self, name)}"
            )


@dataclass(frozen=True)
class KernelTime:
    """One kernel as the runtime ran it.

    Attributes:
        name: the runtime's name of the (fused) node.
        layers: names of the ONNX nodes or network layers it covers, as far as known.
        op: the runtime's op type.
        latency_ms: robust mean over runs.
        input_shapes: of the node's inputs, in the runtime's order.
        output_shapes: of the node's outputs.
    """

    name: str
    layers: tuple[str, ...]
    op: str
    latency_ms: float
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()


#: Begins the note of a dense network's measurement whose rounds differed by what else was at work.
UNSTEADY = "the machine was not steady"


@dataclass(frozen=True)
class Measurement:
    """What was measured of one artifact; an error is a value, so one never ends a batch.

    Attributes:
        key: the artifact's.
        latency_ms: robust estimate for one forward pass; NaN with an error.
        latency_interval_ms: its confidence interval.
        ratio: latency over the reference's (the first artifact's) beside it; drift cancels.
        ratio_interval: confidence interval of the ratio.
        samples_ms: each round's figure (the minimum over its runs).
        reference_ms: the reference's figure beside each of them.
        energy_mj: for one forward pass, or None where nothing can be read.
        energy_ratio: energy over the reference's beside it, or None.
        energy_ratio_interval: confidence interval of that ratio, or None.
        energy_source: "measured", or "modelled" where it is a stated power times the latency.
        kernels: the runtime's own times of its kernels, if asked for.
        stopped: why measuring ended: "interval" (narrow enough), "time" or "rounds".
        error: why there is no figure, or None.
        raw_ms: `samples_ms` with what others at work on the device's core cost; () for nothing.
        raw_reference_ms: and `reference_ms`.
        common_std: standard deviation of the ratio, as a fraction, that its rounds have in common
            and so do not show; part of the interval.
        slowed: logarithm of how many times slower others at work on the device made its core, where
            that is told: figures are without that.
        ratio_beside: the ratio beside them, where they slowed it down by 5 % or more.
        notes: what is to be known of the figures: rounds that were left out, why there is no
            energy.
    """

    key: str
    latency_ms: float = math.nan
    latency_interval_ms: tuple[float, float] = (math.nan, math.nan)
    ratio: float = math.nan
    ratio_interval: tuple[float, float] = (math.nan, math.nan)
    samples_ms: tuple[float, ...] = ()
    reference_ms: tuple[float, ...] = ()
    energy_mj: float | None = None
    energy_source: str = "measured"
    kernels: tuple[KernelTime, ...] = ()
    stopped: str = ""
    error: str | None = None
    energy_ratio: float | None = None
    energy_ratio_interval: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    raw_ms: tuple[float, ...] = ()
    raw_reference_ms: tuple[float, ...] = ()
    common_std: float = 0.0
    slowed: float = 0.0
    ratio_beside: float | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a figure."""
        return self.error is None

    @property
    def told(self) -> tuple[str, ...]:
        """Its notes, and what else was at work on the device, for people."""
        if self.ratio_beside is None:
            return self.notes
        times = f"{math.exp(self.slowed):.2f} times"
        beside = (
            f"other work on the machine slowed its core down {times}, which is taken out; "
            f"beside that the ratio is {self.ratio_beside:.3g}"
        )
        return beside, *self.notes


@runtime_checkable
class Profiler(TypingProtocol):
    """Measures networks on a device: the one thing a custom profiler implements."""

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure artifacts; the first is the reference of every ratio.

        Returns:
            One measurement for each artifact, in their order; a failure is a Measurement with
            `error` set, never an exception. Where the profiler has a `limit_s`, a call that takes
            longer than that many seconds is ended; without, after an hour and ten times
            `protocol.timeout_s`.
        """
