"""Whether a latency table still holds on its device: a fresh sample against its predictions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoprune.core.errors import ProfilerError, TableMismatchError
from autoprune.core.workload import KernelGraph
from autoprune.cost.build import Accuracy, Measure, accuracy
from autoprune.cost.cover import covering
from autoprune.cost.records import usable
from autoprune.cost.table import LatencyTable

#: A table holds where the sample's median error is below this, below so many times the error it
#: states, or below so many times the noise of the sample.
_ERROR, _STATED, _NOISE = 0.03, 2.0, 1.5
#: Candidates measured together; after each batch the time is looked at.
_BATCH = 4


@dataclass(frozen=True)
class TableCheck:
    """A table against a fresh sample.

    Attributes:
        found: error of the predictions.
        limit: median error up to which the table holds.
        reference_ms: the dense network's latency now.
        stated_ms: its latency when the table was built.
        failed: candidates that could not be measured.
        stopped: "samples", or "time" where fewer fitted into it.
    """

    found: Accuracy
    limit: float
    reference_ms: float
    stated_ms: float
    failed: int
    stopped: str

    @property
    def holds(self) -> bool:
        """Whether predicted ratios are as good as the table says."""
        return self.found.median_error <= self.limit

    @property
    def drift(self) -> float:
        """How much slower the dense network is than when the table was built, as a fraction."""
        return self.reference_ms / self.stated_ms - 1.0


def check_table(
    table: LatencyTable,
    graph: KernelGraph,
    measure: Measure,
    *,
    samples: int = 12,
    timeout_s: float = 120.0,
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TableCheck:
    """Measure candidates that cover the network and compare.

    Args:
        table: of the network and device.
        graph: of the network.
        measure: measures candidates; the first of each call is the dense one.
        samples: candidates, at most.
        timeout_s: no batch is begun that would not fit; one batch is measured in any case.
        seed: of the candidates. The table's own build used another sequence.
        on_progress: called with candidates done, candidates at most, and what is going on.

    Raises:
        TableMismatchError: the table is of another network.
        ProfilerError: the dense network can't be measured.
        TableError: no candidate could be measured.
    """
    if not table.knows(graph):
        raise TableMismatchError(
            "a table must be checked with the network and batch it was measured with; it holds no "
            "measurement of this one"
        )
    rng = np.random.default_rng([seed, 1])
    kept = covering(graph, samples, rng)
    started = time.monotonic()
    results, dense, stopped, done = [], [], "samples", 0
    while done < samples:
        if on_progress is not None:
            on_progress(done, samples, "measuring a fresh sample")
        rows = np.vstack([graph.units[None], kept[done : done + _BATCH]])
        batch = measure(graph.instantiate(rows).candidates(), kernels=False, care="close")
        if not usable(batch[0]):
            raise ProfilerError(
                "the dense network must be measurable to check a latency table; "
                f"{batch[0].error or 'it has no ratio'}"
            )
        dense.append(batch[0].latency_ms)
        results += batch[1:]
        done = len(results)
        took = time.monotonic() - started
        if done < samples and took * (1 + _BATCH / done) > timeout_s:
            stopped = "time"
            break
    found = accuracy(table, graph, kept[:done], results)
    stated = (table.info.get("accuracy") or {}).get("median_error") or 0.0
    noise = found.noise if np.isfinite(found.noise) else 0.0
    return TableCheck(
        found,
        max(_ERROR, _STATED * stated, _NOISE * noise),
        float(np.median(dense)),
        table.reference_ms,
        sum(not usable(r) for r in results),
        stopped,
    )
