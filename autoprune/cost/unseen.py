"""Times of kernels whose signature was never measured: an extrapolation, and its deviation says so.

Convolutions and linear layers are predicted from the shapes of all that were measured: in
proportion to their work, as far as sizes go that were never seen, and bent to what like shapes take
(see `shapes`). What has no such shape, or of which too few were measured, is predicted from the
work of its family (the same op and settings at other sizes), else from that of all kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.errors import TableError
from autoprune.core.workload import Ints
from autoprune.cost.context import FLAGS
from autoprune.cost.emptied import EMPTY
from autoprune.cost.layout import work
from autoprune.cost.pooling import Pool
from autoprune.cost.shapes import KernelShapes, ShapeModel
from autoprune.cost.signatures import HEAVY, KernelLayout
from autoprune.cost.staircase import fit_nonnegative

#: Relative standard deviations of what the family, or only all kernels together, say; and of what
#: shapes say at least.
_FAMILY, _ANY, _SHAPE = 0.25, 0.6, 0.05
#: At most this many shapes of a kind are learned from: more take long and tell little else.
_MOST = 200
_SIZE = re.compile(r"kernel_size=([\dx]+)")


class UnseenKernels:
    """Predicts signatures that are not among the measured ones.

    Args:
        pools: every time measured, by signature.
        even: the same times, freed of the machine's drift.
    """

    def __init__(self, pools: Mapping[str, Pool], even: Mapping[str, Floats]) -> None:
        self._measured = [
            _medians(one, even[signature])
            for signature, one in pools.items()
            if not signature.endswith(EMPTY)
        ]

    def free(self, kernel: KernelLayout) -> bool:
        """Whether it is a light op whose family was always fused into another so far."""
        family = self._families.get(kernel.family)
        return kernel.op not in HEAVY and family is not None and not family.any()

    def predict(self, kernels: Sequence[KernelLayout], x: Ints) -> tuple[Floats, Floats]:
        """Mean and standard deviation, each (N, K), of kernels of one signature.

        Args:
            kernels: K of them.
            x: (N, K, D + FLAGS) their shapes.
        """
        by_shape = self._by_shape if _has_shape(kernels[0]) else None
        if by_shape is not None and by_shape.knows(_kind(kernels[0])):
            distinct, inverse = np.unique(x.reshape(-1, x.shape[2]), axis=0, return_inverse=True)
            mean, std = by_shape.predict(_shapes(kernels[0], distinct))
            at = inverse.reshape(x.shape[:2])
            return mean[at], std[at]
        coefficients, spread = self._families.get(kernels[0].family), _FAMILY
        if coefficients is None:
            coefficients, spread = self._families[""], _ANY
        mean = _work_features(kernels, x) @ coefficients
        return mean, spread * mean

    def alone(self, kernels: Sequence[KernelLayout], x: Ints) -> tuple[Floats, Floats]:
        """As `predict`, of light ops that have only been seen fused into others."""
        mean = _work_features(kernels, x) @ self._families[""]
        return mean, _ANY * mean

    @cached_property
    def _by_shape(self) -> _ByShape | None:
        known = [(k, x[t > 0], t[t > 0]) for k, x, t in self._measured if _has_shape(k)]
        if not any(len(t) for _, _, t in known):
            return None
        shapes = KernelShapes.concatenate([_shapes(k, x) for k, x, _ in known])
        try:
            return _ByShape(shapes, np.concatenate([t for _, _, t in known]))
        except TableError:
            return None  # too few of every kind

    @cached_property
    def _families(self) -> dict[str, Floats]:
        """(7,) coefficients of the work by family; "" is fitted to all kernels that take time."""
        features: dict[str, list[Floats]] = {}
        times: dict[str, list[Floats]] = {}
        for kernel, x, t in self._measured:
            rows = _work_features([kernel], x[:, None, :])[:, 0]
            for family in (kernel.family, ""):
                if family or t.any():
                    features.setdefault(family, []).append(rows)
                    times.setdefault(family, []).append(t)
        return {f: _fit(np.concatenate(p), np.concatenate(times[f])) for f, p in features.items()}


class _ByShape:
    """Kernel times over what their work alone says, learned from their shapes."""

    def __init__(self, shapes: KernelShapes, times: Floats) -> None:
        rng = np.random.default_rng(0)
        self._work: dict[str, Floats] = {}
        rows = []
        for kind in np.unique(shapes.kind).tolist():
            mine = np.flatnonzero(shapes.kind == kind)
            self._work[kind] = _fit(_amounts(shapes[mine]), times[mine])
            rows.append(rng.permutation(mine)[:_MOST])
        some = np.concatenate(rows)
        self._model = ShapeModel(shapes[some], times[some] / self._usual(shapes[some]))

    def knows(self, kind: str) -> bool:
        return self._model.knows(kind)

    def predict(self, shapes: KernelShapes) -> tuple[Floats, Floats]:
        over, relative = self._model.predict(shapes)
        mean = over * self._usual(shapes)
        return mean, np.maximum(relative, _SHAPE) * mean

    def _usual(self, shapes: KernelShapes) -> Floats:
        result = np.empty(len(shapes))
        for kind in np.unique(shapes.kind).tolist():
            mine = np.flatnonzero(shapes.kind == kind)
            result[mine] = _amounts(shapes[mine]) @ self._work[kind]
        return np.asarray(np.maximum(result, 1e-9))


def _amounts(shapes: KernelShapes) -> Floats:
    """(N, 4) a constant, arithmetic, elements read, elements written."""
    read, written = shapes.read * shapes.inputs, shapes.written * shapes.outputs
    return np.stack([np.ones(len(shapes)), shapes.macs, read, written], axis=1)


def _fit(features: Floats, times: Floats) -> Floats:
    """Non-negative coefficients, by relative deviations."""
    weight = 1.0 / (times + 0.02 * max(float(times.max()), 1e-12))
    norm = np.maximum(features.max(axis=0), 1e-12)
    result: Floats = fit_nonnegative(features / norm * weight[:, None], times * weight) / norm
    return result


def _medians(one: Pool, even: Floats) -> tuple[KernelLayout, Ints, Floats]:
    """A signature's distinct shapes and the median time of each."""
    shapes, inverse = one.shapes()
    times = np.array([np.median(even[inverse == i]) for i in range(len(shapes))])
    return one.kernel, shapes, times


def _has_shape(kernel: KernelLayout) -> bool:
    plain = kernel.op == "linear" or kernel.op in ("conv1d", "conv2d", "conv3d")
    return plain and len(kernel.base) == 2


def _kind(kernel: KernelLayout) -> str:
    return "depthwise" if kernel.family.endswith(" depthwise") else kernel.family.split(" ")[0]


def _shapes(kernel: KernelLayout, x: Ints) -> KernelShapes:
    """Kernels of one signature as the shape model sees them; x is (N, 2 + FLAGS)."""
    size = _SIZE.search(kernel.family)
    area = float(np.prod([int(n) for n in size[1].split("x")])) if size else 1.0
    _, _, follows = kernel.signature.partition(" then ")
    count = len(x)
    return KernelShapes(
        np.array([_kind(kernel)] * count),
        x[:, 0].astype(np.float64),
        x[:, 1].astype(np.float64),
        np.full(count, kernel.elements[0]),
        np.full(count, kernel.elements[1]),
        np.full(count, area),
        np.full(count, float(follows.split(">").count("add"))),
    )


def _work_features(kernels: Sequence[KernelLayout], x: Ints) -> Floats:
    """(N, K, 7) a constant, and the work with exact channel counts and in blocks of 16."""
    counts = x[:, :, :-FLAGS]
    exact, blocked = work(kernels, counts), work(kernels, counts, (16, 16))
    return np.concatenate([np.ones((*exact.shape[:2], 1)), exact, blocked], axis=2)
