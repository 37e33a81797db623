"""Measures networks on a device; a profiler of one's own is one method."""

from autoprune.profile.measuring import Runner, Visit, Visitor, measure_interleaved, timed
from autoprune.profile.registry import DeviceRow, devices, make_profiler
from autoprune.profile.statistics import robust_mean

__all__ = [
    "DeviceRow",
    "Runner",
    "Visit",
    "Visitor",
    "devices",
    "make_profiler",
    "measure_interleaved",
    "robust_mean",
    "timed",
]
