"""Kernels out of OpenVINO's own profile of a network, taken beside the reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoprune.core.device import Measurement
from autoprune.core.errors import ProfilerError
from autoprune.profile.node_times import TOO_QUICK, Source

#: Profiled runs of each network, and of the reference beside it: so many at least, and of quick
#: ones for about so long, but at most so many. Before them some that are left out, as neither is
#: warm.
PROFILED_RUNS, BLOCK_MS, MOST_RUNS, COLD_RUNS = 12, 40.0, 100, 4


def profile_kernels(
    make: Callable[[int], Source], measured: Sequence[Measurement]
) -> list[Measurement]:
    """Profile networks' nodes, each network in turn with the reference.

    Args:
        make: loads a network by its number to be profiled; one that fails is that network's
            error.
        measured: of each network; the first is the reference, and is `ok`.

    Returns:
        The same with their kernels; one that can't be profiled has `error` set. Where the
        reference is too quick for the profile's clock, there are no kernels, and a note says so.
    """
    results = list(measured)
    for index, measurement in enumerate(measured):
        if not measurement.ok:
            continue
        try:
            # OpenVINO counts in whole microseconds the mean of all runs so far, which of a few runs
            # is exact enough; so the reference is loaded anew beside each.
            both = [make(0), make(index)] if index else [make(0)]
            wanted = math.ceil(min(MOST_RUNS, BLOCK_MS / measurement.latency_ms))
            for runs in (COLD_RUNS, max(PROFILED_RUNS, wanted)):
                for _ in range(runs):
                    for each in both:
                        each.run(1)
                times = [each.read() for each in both]
            beside, found = times[0], times[-1]
        except ProfilerError as error:
            results[index] = Measurement(measurement.key, error=str(error))
            continue
        total_us = float(beside.times_us.mean(axis=0).sum())
        if not total_us:
            results[index] = replace(measurement, notes=(*measurement.notes, TOO_QUICK))
            continue
        mean = found.times_us.mean(axis=0) * (measured[0].latency_ms / total_us)
        results[index] = replace(measurement, kernels=tuple(found.kernels(mean)))
    return results
