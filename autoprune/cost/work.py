"""Kernel times guessed from work alone, for runtimes that do not tell each kernel's time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.context import FLAGS
from autoprune.cost.layout import Layout, work
from autoprune.cost.signatures import HEAVY
from autoprune.cost.sums import KernelSums

#: Blocks of channels whose work an end-to-end fit may choose between, and what an element read or
#: written weighs against a multiply-accumulate.
_BLOCKS, _ELEMENT = ((1, 1), (1, 16), (8, 8), (16, 16)), 8.0


class WorkModel:
    """Stands in for `KernelModel` where no kernel was ever timed.

    Each heavy signature gives a feature for each blocking of its channels; the end-to-end model
    finds the factor of each.

    Args:
        layouts: the networks that were measured, the reference first.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.parts = list(
            dict.fromkeys(k.signature for one in layouts for k in one.kernels if k.op in HEAVY)
        )
        self.unit = 1.0
        dense = self.predict(layouts[0], layouts[0].units[None])
        self.unit = float(dense.total[0]) or 1.0

    def predict(self, layout: Layout, kept: Ints) -> KernelSums:
        """Guessed kernel times of (N, G) candidates, in units of the reference's."""
        width = len(_BLOCKS)
        parts: Floats = np.zeros((len(kept), width * len(self.parts) + 1))
        column = {s: i * width for i, s in enumerate(self.parts)}
        unknown = np.zeros(len(kept))
        for signature, x in layout.shapes(kept).of.items():
            kernels = [layout.kernels[i] for i in layout.by_signature[signature]]
            x = x[:, :, : x.shape[2] - FLAGS]
            for b, block in enumerate(_BLOCKS):
                done = work(kernels, x, block)
                time = (done[:, :, 0] + _ELEMENT * done[:, :, 1:].sum(axis=2)).sum(axis=1) / width
                at = column[signature] + b if signature in column else -1
                parts[:, at] += time
                if signature not in column and kernels[0].op in HEAVY:
                    unknown += time
        source = np.where(unknown > 0, 2, 1)
        none = np.zeros(len(kept))  # no profile, whose cost for each kernel were to be taken off
        parts /= self.unit
        shapes = np.zeros((len(kept), 0))  # the blocks stand for them
        variance = (unknown / self.unit) ** 2
        return KernelSums(parts.sum(axis=1), parts, shapes, none, variance, source)

    def least_sure(self, layout: Layout, kept: Ints, count: int) -> Ints:
        """Which candidates to measure next: as they come, for one guess is as good as another."""
        del layout
        return np.arange(min(count, len(kept)), dtype=np.int64)

    def share(self, layout: Layout, signatures: Collection[str]) -> float:
        """Fraction of a dense network's time: 0, since no kernel of it was timed."""
        del layout, signatures
        return 0.0
