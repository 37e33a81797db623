"""Energy predicted as latency is: the same kernels and end-to-end model, other factors.

A run takes energy where it takes time, but not in proportion: what a device draws when idle is
spent for as long as the run lasts, arithmetic and memory traffic come on top (with none of the
steps that time has), and kernels of one kind draw more than those of another. So the energy ratio
to the dense network is a Gaussian process (see `endtoend`) on top of the mean of two sums, of the
kernels' times and of their work, with a factor for each kernel signature in either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Costs, Floats
from autoprune.core.device import Measurement
from autoprune.core.errors import TableFormatError
from autoprune.core.workload import Ints, Workloads
from autoprune.cost.base import CostModel
from autoprune.cost.endtoend import EndToEnd, Points
from autoprune.cost.layout import Layout
from autoprune.cost.lookup import SOURCES
from autoprune.cost.records import Observation
from autoprune.cost.sums import KernelSums
from autoprune.cost.work import WorkModel

if TYPE_CHECKING:
    from autoprune.cost.table import LatencyTable

#: Prior standard deviation of a kernel signature's factor.
_FACTOR = 1.0

#: Fewer candidates than this with energy predict nothing.
FEWEST = 4

#: Deviation of an energy ratio of which no interval was told, as a fraction.
_UNKNOWN = 0.02


@dataclass(frozen=True)
class ReferenceEnergy:
    """What the dense network takes, fixed when the table was built.

    Attributes:
        mj: millijoules for one forward pass of the batch.
        source: "measured" or "modelled".
    """

    mj: float
    source: str = "measured"

    @classmethod
    def of(cls, measurement: Measurement) -> ReferenceEnergy | None:
        """The dense network's, or None where its measurement tells none."""
        if measurement.energy_mj is None:
            return None
        return cls(float(f"{measurement.energy_mj:.8g}"), measurement.energy_source)

    @classmethod
    def of_old(cls, table: LatencyTable) -> ReferenceEnergy | None:
        """Of a table whose header does not tell it: from the record of its dense candidate."""
        for o in table.observations:
            dense = table.reference
            if o.energy_mj is None or o.network != dense.fingerprint:
                continue
            if o.kept == tuple(dense.units.tolist()):
                said = table.device.details.get("energy", "")
                return cls(o.energy_mj, "modelled" if said.startswith("modelled") else "measured")
        return None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReferenceEnergy:
        """The inverse of `dataclasses.asdict`.

        Raises:
            TableFormatError: it is no positive number, or of an unknown source.
        """
        mj, source = float(data["mj"]), str(data["source"])
        if not (math.isfinite(mj) and mj > 0) or source not in ("measured", "modelled"):
            raise TableFormatError(
                "reference_energy of a latency table must be positive millijoules, measured or "
                f"modelled; got {mj} ({source})"
            )
        return cls(mj, source)


class EnergyFit:
    """Energy of whole networks, learned from that of the candidates that were measured.

    Args:
        rows: N candidates with energy: their layouts and kept units, (G,) each.
        points: of them, as latency's end-to-end model sees them.
        ratio: (N,) energy over the reference's.
        noise: (N,) standard deviation of each.
        batch: (N,) number of the batch it was measured in; below 0 where not known.
        drawn: (N,) which were drawn at random.
        work: guesses kernels' times from their work; None where `points` is of such guesses.
        usual_variance: of the kernel sums of what was measured.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Layout, Ints]],
        points: Points,
        ratio: Floats,
        noise: Floats,
        batch: npt.NDArray[np.intp],
        drawn: npt.NDArray[np.bool_],
        *,
        work: WorkModel | None,
        usual_variance: float,
    ) -> None:
        self._work = work
        if work is not None:
            points = _halved(points, [work.predict(layout, kept[None]) for layout, kept in rows])
        self._whole = EndToEnd(points, ratio, noise, batch, drawn=drawn, factor=_FACTOR)
        self._usual_variance = usual_variance
        self._least = 0.2 * float(ratio.min())

    def predict(
        self, layout: Layout, kept: Ints, sums: KernelSums, points: Points, dense: ReferenceEnergy
    ) -> Costs:
        """`energy_mj` of N candidates, with standard deviation and source.

        Args:
            layout: of their network.
            kept: (N, G) kept units.
            sums: of their kernels' times.
            points: made of those.
            dense: the reference's energy.
        """
        if self._work is not None:
            points = _halved(points, [self._work.predict(layout, kept)])
        mean, std = self._whole.predict(points)
        watts = mean / np.maximum(points.total, 1e-2)
        excess = watts**2 * np.maximum(sums.variance - self._usual_variance, 0.0)
        energy_mj = dense.mj * np.maximum(mean, self._least)
        source = np.array(SOURCES[sums.source])
        if dense.source == "modelled":
            source = np.full(len(energy_mj), "modelled")
        return Costs(
            {"energy_mj": energy_mj},
            {"energy_mj": dense.mj * np.sqrt(std**2 + excess)},
            {"energy_mj": source},
        )


def _halved(points: Points, guessed: Sequence[KernelSums]) -> Points:
    """Half of what was timed, half of what the work alone says."""
    total = np.concatenate([sums.total for sums in guessed])
    features = np.vstack([sums.features for sums in guessed])
    return replace(
        points,
        total=(points.total + total) / 2,
        features=np.hstack([points.features, features]) / 2,
    )


def energy_ratio(
    observation: Observation, reference: ReferenceEnergy | None
) -> tuple[float, float] | None:
    """A candidate's energy ratio and its standard deviation; None where its energy is not known.

    Tables that were measured before ratios were kept have millijoules alone.
    """
    if observation.energy_ratio is not None:
        ratio = observation.energy_ratio
        return ratio, observation.energy_std or _UNKNOWN * ratio
    if observation.energy_mj is None or reference is None:
        return None
    ratio = observation.energy_mj / reference.mj
    return ratio, _UNKNOWN * ratio


def tells_energy(observations: Sequence[Observation], reference: ReferenceEnergy | None) -> bool:
    """Whether enough candidates tell energy to predict it."""
    told = sum(energy_ratio(observation, reference) is not None for observation in observations)
    return reference is not None and told >= FEWEST


def fit_energy(
    observations: Sequence[Observation],
    dense: Sequence[bool],
    layouts: Mapping[str, Layout],
    points: Points,
    batch: npt.NDArray[np.intp],
    drawn: npt.NDArray[np.bool_],
    reference: ReferenceEnergy | None,
    *,
    timed: bool,
    usual_variance: float,
) -> EnergyFit | None:
    """Fit the energy of those candidates that tell it; None where too few do.

    Args:
        observations: N of them.
        dense: which are of the reference.
        layouts: of the networks, by fingerprint, the reference first.
        points: of the observations, as latency's end-to-end model sees them.
        batch: (N,) number of each one's batch; below 0 where not known.
        drawn: (N,) which were drawn at random.
        reference: its energy.
        timed: whether kernels were timed.
        usual_variance: of the kernel sums.
    """
    if not tells_energy(observations, reference):
        return None
    rows, ratios, noise = [], [], []
    for index, (observation, is_dense) in enumerate(zip(observations, dense, strict=True)):
        told = energy_ratio(observation, reference)
        if told is None:
            continue
        rows.append(index)
        # The reference is 1 by definition, however its own repeats scatter.
        ratios.append(1.0 if is_dense else told[0])
        noise.append(0.001 if is_dense else max(told[1], 0.001 * told[0]))
    return EnergyFit(
        [(layouts[observations[i].network], np.array(observations[i].kept)) for i in rows],
        points.at(rows),
        np.array(ratios),
        np.array(noise),
        batch[rows],
        drawn[rows],
        work=WorkModel(list(layouts.values())) if timed else None,
        usual_variance=usual_variance,
    )


class LatencyAlone(CostModel):
    """A latency table's latency, without the time that predicting energy takes.

    Args:
        table: which predicts both.
    """

    def __init__(self, table: LatencyTable) -> None:
        self._table = table

    @property
    def metrics(self) -> tuple[str, ...]:
        """Latency."""
        return ("latency_ms",)

    def predict(self, workloads: Workloads) -> Costs:
        """`latency_ms` of N candidates."""
        return self._table.predict_latency(workloads)

    def update(self, workloads: Workloads, measurements: Sequence[Measurement]) -> None:
        """Let the table learn."""
        self._table.update(workloads, measurements)
