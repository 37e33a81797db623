"""The device of a search: measures candidates and finished networks against the dense one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.core.candidate import Candidate
from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    Measurement,
    MeasuringProtocol,
    ModuleCall,
    Profiler,
)
from autoprune.evaluate.quiet import evaluating
from autoprune.profile.checked import device_of
from autoprune.study.quietly import measure_quietly
from autoprune.study.settings import VerifySettings

if TYPE_CHECKING:
    from autoprune.cost.pace import Care
    from autoprune.export.sliced import OnnxSlicer
    from autoprune.graph.network import Network, Selection

#: A network as ONNX, and what makes its module.
Exported = tuple[bytes, Callable[[], nn.Module]]

#: How briefly candidates are measured that a latency table learns from: many measured roughly tell
#: more than few measured well, for each is one of many that its model smooths over. The time is
#: for each of them.
LEARNING = MeasuringProtocol(
    runs=3, min_rounds=5, max_rounds=20, width=0.03, timeout_s=1.0, between=3
)
#: Rounds at most while the table is further off than what is measured (see `Pace`).
ROUGH_ROUNDS = 6
#: How closely those are measured that it is checked on.
CHECKING = MeasuringProtocol(width=0.015, timeout_s=1.5)
#: Where that is too short for a slow network, it may take the time of so many runs of the dense
#: one: enough to warm it up and to visit it twice, the dense one beside it.
TABLE_RUNS = 25
#: Further sessions of the dense network, measured beside each batch of a latency table's.
TABLE_COPIES = 2


def verifying(
    settings: VerifySettings, seed: int, effort: float = 1.0, count: int = 1
) -> MeasuringProtocol:
    """How so many networks are measured that must hold a budget.

    Args:
        settings: how narrow, how long.
        seed: of the shuffled rounds.
        effort: the time limit and the narrowness aimed at are scaled by it.
        count: of the networks, without the dense one.
    """
    default = MeasuringProtocol()
    return replace(
        default,
        width=settings.width / effort**0.5,
        timeout_s=settings.timeout_s * effort * count,
        max_rounds=round(default.max_rounds * effort),
        seed=seed,
    )


class DeviceMeasure:
    """Measures end to end.

    Args:
        network: traced.
        profiler: of the device.
        select: candidate → which units it keeps.
        settings: how narrow, how long.
        seed: of the shuffled rounds.
    """

    def __init__(
        self,
        network: Network,
        profiler: Profiler,
        select: Callable[[Candidate], Selection],
        settings: VerifySettings,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.profiler = profiler
        self._select = select
        self._settings = settings
        self._seed = seed
        #: The dense network's energy, where a table fixes it: candidates' is their ratio times it.
        self.reference_energy_mj: float | None = None
        #: The dense network's latency when a latency table's candidates were last measured.
        self._dense_s = 0.0

    @property
    def spec(self) -> DeviceSpec:
        """What it measures on."""
        return device_of(self.profiler)

    @property
    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.network.example_inputs, dict(self.network.example_kwargs)

    @cached_property
    def dense(self) -> bytes:
        """The dense network as ONNX.

        Raises:
            ExportError: it can't be exported.
        """
        # The slicer has exported it already, where there was one to make.
        if "slicer" in self.__dict__:
            return self.slicer.dense
        return self.export(self.network.model)

    def export(self, model: nn.Module) -> bytes:
        """A network as ONNX, for the example inputs.

        Raises:
            ExportError: it can't be exported.
        """
        from autoprune.export.onnx import export_onnx

        with evaluating():
            return export_onnx(model, *self._inputs)

    @cached_property
    def slicer(self) -> OnnxSlicer:
        """The dense network's one ONNX export, of which candidates are slices."""
        from autoprune.export.sliced import OnnxSlicer
        from autoprune.pruning.surgery import apply

        return OnnxSlicer(self.network, apply, self._seed)

    def candidates(self, candidates: Sequence[Candidate], effort: float) -> list[Measurement]:
        """Measure candidates; their weights don't matter to the device, so they are only sliced.

        Args:
            candidates: distinct.
            effort: the time limit and the narrowness aimed at are scaled by it.

        Raises:
            ProfilerError: the profiler raised, or gave something else than one measurement for
                each network.
        """
        keys = ["dense", *(candidate.key for candidate in candidates)]
        models = self._sliced([self.network.dense, *candidates])
        protocol = verifying(self._settings, self._seed, effort, len(candidates))
        return self._measure(keys, models, protocol)[1:]

    def model(
        self, model: nn.Module, onnx: bytes, dense: bytes, effort: float = 1.0
    ) -> tuple[Measurement, Measurement]:
        """Measure a finished network beside the dense one; the dense one's comes first.

        Args:
            model: the network.
            onnx: its export.
            dense: the dense network's.
            effort: as of `candidates`.

        Raises:
            ProfilerError: the profiler raised, or gave something else than one measurement for
                each network.
        """
        networks = [(dense, self._dense_module), (onnx, lambda: model)]
        protocol = verifying(self._settings, self._seed, effort)
        beside, own = self._measure(["dense", "pruned"], networks, protocol)
        return beside, own

    def conditions(self) -> dict[str, str]:
        """Clocks and temperature at this moment, where they can be read.

        Raises:
            ProfilerError: the profiler tells them by itself, and can't.
        """
        from autoprune.profile.conditions import conditions_by

        return conditions_by(self.profiler)

    def close(self) -> None:
        """End what the profiler keeps open; measuring again opens it anew."""
        from autoprune.profile.closing import close

        close(self.profiler)

    def no_energy(self) -> str:
        """Why the device tells no energy; "" where it does. Measures the dense network briefly."""
        protocol = replace(
            MeasuringProtocol(), warmup=1, runs=1, min_rounds=2, max_rounds=2, width=1.0
        )
        (dense,) = self._measure(["dense"], [(self.dense, self._dense_module)], protocol)
        if not dense.ok:
            return f"the dense network can't be measured ({dense.error})"
        if dense.energy_mj is not None:
            return ""
        return "; ".join(dense.notes) or "it tells none"

    def for_table(
        self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
    ) -> list[Measurement]:
        """Measure candidates for a latency table; the first is the dense one, and counts too.

        A runtime's session of a network may be quicker or slower than the next one of the same
        (where its memory came to lie), for as long as it lives; every ratio of a call is to one
        session of the dense network. So some more of that are measured beside it, and ratios are
        told to the mean of all.

        How slow the networks are is known when they have been measured once: where the time was
        too short for them to be, they are measured again.

        Args:
            candidates: the dense one, and others.
            kernels: whether their kernels are to be profiled too.
            care: "close" where a table is checked on them; else one learns from them, and they are
                measured briefly ("usual") or more so ("rough").
        """
        copies = [candidates[0]] * TABLE_COPIES
        everything = [*candidates, *copies]
        keys = [str(index) for index in range(len(everything))]
        networks = self._sliced(everything)
        found: list[Measurement] = []
        for _ in range(2):
            protocol = replace(self.table_protocol(len(everything), care), kernels=kernels)
            found = self._measure(keys, networks, protocol)
            if found[0].ok:
                self._dense_s = found[0].latency_ms / 1e3
            wanted_s = self.table_protocol(len(everything), care).timeout_s
            if all(m.ok for m in found) or wanted_s <= 1.5 * protocol.timeout_s:
                break
        return _to_the_mean(found[: len(candidates)], found[len(candidates) :])

    def table_protocol(self, count: int = 1, care: Care = "usual") -> MeasuringProtocol:
        """How so many candidates of a latency table are measured (see `for_table`)."""
        each = CHECKING if care == "close" else LEARNING
        if care == "rough":
            each = replace(each, max_rounds=ROUGH_ROUNDS)
        seconds = max(each.timeout_s, TABLE_RUNS * self._dense_s)
        return replace(each, timeout_s=seconds * count, seed=self._seed)

    def _sliced(self, candidates: Sequence[Candidate]) -> list[Exported]:
        with evaluating():
            return [
                (self.slicer.slice(self._select(candidate)), partial(self._module, candidate))
                for candidate in candidates
            ]

    def _module(self, candidate: Candidate) -> nn.Module:
        from autoprune.pruning.surgery import apply

        return apply(self.network, self._select(candidate))

    def _dense_module(self) -> nn.Module:
        return self._module(self.network.dense)

    def _measure(
        self, keys: Sequence[str], networks: Sequence[Exported], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        from autoprune.export.onnx import input_arrays

        # A pruned network may call its inputs otherwise than the dense one.
        artifacts = [
            Artifact(
                key,
                onnx,
                input_arrays(onnx, *self._inputs),
                call=lambda make=make: ModuleCall(make().eval(), *self._inputs),  # type: ignore[misc]
            )
            for key, (onnx, make) in zip(keys, networks, strict=True)
        ]
        return [self._fixed(m) for m in measure_quietly(self.profiler, artifacts, protocol)]

    def _fixed(self, measurement: Measurement) -> Measurement:
        """With its energy told against the table's reference: drift since then cancels."""
        if self.reference_energy_mj is None or measurement.energy_ratio is None:
            return measurement
        energy = measurement.energy_ratio * self.reference_energy_mj
        return replace(measurement, energy_mj=energy)


def _to_the_mean(measured: list[Measurement], copies: Sequence[Measurement]) -> list[Measurement]:
    """Ratios to the mean of several sessions of the reference, of which the first is in `measured`.

    Latencies stay what they are, but the reference's, which is that mean too.
    """
    ratios = [c.ratio for c in copies if c.ok and math.isfinite(c.ratio) and c.ratio > 0]
    factor = math.exp(sum(map(math.log, ratios)) / (1 + len(ratios)))
    first, others = measured[0], measured[1:]
    if not first.ok or factor == 1.0:
        return measured
    low, high = first.latency_interval_ms
    slower = replace(
        first,
        latency_ms=first.latency_ms * factor,
        latency_interval_ms=(low * factor, high * factor),
    )
    return [slower, *(_told_to(m, factor) for m in others)]


def _told_to(measurement: Measurement, factor: float) -> Measurement:
    """With the ratio to a reference that is slower by a factor."""
    low, high = measurement.ratio_interval
    return replace(
        measurement,
        ratio=measurement.ratio / factor,
        ratio_interval=(low / factor, high / factor),
        reference_ms=tuple(r * factor for r in measurement.reference_ms),
        raw_reference_ms=tuple(r * factor for r in measurement.raw_reference_ms),
    )
