"""A signature's times and features of its shapes, each computed once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.landmarks import LANDMARKS, Landmarks
from autoprune.cost.staircase import Staircase

#: Where a figure came from, best first: every kernel's very shape was measured, lies between
#: measured ones, or does not.
SOURCES = np.array(["table", "interpolated", "extrapolated"])
EXTRAPOLATED = 2
#: Relative standard deviation outside the range that was measured, at least.
_OUTSIDE = 0.1

#: Mean, standard deviation and index into `SOURCES`.
Times = tuple[Floats, Floats, npt.NDArray[np.intp]]


class Lookup:
    """A signature's staircase with every shape that was ever asked for kept.

    Args:
        curve: the staircase.
        measured: (N, D) distinct shapes it was fitted to.
    """

    def __init__(self, curve: Staircase, measured: Ints) -> None:
        self.curve = curve
        self._landmarks = Landmarks(measured, curve.block)
        self._codes = np.zeros(0, dtype=np.int64)
        self._times: Times = np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp)
        self._features: Floats = np.zeros((0, LANDMARKS))

    def predict(self, x: Ints) -> Times:
        """Mean, standard deviation and source, each (N, K), of (N, K, D) shapes."""
        return self.look_up(x)[0]

    def look_up(self, x: Ints) -> tuple[Times, Floats]:
        """As `predict`, and the (N, K, LANDMARKS) features of the shapes (see `landmarks`)."""
        at = self._at(x)
        if at is None:
            flat, like = x.reshape(-1, x.shape[2]), x.shape[:2]
            mean, std, rank = self._compute(flat)
            features = self._landmarks.features(flat).reshape(*like, -1)
            return (mean.reshape(like), std.reshape(like), rank.reshape(like)), features
        mean, std, rank = self._times
        return (mean[at], std[at], rank[at]), self._features[at]

    def _at(self, x: Ints) -> npt.NDArray[np.intp] | None:
        """(N, K) where each shape is kept; None where one is too large for a code."""
        n, k, d = x.shape
        flat = x.reshape(n * k, d)
        bits = 62 // d
        if flat.max(initial=0) >> bits:
            return None
        code = flat @ (1 << bits * np.arange(d, dtype=np.int64))
        at = np.searchsorted(self._codes, code)
        found = at < len(self._codes)
        found[found] = self._codes[at[found]] == code[found]
        if not found.all():
            self._learn(code[~found], flat[~found])
            at = np.searchsorted(self._codes, code)
        return np.asarray(at.reshape(n, k))

    def _learn(self, code: Ints, shapes: Ints) -> None:
        new, first = np.unique(code, return_index=True)
        times = self._compute(shapes[first])
        codes = np.concatenate([self._codes, new])
        order = np.argsort(codes)
        self._codes = codes[order]
        mean, std, rank = (
            np.concatenate([a, b])[order] for a, b in zip(self._times, times, strict=True)
        )
        self._times = mean, std, rank
        features = self._landmarks.features(shapes[first])
        self._features = np.concatenate([self._features, features])[order]

    def _compute(self, shapes: Ints) -> Times:
        mean, std = self.curve.predict(shapes)
        known, inside = self.curve.measured(shapes), self.curve.inside(shapes)
        rank = np.where(known, 0, np.where(inside, 1, EXTRAPOLATED))
        return mean, np.where(inside, std, np.maximum(std, _OUTSIDE * mean)), rank
