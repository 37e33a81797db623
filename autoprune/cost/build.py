"""Building a latency table: choose candidates, measure, fit, and find out how far off it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import binom, spearmanr

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.device import DeviceSpec, Measurement
from autoprune.core.errors import ProfilerError, TableError
from autoprune.core.workload import Ints, KernelGraph
from autoprune.cost.borrow import borrow_for
from autoprune.cost.context import channel_block
from autoprune.cost.cover import covering
from autoprune.cost.layout import Layout
from autoprune.cost.noise import halves_apart, ratio_noise
from autoprune.cost.pace import Care, Pace
from autoprune.cost.records import batch_name, usable
from autoprune.cost.table import LatencyTable

#: Candidates of the first batch, which tells how long one takes; up to the second; and of a later
#: one at least and at most: half as many as are done before it, for the model is fitted anew after
#: each and chooses what to measure next.
_TRY, _FIRST, _NEXT, _MOST = 2, 8, 16, 48
#: A table of fewer candidates is none.
_FEWEST = 4
#: No table beats the noise, which is half of the difference between two halves of a measuring: so
#: close to that difference, more candidates bring little.
_NEAR = 0.8
#: One in so many is held out: without, and with kernels that another table has measured.
_HELD, _HELD_REUSED = 4, 2
#: Fewer held out tell little of how far off a table is.
_TELLING = 5
#: How sure it must be that the median error is below the target before a build stops.
_SURE = 0.95
#: Kernels measured before are worth relying on if they make up this much of the dense latency.
_COVERED = 0.8
#: So many candidates have their kernels profiled, and then those of one batch in so many: profiling
#: takes several times as long as measuring, and further candidates tell of whole networks too.
_PROFILED, _PROFILE_EVERY = 64, 3
#: Candidates that those to measure next are chosen from, for each one chosen.
_POOL = 8


class Measure(Protocol):
    """Measures candidates of one network on the device."""

    def __call__(
        self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
    ) -> list[Measurement]:
        """One measurement for each; the first candidate is the reference of every ratio.

        Args:
            candidates: the first is dense.
            kernels: whether each kernel's time is wanted too.
            care: how closely they are measured.
        """


@dataclass(frozen=True)
class Accuracy:
    """How far predictions are from measurements of candidates that were not fitted.

    Attributes:
        candidates: how many were held out.
        median_error: median of |predicted / measured − 1|.
        median_bound: what the median of all candidates is below, with a confidence of 95 %, by
            those held out; NaN for fewer than 5.
        p90_error: its 90 % quantile.
        spearman: rank correlation of predicted and measured; NaN for fewer than 3.
        coverage: fraction inside the 90 % interval of prediction and measurement.
        noise: median difference between two halves of each measurement, as a fraction.
    """

    candidates: int
    median_error: float
    median_bound: float
    p90_error: float
    spearman: float
    coverage: float
    noise: float


def accuracy(
    table: LatencyTable,
    graph: KernelGraph,
    kept: Ints,
    measurements: Sequence[Measurement],
    batches: int = 1,
) -> Accuracy:
    """Compare predictions with measurements.

    Args:
        table: makes the predictions.
        graph: of the network.
        kept: (N, G) kept units of the candidates.
        measurements: N of them; failed ones are left out.
        batches: that each was measured in.

    Raises:
        TableError: no measurement succeeded.
    """
    good = [i for i, m in enumerate(measurements) if usable(m)]
    if not good:
        raise TableError("the table's error must be found on a measured candidate, none succeeded")
    found = [measurements[i] for i in good]
    measured = np.array([m.ratio for m in found])
    layout = table.layout(graph)
    mean, std, _ = table.predict_ratio(layout, kept[good])
    error = np.abs(mean / measured - 1.0)
    off = table.measuring_std(layout, kept[good], ratio_noise(found), batches)
    inside = np.abs(mean - measured) <= 1.645 * np.hypot(std, off)
    return Accuracy(
        len(good),
        float(np.median(error)),
        _median_bound(error),
        float(np.quantile(error, 0.9)),
        float(spearmanr(mean, measured).statistic) if len(good) > 2 else float("nan"),
        float(inside.mean()),
        halves_apart(found),
    )


def _median_bound(error: Floats) -> float:
    """What the median is below with a confidence of `_SURE`: an order statistic.

    Of n values drawn, the k-th smallest is below the median where at least k are, which has the
    probability P(B ≥ k) of a binomial B(n, 1/2).
    """
    rank = int(binom.isf(1.0 - _SURE, len(error), 0.5)) + 1
    return float(np.sort(error)[rank - 1]) if rank <= len(error) else math.nan


def build_table(
    graph: KernelGraph,
    measure: Measure,
    device: DeviceSpec,
    *,
    candidates: int = 512,
    budget_s: float = 180.0,
    target_error: float = 0.01,
    choices: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
    info: Mapping[str, Any] | None = None,
    reuse: Sequence[LatencyTable] = (),
) -> LatencyTable:
    """Measure a latency table of a network.

    Batches of candidates are measured beside the dense network, roughly while the table is further
    off than they are (see `Pace`); a quarter of each, drawn at random, is held out to tell the
    table's error, and only then taken in. Of the others, those are profiled in whose kernels the
    model is least sure; after a while most batches are measured without profiling, which is
    quicker. Batches go on until the median error is below the target
    (or near the noise, which no table can beat), all candidates are used up, or the time is. The
    first batch is small, so that a short time is respected on a slow device too.
    Kernels that another table of the device has measured need no measuring again: what is left to
    learn is how they add up, from fewer candidates.

    Args:
        graph: of the network.
        measure: measures candidates; the first of each call is the dense one.
        device: what is measured on.
        candidates: at most this many, the dense one not counted; 8 or more.
        budget_s: seconds; no batch is begun that would not fit, by those before it.
        target_error: stop where the median relative error is below this with a confidence of
            95 %, by the held-out candidates.
        choices: kept counts to measure by group; any where none are given.
        seed: of the choice of candidates.
        on_progress: called with candidates done, candidates at most, and what is going on.
        info: kept in the table's header (protocol, network's name, ...).
        reuse: tables of the same device whose kernel times are taken over.

    Returns:
        The table; `info["accuracy"]` holds its `Accuracy` before the held-out candidates were
        taken in, and `info["build"]` what was done.

    Raises:
        TableError: fewer than 8 candidates, or too few could be measured, or fitted the time.
        TableMismatchError: a table to reuse is of another device.
        ProfilerError: the dense network can't be measured.
    """
    if candidates < 8:
        raise TableError(
            f"a latency table must be built from 8 candidates or more, got {candidates}"
        )
    tell = on_progress or (lambda done, total, text: None)
    rng = np.random.default_rng(seed)
    plan = covering(graph, candidates, rng, choices)
    pool = covering(graph, _POOL * candidates, rng, choices)
    layout = Layout.of(graph, channel_block(device))
    borrowed, names = borrow_for(layout, reuse, device)
    every = _HELD
    started = time.monotonic()
    table: LatencyTable | None = None
    held = _HeldOut(graph)
    done, failed, stopped, report = 0, 0, "candidates", None
    size = min(_TRY, candidates)
    pace = Pace()
    profile = True
    while done < candidates:
        began = time.monotonic()
        checks = np.arange(done + 1, done + size + 1) % every == 0
        chosen = plan[done : done + size].copy()
        if table is not None and done >= _FEWEST and profile:
            chosen[~checks] = pool[table.least_sure(graph, pool, int((~checks).sum()))]
        rows = np.vstack([graph.units[None], chosen])
        tell(done, candidates, f"measuring {size} candidates")
        results = measure(graph.instantiate(rows).candidates(), kernels=profile, care=pace.care)
        if not usable(results[0]):
            raise ProfilerError(
                "the dense network must be measurable to build a latency table; "
                f"{results[0].error or 'it has no ratio'}"
            )
        if table is None:
            table = LatencyTable(device, results[0].latency_ms, info)
            table.borrowed = borrowed
        fitted = np.concatenate([[True], ~checks])
        failed += sum(not usable(r) for r in results)
        batch = batch_name(results)
        learned = [r for r, f in zip(results, fitted, strict=True) if f]
        table.add(graph.instantiate(rows[fitted]), learned, batch=batch)
        checked = [r for r, f in zip(results, fitted, strict=True) if not f]
        held.add(rows[~fitted], checked, batch, pace.care)
        done += size
        if borrowed and table.covered(graph) >= _COVERED:
            every = _HELD_REUSED
        if held.usable:
            report = held.accuracy(table)
            tell(done, candidates, f"median error {report.median_error:.1%}")
        seconds = time.monotonic() - began
        pace.add(size, seconds, profiled=profile)
        one_s = seconds / size
        left_s = budget_s - (time.monotonic() - started)
        if report is not None:
            if reason := _enough(report, target_error, held.noise):
                stopped = reason
                break
            # Late, few would fit that are measured closely.
            if report.candidates >= _TELLING and left_s > budget_s / 2:
                pace.closer(report.median_error, report.noise)
        profile = done < _PROFILED or pace.batches % _PROFILE_EVERY == 0
        fits = pace.fits(left_s, profiled=profile)
        if done < _FEWEST and left_s > 0:
            fits = max(fits, _FEWEST - done)  # the first batch was slow: the network was exported
        wanted = _FIRST - done if done < _FEWEST else min(max(_NEXT, done // 2), _MOST)
        size = min(wanted, candidates - done, fits)
        # A batch that nothing is held out of tells nothing of the error.
        if fits < min(_FEWEST - done if done < _FEWEST else every, candidates - done):
            stopped = "time"
            break
    if done < _FEWEST and stopped == "time":
        raise TableError(
            f"a latency table must be of {_FEWEST} candidates or more; in {budget_s:g} s only "
            f"{done} could be measured here, one takes about {one_s:.1f} s. Raise the time "
            f"(profile.timeout_s, --timeout) to {math.ceil(2 * _FIRST * one_s + 1)} s or more"
        )
    if table is None or report is None or failed > done // 2:
        reasons = held.errors or ["they failed"]
        raise TableError(
            f"half of the candidates must be measurable to build a latency table; {failed} of "
            f"{done} failed: {reasons[0]}"
        )
    held.give(table)
    table.info["accuracy"] = {
        name: value if np.isfinite(value) else None for name, value in asdict(report).items()
    }
    table.info["build"] = {
        "candidates": done,
        "failed": failed,
        "rough": pace.rough,
        "seconds": round(time.monotonic() - started, 1),
        "stopped": stopped,
        "seed": seed,
        "reused_runs": len(borrowed),
        "reused_tables": names,
        "reused_share": round(table.covered(graph), 3) if borrowed else 0.0,
        "median_rounds": float(np.median([len(o.samples_ms) for o in table.observations])),
    }
    return table


def _enough(report: Accuracy, target_error: float, noise: float) -> str:
    """Why a table is close enough; "" where it is not, or not surely."""
    if report.median_bound <= target_error:
        return "error"
    return "noise" if report.median_bound <= _NEAR * noise else ""


class _HeldOut:
    """Candidates that tell a table's error before it learns from them too."""

    def __init__(self, graph: KernelGraph) -> None:
        self._graph = graph
        self._batches: list[tuple[str, Ints, list[Measurement], Care]] = []

    def add(self, kept: Ints, measurements: list[Measurement], batch: str, care: Care) -> None:
        """Take in those of one batch, and how closely they were measured."""
        self._batches.append((batch, kept, measurements, care))

    @property
    def noise(self) -> float:
        """Of those that were not measured roughly: no table beats it; NaN for too few of them."""
        well = [m for *_, ms, care in self._batches if care != "rough" for m in ms if usable(m)]
        return halves_apart(well) if len(well) >= _TELLING else math.nan

    @property
    def _measurements(self) -> list[Measurement]:
        return [m for _, _, measurements, _ in self._batches for m in measurements]

    @property
    def usable(self) -> bool:
        """Whether any was measured."""
        return any(usable(m) for m in self._measurements)

    @property
    def errors(self) -> list[str]:
        """Why some were not."""
        return sorted({m.error for m in self._measurements if m.error})

    def accuracy(self, table: LatencyTable) -> Accuracy:
        """How far a table that has not learned from them is off."""
        kept = np.vstack([kept for _, kept, _, _ in self._batches])
        return accuracy(table, self._graph, kept, self._measurements)

    def give(self, table: LatencyTable) -> None:
        """Let the table learn from them."""
        for batch, kept, measurements, _ in self._batches:
            table.add(self._graph.instantiate(kept), measurements, "check", batch)
