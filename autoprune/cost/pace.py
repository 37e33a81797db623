"""How closely candidates are measured for a latency table, and how many fit the time."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

#: How closely candidates are measured: those that a table learns from while it is further off than
#: they are, those that it learns from later, and those that it is checked on.
Care = Literal["rough", "usual", "close"]

#: Sessions of the dense network that may be measured beside each batch, and take time too.
_BESIDE = 3
#: Measuring as usual takes up to about so many times as long as measuring roughly.
_LONGER = 3.0


class Pace:
    """Batches measured so far: how long they took, and how closely the next is measured.

    Attributes:
        care: how closely.
        rough: candidates that were measured roughly.
    """

    def __init__(self) -> None:
        self.care: Care = "rough"
        self.rough = 0
        self._took: defaultdict[bool, list[tuple[int, float]]] = defaultdict(list)

    @property
    def batches(self) -> int:
        """How many were measured."""
        return sum(map(len, self._took.values()))

    def add(self, size: int, seconds: float, *, profiled: bool) -> None:
        """A batch of so many candidates took so long, all that goes with it included."""
        self.rough += size if self.care == "rough" else 0
        self._took[profiled].append((size, seconds))

    def closer(self, median_error: float, noise: float) -> None:
        """Measure candidates more closely from now on, if the table is as close as they are.

        While a table is further off than two halves of a measuring are from each other, many
        candidates tell it more than few that are measured well.

        Args:
            median_error: of the table, as a fraction.
            noise: median difference between two halves of each measurement, as a fraction.
        """
        if self.care == "rough" and median_error <= noise:
            self.care = "usual"
            for key, took in self._took.items():
                self._took[key] = [(size, _LONGER * seconds) for size, seconds in took]

    def fits(self, left_s: float, *, profiled: bool) -> int:
        """How many candidates the next batch may have, by how many took how many seconds before.

        A larger batch takes longer in proportion at most. A smaller one saves less, for the dense
        network is measured beside it all the same; and the machine may be as slow as in the slower
        of the last two (the very first batch, in which the network was exported, tells nothing
        then).
        """
        took = self._took[profiled] or self._took[not profiled]
        size, seconds = took[-1]
        session_s = max(t / (n + _BESIDE) for n, t in took[max(1, len(took) - 2) :] or took)
        larger = left_s * size / max(seconds, 1e-9)
        smaller = left_s / max(session_s, 1e-9) - _BESIDE
        return max(0, int(min(larger, smaller)))
