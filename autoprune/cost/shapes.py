"""The time of a kernel from its shape alone, for shapes that lie between measured ones.

Where the staircase of one signature knows channel counts only, this model goes across signatures:
spatial size, kernel size, stride and batch are features like the channel counts. Each kind of
kernel (plain, depthwise, linear, ...) has a Gaussian process on the logarithm of the time. Its
features are logarithms of sizes, of arithmetic and elements moved, and of counts of tiles, whose
rounding up puts steps where the device has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.errors import TableError
from autoprune.cost.gaussian import GaussianProcess

#: Fewer measured shapes of a kind than this tell nothing of others.
MINIMUM = 12
#: Tiles (pixels × output channels) that matrix kernels work on, and blocks of channels.
_TILES = ((32, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64))
_OUTPUT_BLOCKS, _INPUT_BLOCKS = (8, 16, 32, 64, 128), (8, 16, 32)
#: At most this many shapes of a kind are weighed when choosing what to measure next.
_POOL = 700


@dataclass(frozen=True, eq=False)
class KernelShapes:
    """N kernels, one array for each property.

    Attributes:
        kind: (N,) kernels of different kinds share nothing ("conv", "depthwise", "linear", ...).
        inputs: (N,) input channels.
        outputs: (N,) output channels.
        read: (N,) positions read for each input channel: batch × height × width.
        written: (N,) positions written for each output channel.
        area: (N,) multiply-accumulates for each position written and pair of channels: kernel
            height × width.
        fused: (N,) tensors of the output's size that are read too (a fused residual sum).
    """

    kind: npt.NDArray[np.str_]
    inputs: Floats
    outputs: Floats
    read: Floats
    written: Floats
    area: Floats
    fused: Floats

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise TableError(f"kernel shapes must have one value for each kernel, got {lengths}")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> KernelShapes:
        return KernelShapes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[KernelShapes]) -> KernelShapes:
        """Several as one."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def narrow(self) -> KernelShapes:
        """The same shapes, told apart by kernel size and stride too."""
        kinds = [
            kind if kind == "depthwise" else f"{kind} {area:g}/{stride:g}"
            for kind, area, stride in zip(self.kind, self.area, self.stride, strict=True)
        ]
        return replace(self, kind=np.array(kinds, dtype=np.str_))

    @property
    def stride(self) -> Floats:
        """(N,) positions skipped in each direction, of two."""
        return np.asarray(np.round(np.sqrt(self.read / np.maximum(self.written, 1.0))))

    @property
    def _alone(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each channel is worked on alone."""
        return np.asarray(self.kind == "depthwise")

    @property
    def macs(self) -> Floats:
        """(N,) multiply-accumulates."""
        return self.written * self.area * self.outputs * np.where(self._alone, 1.0, self.inputs)

    @property
    def elements(self) -> Floats:
        """(N,) elements read and written, weights included."""
        weights = self.area * self.outputs * np.where(self._alone, 1.0, self.inputs)
        output = self.written * self.outputs * (1.0 + self.fused)
        return self.read * self.inputs + output + weights

    def features(self, processors: int) -> Floats:
        """(N, F) features, not yet scaled; `processors` work on tiles side by side."""
        depth = np.where(self._alone, 1.0, self.inputs) * self.area
        columns = [
            self.inputs,
            self.outputs,
            self.read,
            self.written,
            depth,
            self.macs,
            self.elements,
            self.read * self.inputs,
            self.written * self.outputs,
            depth * self.outputs,
        ]
        for rows, wide in _TILES:
            tiles = np.ceil(self.written / rows) * np.ceil(self.outputs / wide)
            columns += [tiles, np.ceil(tiles / processors)]
        columns += [np.ceil(self.outputs / block) for block in _OUTPUT_BLOCKS]
        columns += [np.ceil(self.inputs / block) for block in _INPUT_BLOCKS]
        flags = [self.fused, self.stride == 1, (self.area == 9) & (self.stride == 1)]
        flags += [np.abs(self.area - square) < 0.5 for square in (1, 9, 25, 49)]
        return np.column_stack(
            [
                *(np.log2(np.maximum(c, 1.0)) for c in columns),
                *(np.asarray(f, float) for f in flags),
            ]
        )


class ShapeModel:
    """Kernel times learned from measured shapes.

    Args:
        shapes: N kernels that were measured.
        times: (N,) what they took, above 0, in any unit.
        processors: of the device, that work on tiles side by side; 1 where it is not known.

    Raises:
        TableError: a time is not finite and above 0, or no kind has enough shapes.
    """

    def __init__(self, shapes: KernelShapes, times: Floats, *, processors: int = 1) -> None:
        if len(times) != len(shapes) or not (np.isfinite(times) & (times > 0)).all():
            raise TableError("each kernel must be given one finite time above 0")
        self._shapes, self._times, self._processors = shapes, times, processors
        self._known = _counts(shapes.kind)
        if not self._known:
            raise TableError(
                f"a shape model must be fitted to {MINIMUM} shapes of a kind or more, got "
                f"{len(shapes)} of {len(np.unique(shapes.kind))} kinds"
            )

    @cached_property
    def _broad(self) -> dict[str, _Kind]:
        return self._fitted(self._shapes)

    @cached_property
    def _narrow(self) -> dict[str, _Kind]:
        """By kernel size and stride too: they know which of these are hard to predict."""
        return self._fitted(self._shapes.narrow())

    def _fitted(self, shapes: KernelShapes) -> dict[str, _Kind]:
        return {
            kind: _Kind(shapes[rows], self._times[rows], self._processors)
            for kind in _counts(shapes.kind)
            for rows in [np.flatnonzero(shapes.kind == kind)]
        }

    def knows(self, kind: str) -> bool:
        """Whether enough shapes of a kind were measured to predict others."""
        return kind in self._known

    def predict(self, shapes: KernelShapes) -> tuple[Floats, Floats]:
        """Expected time and relative standard deviation of one measurement, each (M,).

        The mean (of logarithms) of what the kind as a whole and what its kernel size and stride
        alone say. NaN and infinity for kinds that are not known.
        """
        logs, std = _predicted(self._broad, shapes)
        own, own_std = _predicted(self._narrow, shapes.narrow())
        both = np.isfinite(own)
        logs[both] = (logs[both] + own[both]) / 2
        std[both] = (std[both] + own_std[both]) / 2
        return np.exp(logs), std

    def most_telling(
        self, pool: KernelShapes, count: int, rng: np.random.Generator, within: float = 0.1
    ) -> npt.NDArray[np.intp]:
        """Which shapes to measure next: (count,) indices into the pool.

        Kinds that are not known come first; of the others those that bring the most of the pool
        within a relative error.
        """
        pool = pool.narrow()
        known = np.isin(pool.kind, list(self._narrow))
        first = rng.permutation(np.flatnonzero(~known))[:count]
        chosen: list[npt.NDArray[np.intp]] = []
        gains: list[Floats] = []
        for kind, model in self._narrow.items():
            rows = np.flatnonzero(pool.kind == kind)
            if len(rows) and count > len(first):
                some = rng.permutation(rows)[:_POOL]
                which, gain = model.most_telling(pool[some], count - len(first), within)
                chosen.append(some[which])
                gains.append(gain * len(rows) / len(some))
        if not chosen:
            return first
        order = np.argsort(-np.concatenate(gains), kind="stable")[: count - len(first)]
        return np.concatenate([first, np.concatenate(chosen)[order]])


class _Kind:
    """The kernels of one kind."""

    def __init__(self, shapes: KernelShapes, times: Floats, processors: int) -> None:
        self._processors = processors
        raw = shapes.features(processors)
        self._used = _distinct(raw)
        used = raw[:, self._used]
        self._mean, self._std = used.mean(axis=0), np.maximum(used.std(axis=0), 1e-9)
        logs = np.log(times)
        self._level = float(logs.mean())
        self._process = GaussianProcess(self._scaled(shapes), logs - self._level)

    def predict(self, shapes: KernelShapes) -> tuple[Floats, Floats]:
        mean, std = self._process.predict(self._scaled(shapes))
        return mean + self._level, std

    def most_telling(
        self, shapes: KernelShapes, count: int, within: float
    ) -> tuple[npt.NDArray[np.intp], Floats]:
        return self._process.most_telling(self._scaled(shapes), count, within)

    def _scaled(self, shapes: KernelShapes) -> Floats:
        raw = shapes.features(self._processors)[:, self._used]
        return np.asarray((raw - self._mean) / self._std)


def _counts(kinds: npt.NDArray[np.str_]) -> list[str]:
    """The kinds of which there are enough."""
    names, counts = np.unique(kinds, return_counts=True)
    return [str(name) for name in names[counts >= MINIMUM]]


def _predicted(kinds: Mapping[str, _Kind], shapes: KernelShapes) -> tuple[Floats, Floats]:
    """Logarithm of the time and its standard deviation; NaN and infinity where not known."""
    logs, std = np.full(len(shapes), np.nan), np.full(len(shapes), np.inf)
    for kind, model in kinds.items():
        rows = np.flatnonzero(shapes.kind == kind)
        if len(rows):
            logs[rows], std[rows] = model.predict(shapes[rows])
    return logs, std


def _distinct(features: Floats) -> npt.NDArray[np.intp]:
    """Columns that vary and are no copy of an earlier one."""
    varying = np.flatnonzero(features.std(axis=0) > 1e-9)
    if not len(varying):
        return np.zeros(1, dtype=np.intp)
    scaled = features[:, varying] - features[:, varying].mean(axis=0)
    scaled /= scaled.std(axis=0)
    alike = np.abs(scaled.T @ scaled) / len(features) > 1 - 1e-9
    return np.asarray(varying[~np.triu(alike, 1).any(axis=0)])
