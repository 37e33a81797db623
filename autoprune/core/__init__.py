"""Plain values and errors that every part of autoprune shares; standard library and numpy only."""

from autoprune.core.budget import Budget, Limit
from autoprune.core.candidate import Candidate
from autoprune.core.cost import METRICS, Cost, Costs, Estimate
from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    KernelTime,
    Measurement,
    MeasuringProtocol,
    Profiler,
)
from autoprune.core.trial import Trial
from autoprune.core.workload import Buffer, Kernel, KernelGraph, Term, Workloads

__all__ = [
    "METRICS",
    "Artifact",
    "Budget",
    "Buffer",
    "Candidate",
    "Cost",
    "Costs",
    "DeviceSpec",
    "Estimate",
    "Kernel",
    "KernelGraph",
    "KernelTime",
    "Limit",
    "Measurement",
    "MeasuringProtocol",
    "Profiler",
    "Term",
    "Trial",
    "Workloads",
]
