"""What a run remembers besides its trials: replayed in order, then recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.errors import RunError
from autoprune.study.evaluation import Phases
from autoprune.study.store import Event, Store


class Events:
    """The events of a store: a resumed run takes what is there, and adds what is new.

    Args:
        store: of the run.
        phases: counts the seconds of storing.
    """

    def __init__(self, store: Store, phases: Phases) -> None:
        self._store, self._phases = store, phases
        self._left = list(store.events())

    def replay(self, kind: str) -> Mapping[str, Any] | None:
        """The next event's data; None when all are replayed.

        Raises:
            RunError: it is of another kind.
        """
        if not self._left:
            return None
        event = self._left.pop(0)
        if event.kind != kind:
            raise RunError(
                f"{self._store.where}: the next event is {event.kind!r}, this search came to "
                f"{kind!r}; the settings changed since. Start anew in another folder"
            )
        return event.data

    def record(self, kind: str, after: int, data: Mapping[str, Any]) -> None:
        """Store an event.

        Args:
            kind: "dense", "verified", ...
            after: how many trials were finished before it.
            data: JSON values.

        Raises:
            RunError: it can't be stored.
        """
        with self._phases("store"):
            self._store.record(Event(kind, after, data))
