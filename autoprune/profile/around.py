"""What stands around a profiler keeps what is particular to it."""

from __future__ import annotations

from autoprune.core.device import Profiler
from autoprune.profile.closing import close
from autoprune.profile.conditions import conditions_by


class Around:
    """Goes on as a profiler in everything but what is measured.

    Args:
        profiler: that is asked.
    """

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler
        #: Whether it measures on another machine, and keeps evaluations away by itself.
        self.remote = bool(getattr(profiler, "remote", False))
        self.quiet = bool(getattr(profiler, "quiet", False))
        if hasattr(profiler, "limit_s"):
            self.limit_s = profiler.limit_s

    def conditions(self) -> dict[str, str]:
        """The profiler's clocks and temperature at this moment, where they can be read."""
        return conditions_by(self._profiler)

    def close(self) -> None:
        """End what the profiler keeps open."""
        close(self._profiler)
