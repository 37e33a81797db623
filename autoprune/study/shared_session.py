"""One driver's part of a search that several drivers make together."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from autoprune.searchers.base import SearchContext, Searcher
from autoprune.study.events import Events
from autoprune.study.loop import Loop
from autoprune.study.session import Session
from autoprune.study.shared_loop import SharedLoop
from autoprune.study.shared_store import SharedStore
from autoprune.study.verify import Verification

if TYPE_CHECKING:
    from autoprune.evaluate.base import EvaluatorPool
    from autoprune.graph.network import Network
    from autoprune.study.evaluation import Phases
    from autoprune.study.task import Task


class SharedEvents(Events):
    """Events of a study: what the driver that began it found out counts for all.

    Args:
        store: of the study.
        phases: counts the seconds of storing.
    """

    def __init__(self, store: SharedStore, phases: Phases) -> None:
        super().__init__(store, phases)
        self._shared = store
        self._taken: Counter[str] = Counter()

    def replay(self, kind: str) -> Mapping[str, Any] | None:
        """What the first driver recorded next of a kind; None where that is not there.

        Measurements are not replayed; see `SharedSession`.
        """
        if kind == "verified":
            return None
        known = self._shared.first_events(kind)
        index = self._taken[kind]
        self._taken[kind] += 1
        return known[index].data if index < len(known) else None


class SharedSession(Session):
    """A search for one budget, with other drivers. The arguments are `Session`'s.

    Every driver measures the best of the whole study; what another one has measured on a device
    of the same kind is taken over, and not measured again.
    """

    def __init__(self, task: Task, network: Network, store: SharedStore, **named: Any) -> None:
        super().__init__(task, network, store, **named)
        self.shared = store
        self._events = SharedEvents(store, self.phases)
        #: Called when everything is ready for the first trial.
        self.ready: Callable[[], None] = lambda: None

    def context(self, trials: int) -> SearchContext:
        """As `Session`; with random numbers of its own for each driver but the first."""
        found = super().context(trials)
        if self.shared.first:
            return found
        return replace(found, seed=zlib.crc32(f"{found.seed} {self.shared.driver}".encode()))

    def _first(self) -> Searcher:
        searcher = super()._first()
        self.ready()
        return searcher

    def _make_loop(
        self, searcher: Searcher, pool: EvaluatorPool, kind: type[Loop] = SharedLoop
    ) -> Loop:
        return super()._make_loop(searcher, pool, kind)

    def _verify(self, batches: int) -> bool:
        self._take_measured()
        return super()._verify(batches)

    def _take_measured(self) -> None:
        """Take over what other drivers have measured, and this one before it was killed."""
        events = [event for event in self.store.events() if event.kind == "verified"]
        cast(SharedLoop, self.loop).look()  # a trial is finished before it is measured
        for event in events:
            found = {
                number: Verification.from_dict(data)
                for number, data in zip(
                    event.data["trials"], event.data["verifications"], strict=True
                )
                if number not in self.verified
            }
            if found:
                self._learn([self.trial(number) for number in found], list(found.values()))
