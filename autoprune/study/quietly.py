"""A search's own work on the machine that it measures on: kept apart from what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from autoprune.core.device import Artifact, Measurement, MeasuringProtocol, Profiler
from autoprune.evaluate.quiet import evaluating, measuring, using
from autoprune.profile.checked import measure_checked


def measure_quietly(
    profiler: Profiler, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
) -> list[Measurement]:
    """Measure while no search of this machine computes; on a device far away, by one at a time.

    A profiler whose `quiet` is true sees to that itself.

    Raises:
        ProfilerError: as `measure_checked`.
        RunError: the machine's locks can't be used.
    """
    if getattr(profiler, "quiet", False):
        return measure_checked(profiler, artifacts, protocol)
    far = getattr(profiler, "remote", False)
    with using(str(profiler.device)) if far else measuring():
        return measure_checked(profiler, artifacts, protocol)


class QuietBatches:
    """Batches for a training that stops between two of them while something is measured.

    A batch, and what is done with it, counts as computing until the next one is asked for. All
    else is the batches' own: length, `set_epoch`, `sampler`.

    Args:
        batches: iterated once an epoch.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        """The batches, each within `evaluating`."""
        iterator = iter(self._batches)
        while True:
            with evaluating():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                yield batch

    def __len__(self) -> int:
        """Of the batches; TypeError where they have none."""
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
