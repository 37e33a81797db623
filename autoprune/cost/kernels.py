"""How long each kernel of a network takes inside the whole network, learned from profiled runs.

Times are pooled by signature, freed of the machine's drift (see `pooling`) and fitted as a
staircase in the channel counts. A signature that was never measured is an extrapolation (see
`unseen`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.context import FLAGS
from autoprune.cost.emptied import EMPTY
from autoprune.cost.layout import Layout, Shapes
from autoprune.cost.lookup import EXTRAPOLATED, Lookup, Times
from autoprune.cost.pooling import Pool, Run, pool, run_scales
from autoprune.cost.signatures import HEAVY, KernelLayout
from autoprune.cost.staircase import Staircase
from autoprune.cost.sums import Bools, KernelSums, Summing, Timed
from autoprune.cost.unseen import UnseenKernels

#: Relative standard deviations: of a kernel's time in one run at least; of single kernels around
#: their signature.
_NOISE, _BETWEEN = 0.005, 0.03
#: Noise is relative to a shape's time; where it mostly took none, to this fraction of the usual.
_FUSED = 0.2


class KernelModel:
    """Kernel times by signature.

    Args:
        runs: at least one, of any networks of one device; those of the reference network set the
            unit.

    Attributes:
        parts: signatures with columns of their own in `KernelSums.features`; the others share the
            last ones.
        scales: (runs,) how much slower than usual the machine was in each run.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._block = runs[0].layout.block
        pools = pool(runs)
        self.scales = run_scales(pools, runs)
        even = {s: p.t / self.scales[p.run] for s, p in pools.items()}
        sums = {s: float(t.sum()) for s, t in even.items()}
        total = sum(sums.values())
        self._curves = {
            s: _curve(p, even[s], self._block, choose=sums[s] > 0.01 * total)
            if sums[s] > 0
            else None
            for s, p in pools.items()
        }
        self._longest = {s: float(t.max()) for s, t in even.items() if sums[s] > 0}
        self._factors: dict[tuple[str, int], float] = {}
        for signature, curve in self._curves.items():
            if curve is not None and not signature.endswith(EMPTY):
                self._factors.update(_factors(pools[signature], even[signature], curve.curve))
        self._unseen = UnseenKernels(pools, even)
        self.parts = [s for s in sorted(sums, key=lambda s: -sums[s]) if sums[s] > 0.01 * total][
            :24
        ]
        self._column = {s: i for i, s in enumerate(self.parts)}
        self._seen: dict[tuple[str, ...], tuple[Timed, Timed]] = {}
        self.unit = self.nodes = 1.0
        first = next((r for r in runs if r.dense), runs[0])
        dense = self.predict(first.layout, first.kept[None])
        self.unit, self.nodes = float(dense.total[0]) or 1.0, float(dense.nodes[0]) or 1.0

    def predict(self, layout: Layout, kept: Ints) -> KernelSums:
        """Kernel times of (N, G) candidates of a network."""
        found, emptied = layout.shapes(kept), layout.emptied(kept)
        sums = Summing(len(kept), len(self.parts))
        with_channels, without = self._timed(layout)
        if emptied.any():
            self._add(sums, with_channels, layout, found, ~emptied)
            self._add(sums, without, layout, found, emptied)
        else:
            self._add(sums, with_channels, layout, found, None)
        return sums.told(self.unit, self.nodes)

    def _add(
        self, sums: Summing, timed: Timed, layout: Layout, found: Shapes, where: Bools | None
    ) -> None:
        """Add the kernels of one case, with channels or without, (N, K) where they are such."""
        mean, std, rank = np.zeros((3, len(sums.total), len(layout.kernels)))
        shapes = []
        for name, signature in timed.names:
            indices, x = layout.by_signature[signature], found.of[signature]
            times, features = self._times(name, layout, indices, x)
            mean[:, indices], std[:, indices], rank[:, indices] = times
            if features is not None and name in self._column:
                shapes.append((self._column[name], indices, features))
        if where is not None:
            mean, std, rank = (np.where(where, v, 0) for v in (mean, std, rank))
        sums.add(timed, mean, std, rank, found.ragged, shapes)

    def _timed(self, layout: Layout) -> tuple[Timed, Timed]:
        """A network's kernels that take time: with channels, and without."""
        # The fingerprint alone does not tell how an older version called the signatures.
        key = (layout.fingerprint, *layout.by_signature)
        if key not in self._seen:
            self._seen[key] = self._timed_case(layout, ""), self._timed_case(layout, EMPTY)
        return self._seen[key]

    def _timed_case(self, layout: Layout, suffix: str) -> Timed:
        names = []
        factors, longest = np.ones(len(layout.kernels)), np.full(len(layout.kernels), np.nan)
        parts = np.zeros((len(layout.kernels), len(self.parts) + 1))
        for signature, indices in layout.by_signature.items():
            name = signature + suffix
            if self._takes_none(name, layout.kernels[indices[0]]):
                continue
            names.append((name, signature))
            longest[indices] = self._longest.get(name, np.nan)
            parts[indices, self._column.get(name, -1)] = 1.0
            if not suffix:
                keys = [(layout.fingerprint, int(i)) for i in indices]
                factors[indices] = [self._factors.get(key, 1.0) for key in keys]
        return Timed(tuple(names), factors, longest, parts)

    @property
    def knows_emptied(self) -> bool:
        """Whether candidates were timed in which groups had been removed whole."""
        return any(signature.endswith(EMPTY) for signature in self._curves)

    def _takes_none(self, signature: str, kernel: KernelLayout) -> bool:
        """Whether kernels of a signature (with `EMPTY` behind it or not) take no time."""
        if signature in self._curves:
            return self._curves[signature] is None
        if signature.endswith(EMPTY):
            return kernel.op in HEAVY  # without channels it is not run
        return self._unseen.free(kernel)

    def _times(
        self, signature: str, layout: Layout, indices: npt.NDArray[np.intp], x: Ints
    ) -> tuple[Times, Floats | None]:
        """Of kernels of one signature (with `EMPTY` behind it or not) that take time, (N, K).

        And the features of their shapes, where those are known.
        """
        curve = self._curves.get(signature)
        if curve is not None:
            return curve.look_up(_asked(signature, x))
        kernels = [layout.kernels[i] for i in indices]
        empty = signature.endswith(EMPTY)
        mean, std = (self._unseen.alone if empty else self._unseen.predict)(kernels, x)
        return (mean, std, np.full(mean.shape, EXTRAPOLATED, dtype=np.intp)), None

    def least_sure(self, layout: Layout, kept: Ints, count: int) -> Ints:
        """Which of (N, G) candidates to measure next (see `LatencyTable.least_sure`)."""
        unsure, shapes = [], []
        offset = 0
        for signature, x in layout.shapes(kept).of.items():
            curve = self._curves.get(signature)
            if curve is None:
                continue
            _, std, _ = curve.predict(x)
            distinct, inverse = np.unique(x.reshape(-1, x.shape[2]), axis=0, return_inverse=True)
            unsure.append(std)
            shapes.append(inverse.reshape(std.shape) + offset)
            offset += len(distinct)
        if not unsure:
            return np.arange(min(count, len(kept)), dtype=np.int64)
        std, shape = np.concatenate(unsure, axis=1), np.concatenate(shapes, axis=1)
        total = self.predict(layout, kept).total * self.unit
        done = np.zeros(offset, dtype=bool)
        chosen: list[int] = []
        for _ in range(min(count, len(kept))):
            gain = np.where(done[shape], 0.0, std**2).sum(axis=1) / np.maximum(total, 1e-12) ** 2
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            done[shape[best]] = True
        return np.array(chosen, dtype=np.int64)

    def share(self, layout: Layout, signatures: Collection[str]) -> float:
        """Fraction of a dense network's time that its kernels of some signatures take."""
        total = known = 0.0
        for signature, x in layout.shapes(layout.units[None]).of.items():
            curve = self._curves.get(signature)
            if curve is not None:
                time = float(curve.predict(x)[0].sum())
                total += time
                known += time if signature in signatures else 0.0
        return known / total if total > 0 else 0.0


def _asked(signature: str, x: Ints) -> Ints:
    """Shapes as a signature's curve knows them: no channels count as one."""
    return np.maximum(x, 1) if signature.endswith(EMPTY) else x


def _curve(one: Pool, even: Floats, block: int, *, choose: bool) -> Lookup:
    """Fit the staircase of a signature; the noise is that of repeats of a shape.

    Single kernels that never took time of their own are fused there whatever their shape: they
    tell nothing of the others.
    """
    ever = np.bincount(one.owner, even, minlength=len(one.owners)) > 0
    rows = ever[one.owner]
    even = even[rows]
    shapes, inverse = one.of(rows).shapes()
    median = np.array([np.median(even[inverse == i]) for i in range(len(shapes))])
    # A shape that mostly took none (fused in some candidates) is no surer than those that did.
    usual = float(median[median > 0].mean()) if median.any() else float(even.mean())
    scale = np.where(median > 0, median, _FUSED * usual)
    count = np.bincount(inverse, minlength=len(shapes))
    relative = (np.abs(even - median[inverse]) / scale[inverse])[count[inverse] > 1]
    spread = 1.48 * float(np.median(relative)) * 1.2 if len(relative) else 0.03
    noise = np.maximum(spread / np.sqrt(count), _NOISE) * scale
    curve = Staircase(shapes, median, noise, choose=choose, flags=FLAGS, block=block)
    return Lookup(curve, shapes)


def _factors(one: Pool, even: Floats, curve: Staircase) -> dict[tuple[str, int], float]:
    """Each single kernel's time against its signature's, shrunk by how often it was seen."""
    if len(one.owners) < 2:
        return {}
    shapes, inverse = one.shapes()
    mean = curve.predict(shapes)[0][inverse]
    relative = even / np.maximum(mean, 1e-12) - 1.0
    spread = max(1.48 * float(np.median(np.abs(relative - np.median(relative)))), _NOISE)
    result = {}
    for number, owner in enumerate(one.owners):
        mine = relative[one.owner == number]
        weight = _BETWEEN**2 / (_BETWEEN**2 + spread**2 / len(mine))
        result[owner] = 1.0 + weight * float(np.clip(np.median(mine), -1.0, 2.0))
    return result
