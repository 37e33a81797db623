"""Kernels out of OpenVINO's own profile of a network, taken beside the reference's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autoprune.core.device import Measurement
from autoprune.core.errors import ProfilerError
from autoprune.profile.node_times import Floats, NodeTimes, Source

#: Profiled runs of each network, and of the reference beside it.
PROFILED_RUNS = 12


def profile_kernels(
    make: Callable[[int], Source], measured: Sequence[Measurement]
) -> list[Measurement]:
    """Profile networks' nodes, each network in turn with the reference.

    Args:
        make: loads a network by its number to be profiled; one that fails is that network's
            error.
        measured: of each network; the first is the reference, and is `ok`.

    Returns:
        The same with their kernels; one that can't be profiled has `error` set.
    """
    results = list(measured)
    try:
        reference = make(0)
    except ProfilerError as error:
        return [Measurement(m.key, error=m.error or str(error)) for m in measured]
    for index, measurement in enumerate(measured):
        if not measurement.ok:
            continue
        try:
            own = make(index) if index else reference
            for _ in range(PROFILED_RUNS):
                reference.run(1)
                if own is not reference:
                    own.run(1)
            beside = reference.read()
            found = own.read() if own is not reference else beside
        except ProfilerError as error:
            results[index] = Measurement(measurement.key, error=str(error))
            continue
        scale = measured[0].latency_ms / float(_medians(beside).sum())
        results[index] = replace(measurement, kernels=tuple(found.kernels(_medians(found) * scale)))
    return results


def _medians(found: NodeTimes) -> Floats:
    """Of each node: the (upper) median over the runs."""
    ordered: Floats = np.sort(found.times_us, axis=0)[len(found.times_us) // 2]
    return ordered
