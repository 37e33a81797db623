"""Profilers that keep something open between calls, ended."""

from __future__ import annotations

from autoprune.core.device import Profiler


def close(profiler: Profiler) -> None:
    """End what a profiler keeps open, such as a connection; one without `close` keeps nothing."""
    own = getattr(profiler, "close", None)
    if own is not None:
        own()
