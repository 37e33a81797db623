"""A study that several drivers search together: who began it, and what the others must share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import RunError
from autoprune.study.database import AWAY_S, open_database
from autoprune.study.store import Event, Store, Together

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Seconds between two heartbeats of a claim, and after the last one until its driver is dead.
#: A database may be away for `AWAY_S`, and no driver is dead for that.
HEARTBEAT_S, GRACE_S = 15, 60 + int(AWAY_S)
#: Seconds that the driver that began a study may prepare while another one waits for it: a table,
#: and the dense network on all of a large data set.
OPEN_S = 3600.0
#: Seconds within which the driver that made a study says so, on a busy machine too.
MADE_S = 30.0
#: Between two looks at what others do, while there is nothing else to do.
PAUSE_S = 1.0
#: Characters of one attribute: less than any database's limit.
_PART = 30_000
#: Attributes of a study: the driver that made it, and what others must have in common with it.
_FIRST, _TERMS = "first", "shared"


class SharedStudy(Store):
    """What drivers tell each other of a study as a whole.

    The driver that makes it measures the latency table and evaluates the dense network, then
    opens it; others wait for that.

    Args:
        url: of the database.
        study: the study's name in it; made if it is not there.
        units: units of each channel group in the dense network.
        driver: names this driver; a resumed one has the name that it began with.

    Attributes:
        driver: as above.
        first: whether this driver began the study.
        heartbeat_s: seconds between two heartbeats of a claim.

    Raises:
        RunError: as `Store`; or the study was not begun to be shared.
    """

    def __init__(self, url: str, study: str, units: Mapping[str, int], driver: str) -> None:
        self.driver = driver
        self.name = study
        self.heartbeat_s = HEARTBEAT_S
        super().__init__(url, study, units)
        with self._guarded():
            self.first = self._begun_by() == driver

    def open(self, terms: Mapping[str, Any], table: str | None) -> None:
        """Let others join.

        Args:
            terms: what they must have in common with this driver; JSON values.
            table: text of the latency table, or None.
        """
        with self._guarded():
            text = table or ""
            parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
            for index, part in enumerate(parts):
                name = f"table/{index:06d}"
                self._call(partial(self._storage.set_study_system_attr, self._study, name, part))
            self._note(_TERMS, dict(terms))

    def terms(self) -> dict[str, Any] | None:
        """What a driver must have in common with the first; None as long as that prepares.

        Raises:
            RunError: the first driver gave up.
        """
        with self._guarded():
            try:
                return self._terms()
            except KeyError as error:
                raise RunError(
                    f"the study {self.name!r} in {self.where} is gone: the driver that began it "
                    "failed before its first trial. Mend that, and begin again"
                ) from error

    def wait_until_open(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """The terms, as soon as the first driver has given them.

        Args:
            tell: is told that there is something to wait for.

        Raises:
            RunError: it takes too long, or the first driver gave up.
        """
        until = time.monotonic() + OPEN_S
        told = False
        while (terms := self.terms()) is None:
            if time.monotonic() > until:
                raise RunError(
                    f"the study {self.name!r} in {self.where} can't be joined: its first "
                    f"driver ({self._first_name()}) has not come to its first trial in "
                    f"{OPEN_S:.0f} s. Resume that run, or give another `study`"
                )
            if not told:
                tell(f"waiting for {self._first_name()}, which prepares the study")
                told = True
            time.sleep(PAUSE_S)
        return terms

    def table(self) -> str | None:
        """The text of the study's latency table, where it has one."""
        with self._guarded():
            attributes = self._call(lambda: self._storage.get_study_system_attrs(self._study))
        names = sorted(name for name in attributes if name.startswith("table/"))
        return "".join(attributes[name] for name in names) or None

    def first_events(self, kind: str) -> list[Event]:
        """Events of a kind that the driver that began the study recorded, in order."""
        with self._guarded():
            attributes = self._attributes()
        end = f"/{attributes[_FIRST]}"
        names = (n for n in attributes if n.startswith("event/") and n.endswith(end))
        return [event for event in self._events(attributes, names) if event.kind == kind]

    def _event_name(self) -> str:
        """A name that no other driver gives."""
        return f"{super()._event_name()}/{self.driver}"

    def _open(self, storage: Path | str | None) -> tuple[BaseStorage, Together]:
        from optuna.storages import get_storage

        self._rdb = open_database(
            str(storage), heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S
        )
        return get_storage(self._rdb), nullcontext  # with Optuna's cache: it reads what is new

    def _find_or_make(self, study: str) -> tuple[int, bool]:
        self._study, made = super()._find_or_make(study)
        if made:
            self._note(_FIRST, self.driver)
        return self._study, made

    def _begun_by(self) -> str:
        until = time.monotonic() + MADE_S
        while (first := self._attributes().get(_FIRST)) is None:
            if time.monotonic() > until:
                raise RunError(
                    f"the study {self.name!r} in {self.where} was not begun to be shared "
                    "(by a search with the setting `study`), so it can't be joined; give another "
                    "`study`"
                )
            time.sleep(PAUSE_S)
        return str(first)

    def _first_name(self) -> str:
        with self._guarded():
            return f"the driver {self._attributes()[_FIRST]}"

    def _terms(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._attributes().get(_TERMS)
        return found
