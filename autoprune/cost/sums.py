"""Sums over the kernels of candidates, as end-to-end latency is fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.cost.landmarks import LANDMARKS

#: What the factor of a signature may depend on, besides its own constant: how many octaves a
#: kernel takes less than the longest of them, and whether it reads a ragged number of channels; and
#: by how much against the constant.
_FEATURES, _OCTAVE, _RAGGED = 3, 0.2, 0.1


Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KernelSums:
    """Predicted kernel times of N candidates, in units of the reference's.

    Attributes:
        total: (N,) over all kernels.
        features: (N, F) over the kernels of each part, whose factor end-to-end runs tell: the sum,
            and what the factor may depend on (see `KernelModel.parts`).
        shapes: (N, S) sums over the kernels of each part of their times' shares in the features of
            their shapes (see `landmarks`).
        nodes: (N,) how many kernels take time of their own, over the reference's number.
        variance: (N,) of the whole sum.
        source: (N,) index into `SOURCES`.
    """

    total: Floats
    features: Floats
    shapes: Floats
    nodes: Floats
    variance: Floats
    source: npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Timed:
    """Which of a network's K kernels take time, with channels or without, and how they are summed.

    Attributes:
        names: of each signature that takes time, as it was measured and as the layout knows it.
        factors: (K,) each kernel's time against its signature's.
        longest: (K,) the longest time that was measured of its signature; NaN for none.
        parts: (K, P + 1) 1 for the part that a kernel belongs to.
    """

    names: tuple[tuple[str, str], ...]
    factors: Floats
    longest: Floats
    parts: Floats


class Summing:
    """Sums that kernels are added to.

    Args:
        count: N candidates.
        parts: P signatures with columns of their own.
    """

    def __init__(self, count: int, parts: int) -> None:
        self.total = np.zeros(count)
        self._features = np.zeros((count, parts + 1, _FEATURES))
        self._shapes = np.zeros((count, parts, LANDMARKS))
        self._variance, self._nodes = np.zeros(count), np.zeros(count)
        self._source = np.zeros(count, dtype=np.intp)

    def add(
        self,
        timed: Timed,
        mean: Floats,
        std: Floats,
        rank: Floats,
        ragged: Bools,
        shapes: Sequence[tuple[int, npt.NDArray[np.intp], Floats]],
    ) -> None:
        """Add kernels of N candidates.

        Args:
            timed: which they are.
            mean: (N, K) their signatures' times; 0 for a kernel that is not among them.
            std: (N, K) standard deviations.
            rank: (N, K) indices into `SOURCES`.
            ragged: (N, K) see `Shapes`.
            shapes: for a part, which kernels are of its signature, and their shapes' features.
        """
        times = mean * timed.factors
        with np.errstate(invalid="ignore"):
            octaves = np.log2(np.maximum(times, 1e-6 * timed.longest) / timed.longest)
        octaves = np.where(np.isnan(timed.longest), 0.0, octaves)
        each = np.stack([times, _OCTAVE * times * octaves, _RAGGED * times * ragged], axis=1)
        self._features += (each @ timed.parts).swapaxes(1, 2)
        for part, indices, features in shapes:
            self._shapes[:, part] += np.einsum("nk,nkm->nm", times[:, indices], features)
        self.total += times.sum(axis=1)
        self._nodes += (times > 0).sum(axis=1)
        self._variance += (std**2).sum(axis=1)
        np.maximum(self._source, rank.max(axis=1, initial=0).astype(np.intp), out=self._source)

    def told(self, unit: float, nodes: float) -> KernelSums:
        """The sums, in units of the reference's total and number of kernels."""
        count = len(self.total)
        return KernelSums(
            self.total / unit,
            self._features.reshape(count, -1) / unit,
            self._shapes.reshape(count, -1) / unit,
            self._nodes / nodes,
            self._variance / unit**2,
            self._source,
        )
