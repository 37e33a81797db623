"""Profiled runs, pooled by kernel signature and freed of the machine's drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.emptied import EMPTY
from autoprune.cost.layout import Layout
from autoprune.cost.signatures import KernelLayout

#: Usual relative deviations: of one kernel in one run, and of a whole run from the others.
_KERNEL_NOISE, _DRIFT = 0.03, 0.05
#: No run is taken to be further off than this (log).
_FAR = 0.3


@dataclass(frozen=True, eq=False)
class Run:
    """One profiled run.

    Attributes:
        layout: of its network.
        kept: (G,) kept units.
        times: (K,) each kernel's time in ms; 0 for one that was fused into another.
        dense: whether it is the reference network, unpruned.
        ratio: the whole run's latency to the reference's, measured beside it; NaN if not known.
    """

    layout: Layout
    kept: Ints
    times: Floats
    dense: bool = False
    ratio: float = math.nan


@dataclass(frozen=True, eq=False)
class Pool:
    """Every time measured of one signature, R of them.

    Attributes:
        kernel: one of its kernels.
        run: (R,) index of the run.
        owner: (R,) index into `owners`.
        owners: the single kernels, as (network's fingerprint, index).
        x: (R, D + FLAGS) channel counts, and flags of what surrounds the kernel (see `context`).
        t: (R,) times in ms.
    """

    kernel: KernelLayout
    run: npt.NDArray[np.intp]
    owner: npt.NDArray[np.intp]
    owners: tuple[tuple[str, int], ...]
    x: Ints
    t: Floats

    def of(self, rows: npt.NDArray[np.bool_]) -> Pool:
        """Some of the times, by an (R,) mask."""
        some = {name: getattr(self, name)[rows] for name in ("run", "owner", "x", "t")}
        return replace(self, **some)

    def shapes(self) -> tuple[Ints, npt.NDArray[np.intp]]:
        """The distinct shapes, and which of them each row has."""
        shapes, inverse = np.unique(self.x, axis=0, return_inverse=True)
        return shapes, inverse.ravel()


def pool(runs: Sequence[Run]) -> dict[str, Pool]:
    """All runs' kernel times by signature."""
    rows: dict[str, list[tuple[int, tuple[str, int], Ints, float, KernelLayout]]] = {}
    for number, run in enumerate(runs):
        emptied = run.layout.emptied(run.kept[None])[0]
        for signature, x in run.layout.shapes(run.kept[None]).of.items():
            indices = run.layout.by_signature[signature].tolist()
            for i, row in zip(indices, x[0], strict=True):
                mine = rows.setdefault(signature + (EMPTY if emptied[i] else ""), [])
                row = np.maximum(row, 1) if emptied[i] else row
                owner = (run.layout.fingerprint, i)
                mine.append((number, owner, row, float(run.times[i]), run.layout.kernels[i]))
    result = {}
    for signature, mine in rows.items():
        owners = tuple(dict.fromkeys(row[1] for row in mine))
        index = {owner: i for i, owner in enumerate(owners)}
        result[signature] = Pool(
            mine[0][4],
            np.array([row[0] for row in mine], dtype=np.intp),
            np.array([index[row[1]] for row in mine], dtype=np.intp),
            owners,
            np.stack([row[2] for row in mine]),
            np.array([row[3] for row in mine]),
        )
    return result


def run_scales(pools: Mapping[str, Pool], runs: Sequence[Run], rounds: int = 6) -> Floats:
    """(runs,) how much slower than usual the machine was during each run.

    First from each run's sum of kernels against its latency ratio, which was measured beside the
    reference; then from the kernel shapes it shares with other runs, alternating between the
    median time of each shape and the weighted median of each run's ratio to those. The second is
    held close to the first: runs of small kernels share little with others, and a runtime's
    profile is coarse there. The reference's runs are usual by definition.
    """
    first = _from_ratios(runs)
    cells, run, log_t, weight = [], [], [], []
    offset = 0
    for one in pools.values():
        shapes, inverse = one.shapes()
        ok = one.t > 0
        cells.append(inverse[ok] + offset)
        run.append(one.run[ok])
        log_t.append(np.log(one.t[ok]))
        weight.append(one.t[ok])
        offset += len(shapes)
    cell = np.concatenate([np.zeros(0, dtype=np.intp), *cells])
    of_run = np.concatenate([np.zeros(0, dtype=np.intp), *run])
    logs, weights = np.concatenate([np.zeros(0), *log_t]), np.concatenate([np.zeros(0), *weight])
    pairs = np.unique(np.stack([cell, of_run]), axis=1)
    use = np.bincount(pairs[0], minlength=offset)[cell] > 1
    cell, of_run, logs, weights = cell[use], of_run[use], logs[use], weights[use]
    # A run that shares few kernels with others says little of its own slowness.
    total = np.bincount(of_run, weights, minlength=len(runs))
    squares = np.bincount(of_run, weights**2, minlength=len(runs))
    number = total**2 / np.maximum(squares, 1e-300)
    trust = number / (number + (_KERNEL_NOISE / _DRIFT) ** 2)
    scale = first
    for _ in range(rounds if len(cell) else 0):
        level = medians(cell, logs - scale[of_run], np.ones_like(logs), offset)
        change = medians(of_run, logs - level[cell], weights, len(runs)) - first
        scale = first + np.clip(trust * change, -2 * _DRIFT, 2 * _DRIFT)
    dense = [i for i, r in enumerate(runs) if r.dense]
    return np.asarray(np.exp(scale - (np.mean(scale[dense]) if dense else np.mean(scale))))


def _from_ratios(runs: Sequence[Run]) -> Floats:
    """(runs,) log of each run's kernels over what is usual for its latency ratio.

    What is usual is a straight line (a profile adds something for each node), fitted by least
    absolute relative deviations.
    """
    total = np.array([r.times.sum() for r in runs])
    ratio = np.array([r.ratio for r in runs])
    good = np.isfinite(ratio) & (total > 0)
    if good.sum() < 6:
        return np.zeros(len(runs))
    design = np.stack([np.ones(good.sum()), ratio[good]], axis=1) / total[good, None]
    weight = np.ones(good.sum())
    line = np.zeros(2)
    for _ in range(20):
        line, *_ = np.linalg.lstsq(design * weight[:, None], weight, rcond=None)
        weight = 1.0 / np.sqrt(np.maximum(np.abs(design @ line - 1.0), 1e-3))
    usual = line[0] + line[1] * np.where(good, ratio, 1.0)
    result = np.zeros(len(runs))
    fine = good & (usual > 0)
    result[fine] = np.clip(np.log(total[fine] / usual[fine]), -_FAR, _FAR)
    return result


def medians(key: npt.NDArray[np.intp], value: Floats, weight: Floats, count: int) -> Floats:
    """(count,) weighted median of the values of each key; 0 where it has none."""
    order = np.lexsort((value, key))
    key, value, weight = key[order], value[order], weight[order]
    result = np.zeros(count)
    starts = np.searchsorted(key, np.arange(count + 1))
    for k in range(count):
        a, b = starts[k], starts[k + 1]
        if a < b:
            total = np.cumsum(weight[a:b])
            lower = a + int(np.searchsorted(total, total[-1] / 2, side="left"))
            upper = a + int(np.searchsorted(total, total[-1] / 2, side="right"))
            result[k] = (value[lower] + value[min(upper, b - 1)]) / 2
    return result
