"""A latency table: what was measured of one device, and the predictions made from it."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.cost import Costs, Floats
from autoprune.core.device import UNSTEADY, DeviceSpec, Measurement
from autoprune.core.errors import CandidateError, TableError
from autoprune.core.workload import Ints, KernelGraph, Workloads
from autoprune.cost.base import CostModel
from autoprune.cost.borrow import Borrowed, aligned
from autoprune.cost.context import channel_block
from autoprune.cost.energy import LatencyAlone, ReferenceEnergy, tells_energy
from autoprune.cost.fit import Fit
from autoprune.cost.kernels import KernelModel
from autoprune.cost.layout import Layout
from autoprune.cost.lookup import SOURCES
from autoprune.cost.plateaus import edges
from autoprune.cost.pooling import Run
from autoprune.cost.records import Observation, usable
from autoprune.cost.work import WorkModel


class LatencyTable(CostModel):
    """Predicts latency from measured kernels of one device, runtime, precision and thread count.

    Holds candidates of one or more networks as they were measured: each one's latency ratio to
    the dense reference network, run beside it, and where the runtime tells them its kernels'
    times. `latency_ms` is the predicted ratio times `reference_ms`; where the device told energy,
    `energy_mj` is predicted likewise.

    Args:
        device: what it was measured on.
        reference_ms: the reference's latency, in ms per batch, when the table was built.
        info: what else the file's header tells: date, protocol, error, ...

    Raises:
        TableError: `reference_ms` is not finite and above 0.
    """

    def __init__(
        self, device: DeviceSpec, reference_ms: float, info: Mapping[str, Any] | None = None
    ) -> None:
        if not (np.isfinite(reference_ms) and reference_ms > 0):
            raise TableError(
                f"reference_ms of a latency table must be finite and above 0, got {reference_ms}"
            )
        self.device = device
        self.reference_ms = float(reference_ms)
        self.info: dict[str, Any] = dict(info or {})
        #: The reference's energy when the table was built; None where the device told none.
        self.reference_energy: ReferenceEnergy | None = None
        self.layouts: dict[str, Layout] = {}
        self.observations: list[Observation] = []
        #: Kernel times taken over from other tables of the device.
        self.borrowed: list[Borrowed] = []
        self._known: weakref.WeakKeyDictionary[KernelGraph, Layout] = weakref.WeakKeyDictionary()
        self._fitted: Fit | None = None
        self._kernels: KernelModel | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Latency, and energy where enough candidates tell it."""
        energy = tells_energy(self.observations, self.reference_energy)
        return ("latency_ms", "energy_mj") if energy else ("latency_ms",)

    def narrowed(self, metrics: Collection[str]) -> CostModel:
        """Without energy, where that is not asked for."""
        return self if "energy_mj" in metrics else LatencyAlone(self)

    @property
    def reference(self) -> Layout:
        """The network whose dense form every ratio is to: the first that was measured.

        Raises:
            TableError: nothing was measured yet.
        """
        if not self.layouts:
            raise TableError("a latency table must hold a measured candidate, this one has none")
        return next(iter(self.layouts.values()))

    @property
    def disturbed(self) -> bool:
        """Whether its times hold what else was at work on the device, which was not steady.

        Where that is taken out (see `Measurement.raw_ms`) they don't.
        """
        return any(
            note.startswith(UNSTEADY)
            for o in self.observations
            if o.is_dense(self.reference) and not o.raw_ms
            for note in o.notes
        )

    def layout(self, graph: KernelGraph) -> Layout:
        """The layout of a traced network, described once."""
        layout = self._known.get(graph)
        if layout is None:
            layout = self._known[graph] = Layout.of(graph, channel_block(self.device))
            stored = self.layouts.get(layout.fingerprint)
            if stored is not None and stored.kernels != layout.kernels:
                # Measured when kernels were described otherwise: the same ones in the same order.
                self.layouts[layout.fingerprint] = layout
                self._kernels = self._fitted = None
        return layout

    def knows(self, graph: KernelGraph) -> bool:
        """Whether it holds measurements of this very network."""
        return self.layout(graph).fingerprint in self.layouts

    def add(
        self,
        workloads: Workloads,
        measurements: Sequence[Measurement],
        origin: str = "build",
        batch: str = "",
    ) -> int:
        """Take in measurements of N candidates; failed ones are left out.

        Args:
            workloads: of the candidates, in the order of the measurements.
            measurements: ratios must be to this table's reference.
            origin: see `Observation.origin`.
            batch: see `Observation.batch`.

        Returns:
            How many were taken in.

        Raises:
            CandidateError: as many measurements as candidates were not given.
        """
        if len(workloads) != len(measurements):
            raise CandidateError(
                f"a table must be given one measurement for each candidate; got "
                f"{len(measurements)} for {len(workloads)}"
            )
        layout = self.layout(workloads.graph)
        taken = [(k, m) for k, m in zip(workloads.kept, measurements, strict=True) if usable(m)]
        if taken:
            self.layouts.setdefault(layout.fingerprint, layout)
            new = [Observation.of(layout, k, m, origin, batch) for k, m in taken]
            for observation, (_, measurement) in zip(new, taken, strict=True):
                if self.reference_energy is None and self._is_reference(observation):
                    self.reference_energy = ReferenceEnergy.of(measurement)
            self.observations += new
            self._fitted = None
            if any(o.kernel_ms for o in new):
                self._kernels = None
        return len(taken)

    def update(self, workloads: Workloads, measurements: Sequence[Measurement]) -> None:
        """Learn end-to-end corrections: a measured candidate is then predicted as measured."""
        self.add(workloads, measurements, "verified")

    def predict(self, workloads: Workloads) -> Costs:
        """`latency_ms`, and `energy_mj` where known, with standard deviations and sources.

        Raises:
            TableError: nothing was measured yet.
        """
        layout = self.layout(workloads.graph)
        fit = self._fit()
        sums, points = fit.points(layout, workloads.kept)
        latency = self._latency(*fit.ratio(sums, points))
        energy = fit.energy()
        if energy is None or self.reference_energy is None:
            return latency
        dense = self.reference_energy
        return latency.merged(energy.predict(layout, workloads.kept, sums, points, dense))

    def predict_latency(self, workloads: Workloads) -> Costs:
        """`latency_ms` alone."""
        return self._latency(*self.predict_ratio(self.layout(workloads.graph), workloads.kept))

    def _latency(self, ratio: Floats, std: Floats, source: Ints) -> Costs:
        return Costs(
            {"latency_ms": ratio * self.reference_ms},
            {"latency_ms": std * self.reference_ms},
            {"latency_ms": SOURCES[source]},
        )

    def predict_ratio(self, layout: Layout, kept: Ints) -> tuple[Floats, Floats, Ints]:
        """Ratio to the reference, its standard deviation, index into `SOURCES`; each (N,)."""
        fit = self._fit()
        return fit.ratio(*fit.points(layout, kept))

    def measuring_std(self, layout: Layout, kept: Ints, noise: Floats, batches: int = 1) -> Floats:
        """How far measured ratios are from the true ones that are predicted: (N,) deviations.

        Args:
            layout: of the network.
            kept: (N, G) kept units of the candidates.
            noise: (N,) standard deviation of each ratio, as its rounds tell it (see `noise`).
            batches: that each was measured in.
        """
        fit = self._fit()
        return fit.whole.measuring_std(fit.points(layout, kept)[1], noise, batches)

    def least_sure(self, graph: KernelGraph, kept: Ints, count: int) -> Ints:
        """Which of (N, G) candidates to measure next: (count,) their indices.

        One after the other, the candidate whose kernels' times are the least certain, those of
        the ones before it taken as measured.
        """
        return self._fit().kernels.least_sure(self.layout(graph), kept, count)

    def covered(self, graph: KernelGraph) -> float:
        """Fraction of a dense network's kernel time whose kernels were measured before it.

        Of kernels taken over from other tables alone.
        """
        known = {s for b in self.borrowed for s in b.layout.by_signature}
        return self._fit().kernels.share(self.layout(graph), known)

    def plateau_edges(
        self,
        graph: KernelGraph,
        group: str,
        *,
        minimum: int = 1,
        choices: int = 32,
        within: float = 0.0005,
    ) -> list[int]:
        """Kept counts of a group that are worth offering: the right edge of each cost level.

        Args:
            graph: of the network.
            group: name of the group; the others are taken as dense.
            minimum: fewest units kept.
            choices: at most this many, 2 or more. Where time has no steps, they are spread
                evenly over it.
            within: levels closer than this fraction of the network's latency count as one.

        Returns:
            Rising kept counts; the first is `minimum`, the last the dense count. Before them 0,
            where the group can be removed whole and candidates without it were faster.

        Raises:
            CandidateError: the network has no such group, or `minimum` is out of range.
            TableError: nothing was measured yet.
        """
        layout = self.layout(graph)
        found = self.layout_edges(layout, group, minimum, choices, within)
        if minimum <= 1 and group in graph.removable and self._saves(layout, group, within):
            return [0, *found]
        return found

    def _saves(self, layout: Layout, group: str, within: float) -> bool:
        """Whether removing a group whole is known to be faster than keeping one unit."""
        kernels = self._fit().kernels
        if not isinstance(kernels, KernelModel) or not kernels.knows_emptied:
            return False
        kept = np.repeat(layout.units[None], 2, axis=0)
        kept[:, layout.groups.index(group)] = (0, 1)
        sums = kernels.predict(layout, kept)
        gone, narrow = sums.total
        return bool(gone + max(within, float(np.sqrt(sums.variance[0]))) < narrow)

    def layout_edges(
        self,
        layout: Layout,
        group: str,
        minimum: int = 1,
        choices: int = 32,
        within: float = 0.0005,
    ) -> list[int]:
        """As `plateau_edges`, of a network that is known by its layout alone."""
        return edges(layout, group, self._fit().kernels.predict, minimum, choices, within)

    def save(self, path: str | Path) -> Path:
        """Write the table as text, all of it or nothing (see `format`)."""
        from autoprune.cost.format import write

        return write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, device: DeviceSpec | None = None) -> LatencyTable:
        """Read a table.

        Args:
            path: of the file.
            device: what it is to be used on; a table of another one is refused.

        Raises:
            TableFormatError: it can't be read, is truncated or edited, or of a newer schema.
            TableMismatchError: it was measured on another device, runtime, precision or thread
                count; says which differ.
        """
        from autoprune.cost.format import read

        return read(Path(path), device)

    def _fit(self) -> Fit:
        if self._fitted is None:
            reference = self.reference
            timed = any(o.kernel_ms for o in self.observations)
            self._fitted = Fit.of(
                self._timed_kernels() if timed else WorkModel(list(self.layouts.values())),
                self.layouts,
                [o for f in self.layouts for o in self.observations if o.network == f],
                reference,
                self.reference_energy,
            )
        return self._fitted

    def _timed_kernels(self) -> KernelModel:
        """The kernel model, fitted anew only when kernels were timed since."""
        if self._kernels is None:
            own = self._own_runs()
            self._kernels = KernelModel([*own, *aligned(self.borrowed, own)])
        return self._kernels

    def _own_runs(self) -> list[Run]:
        return [
            Run(
                self.layouts[o.network],
                np.array(o.kept, dtype=np.int64),
                np.array(o.kernel_ms),
                self._is_reference(o),
                o.ratio,
            )
            for o in self.observations
            if o.kernel_ms
        ]

    def timed_runs(self) -> list[tuple[Run, float]]:
        """Its runs whose kernels were timed, each with how much slower than usual it was."""
        own = self._own_runs()
        return list(zip(own, self._timed_kernels().scales.tolist(), strict=False)) if own else []

    def _is_reference(self, observation: Observation) -> bool:
        return observation.is_dense(self.reference)
