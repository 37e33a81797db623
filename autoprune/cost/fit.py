"""What is learned of a device from measured candidates: kernels, whole networks, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.endtoend import EndToEnd, Points
from autoprune.cost.energy import EnergyFit, ReferenceEnergy, fit_energy
from autoprune.cost.kernels import KernelModel
from autoprune.cost.layout import Layout
from autoprune.cost.noise import ratio_noise
from autoprune.cost.records import Observation
from autoprune.cost.sums import KernelSums
from autoprune.cost.work import WorkModel

#: Standard deviation of the reference's ratio to itself.
_EXACT = 0.001
#: No ratio is predicted below so much of the usual error.
_OF_USUAL = 0.2


@dataclass(frozen=True, eq=False)
class Fit:
    """Models of one table, fitted to each other.

    Attributes:
        kernels: kernels' times, or where none were told what stands in for them.
        whole: whole networks' latency ratios, from sums of kernels.
        energy: makes the model of energy when it is asked for; None where too few tell it.
        numbers: number of each network, by its layout's fingerprint.
        usual_variance: median of the variance of measured candidates' kernel sums.
    """

    kernels: KernelModel | WorkModel
    whole: EndToEnd
    energy: Callable[[], EnergyFit | None]
    numbers: Mapping[str, int]
    usual_variance: float

    @classmethod
    def of(
        cls,
        kernels: KernelModel | WorkModel,
        layouts: Mapping[str, Layout],
        observed: Sequence[Observation],
        reference: Layout,
        reference_energy: ReferenceEnergy | None,
    ) -> Fit:
        """Fit whole networks to measured candidates.

        Args:
            kernels: already fitted.
            layouts: of the networks, by fingerprint.
            observed: candidates, those of one network after the other in the order of `layouts`.
            reference: the network whose dense form every ratio is to.
            reference_energy: of it, where known.
        """
        timed = isinstance(kernels, KernelModel)
        numbers = {fingerprint: i for i, fingerprint in enumerate(layouts)}
        # The reference is 1 by definition, however its own repeats scatter.
        own = [o.is_dense(reference) for o in observed]
        ratio = [1.0 if r else o.ratio for o, r in zip(observed, own, strict=True)]
        noise = np.full(len(observed), _EXACT)
        others = [i for i, r in enumerate(own) if not r]
        noise[others] = ratio_noise([observed[i] for i in others])
        kept = {f: np.array([o.kept for o in observed if o.network == f]) for f in layouts}
        rows = [(layouts[f], k) for f, k in kept.items() if len(k)]
        if not any(own):
            rows.append((reference, reference.units[None]))
            ratio.append(1.0)
            noise = np.append(noise, _EXACT)
        seen = [_points(kernels, numbers, layout, k) for layout, k in rows]
        points = Points.concatenate([p for _, p in seen])
        usual = float(np.median(np.concatenate([s.variance for s, _ in seen])))
        factor = 0.1 if timed else 1.0
        batch = _batches(observed, own, len(ratio))
        drawn = _drawn(observed, own, len(ratio), timed=timed)
        whole = EndToEnd(points, np.array(ratio), noise, batch, drawn=drawn, factor=factor)
        energy = partial(
            fit_energy,
            observed,
            own,
            layouts,
            points,
            batch,
            drawn,
            reference_energy,
            timed=timed,
            usual_variance=usual,
        )
        return cls(kernels, whole, cache(energy), numbers, usual)

    def points(self, layout: Layout, kept: Ints) -> tuple[KernelSums, Points]:
        """(N, G) candidates of a network as the models see them."""
        return _points(self.kernels, self.numbers, layout, kept)

    def ratio(self, sums: KernelSums, points: Points) -> tuple[Floats, Floats, Ints]:
        """Ratio to the reference, its standard deviation, index into `SOURCES`; each (N,)."""
        mean, std = self.whole.predict(points)
        excess = np.maximum(sums.variance - self.usual_variance, 0.0)
        usual = float(np.sqrt(max(self.usual_variance, 1e-8)))
        return np.maximum(mean, _OF_USUAL * usual), np.sqrt(std**2 + excess), sums.source


def _points(
    kernels: KernelModel | WorkModel, numbers: Mapping[str, int], layout: Layout, kept: Ints
) -> tuple[KernelSums, Points]:
    sums = kernels.predict(layout, kept)
    number = numbers.get(layout.fingerprint, len(numbers))
    return sums, Points(
        sums.total,
        sums.features,
        sums.shapes,
        sums.nodes,
        layout.written(kept),
        np.full(len(kept), number, dtype=np.intp),
        list(kept / layout.units),
    )


def _batches(
    observed: Sequence[Observation], own: Sequence[bool], count: int
) -> npt.NDArray[np.intp]:
    """(count,) number of each candidate's batch; −1 where not known, and for the reference."""
    numbers: dict[str, int] = {}
    result = np.full(count, -1, dtype=np.intp)
    for i, (observation, is_reference) in enumerate(zip(observed, own, strict=True)):
        if observation.batch and not is_reference:
            result[i] = numbers.setdefault(observation.batch, len(numbers))
    return result


def _drawn(
    observed: Sequence[Observation], own: Sequence[bool], count: int, *, timed: bool
) -> npt.NDArray[np.bool_]:
    """(count,) which were drawn at random; not the reference.

    Those that were held out, and those whose kernels were not profiled where others' were: what to
    profile next is chosen by what the model knows least of.
    """
    result = np.zeros(count, dtype=bool)
    for i, (observation, is_reference) in enumerate(zip(observed, own, strict=True)):
        further = timed and observation.origin == "build" and not observation.kernel_ms
        result[i] = not is_reference and (further or observation.origin == "check")
    return result
