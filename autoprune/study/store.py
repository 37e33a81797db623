"""The store: every trial of every searcher as an Optuna trial, and what else a run must remember.

A finished trial is one entry, so it is stored whole or not at all. What is not a trial (the dense
network's evaluation, measured verifications with the correction they bring to the table) is an
event: a numbered attribute of the study that says after how many trials it happened. A resumed
run reads both back in the order in which they happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.errors import RunError, RunVersionError
from autoprune.core.trial import Trial
from autoprune.study.database import open_database, patiently, shown
from autoprune.study.entries import CLAIM, OUTCOME, attributes_of, checksum, given_up, state_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")
#: Opens a block at whose end what it wrote is durable.
Together = Callable[[], AbstractContextManager[None]]

#: Of the trials' and events' attributes.
SCHEMA = 1
#: What Optuna's `Study.set_metric_names` sets.
_VALUES = "study:metric_names"


@dataclass(frozen=True)
class Stored:
    """A trial as it is stored.

    Attributes:
        trial: finished; what was measured of it later is in an event.
        phases: seconds by phase that it took.
        asked: how many trials were finished when it was suggested; None where that is not known
            (an earlier autoprune wrote it).
    """

    trial: Trial
    phases: Mapping[str, float]
    asked: int | None = None


@dataclass(frozen=True)
class Event:
    """Something a run must remember besides its trials.

    Attributes:
        kind: "dense", "measured", ...
        after: how many trials were finished before it.
        data: JSON values.
    """

    kind: str
    after: int
    data: Mapping[str, Any]


class Store:
    """Trials and events of one run, in an Optuna study.

    Args:
        storage: a journal file's path, a database URL, or None to keep it in memory.
        study: the study's name in it; made if it is not there.
        units: units of each channel group in the dense network, the range of the parameters.

    Raises:
        RunError: the storage can't be reached, read or written, or was changed by hand.
        RunVersionError: a newer autoprune wrote it.
    """

    def __init__(self, storage: Path | str | None, study: str, units: Mapping[str, int]) -> None:
        from optuna.distributions import IntDistribution

        self._database = isinstance(storage, str)
        self.where = shown(storage) if isinstance(storage, str) else str(storage or "memory")
        self._ranges = {name: IntDistribution(1, count) for name, count in units.items()}
        with self._guarded(), _quiet():
            self._storage, self._together = self._open(storage)
            self._study, made = self._find_or_make(study)
            if made:
                self._note("schema", SCHEMA)
            schema = self._attributes().get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise RunVersionError(
                f"{self.where} was written by a newer autoprune (schema {schema}, this one reads "
                f"up to {SCHEMA}); upgrade autoprune"
            )

    def name_values(self, objective: str) -> None:
        """Have Optuna's tools call a trial's value by its name.

        Args:
            objective: whose values they are.
        """
        with self._guarded():
            attributes = self._call(lambda: self._storage.get_study_system_attrs(self._study))
            if _VALUES not in attributes:
                self._call(
                    lambda: self._storage.set_study_system_attr(self._study, _VALUES, [objective])
                )

    def trials(self) -> list[Stored]:
        """Every finished trial, in the order in which they finished (of several drivers: began).

        Raises:
            RunError: one was changed by hand.
        """
        with self._guarded():
            return [self._read(trial) for trial in self._frozen() if not given_up(trial)]

    def add(
        self,
        trial: Trial,
        objective: str,
        phases: Mapping[str, float] | None = None,
        asked: int | None = None,
    ) -> None:
        """Store a finished trial, whole or not at all.

        Args:
            trial: the one.
            objective: the metric that is its value.
            phases: seconds by phase that it took.
            asked: how many trials were finished when it was suggested.
        """
        attributes = attributes_of(trial, phases or {}, asked)
        frozen = self._entry(trial.candidate, attributes, *state_of(trial, objective))
        with self._guarded():
            self._call(
                lambda: self._storage.create_new_trial(self._study, template_trial=frozen),
                done=lambda: self._stored(attributes),
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make several trials durable at once, at the end of the block.

        Each is in the file as soon as it is added, so only a failing machine can lose it before.
        """
        with self._guarded(), self._together():
            yield

    def events(self) -> list[Event]:
        """Every event, in order.

        Raises:
            RunError: one was changed by hand.
        """
        with self._guarded():
            attributes = self._attributes()
        return self._events(attributes, (n for n in attributes if n.startswith("event/")))

    def record(self, event: Event) -> None:
        """Store an event, whole or not at all."""
        data = json.loads(json.dumps(event.data))
        entry: dict[str, Any] = {"kind": event.kind, "after": event.after, "data": data}
        with self._guarded():
            self._note(self._event_name(), {**entry, "sum": checksum(entry)})

    def _event_name(self) -> str:
        """What the next event is stored under."""
        number = sum(name.startswith("event/") for name in self._attributes())
        return f"event/{number:06d}"

    def _events(self, attributes: Mapping[str, Any], names: Iterable[str]) -> list[Event]:
        found = []
        for name in sorted(names):
            entry = attributes[name]
            if not isinstance(entry, dict) or entry.get("sum") != checksum(entry):
                raise RunError(f"{self.where}: {name} was changed after it was written; restore it")
            found.append(Event(entry["kind"], entry["after"], entry["data"]))
        return found

    def _open(self, storage: Path | str | None) -> tuple[BaseStorage, Together]:
        from optuna.storages import InMemoryStorage

        from autoprune.study.journal import open_journal

        if storage is None:
            return InMemoryStorage(), nullcontext
        if isinstance(storage, Path):
            return open_journal(storage)
        if "://" not in storage:
            raise RunError(
                "storage must be a database URL such as postgresql+psycopg://user@host/name, or "
                f"left out for a journal file in the run folder; got {storage!r}"
            )
        return open_database(storage), nullcontext

    def _find_or_make(self, study: str) -> tuple[int, bool]:
        """The study's id, and whether it was made now."""
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        def find() -> int | None:
            try:
                return self._storage.get_study_id_from_name(study)
            except KeyError:
                return None

        def make() -> int:
            return self._storage.create_new_study([StudyDirection.MAXIMIZE], study)

        known = self._call(find)
        if known is not None:
            return known, False
        try:
            return self._call(make, done=find), True
        except DuplicatedStudyError:
            known = self._call(find)  # another process made it just now
            if known is None:
                raise
            return known, False

    def _entry(
        self,
        candidate: Candidate,
        attributes: Mapping[str, Any],
        state: TrialState,
        value: float | None,
    ) -> FrozenTrial:
        """A trial as Optuna takes it; the storage gives it a number and an id."""
        from optuna.trial import FrozenTrial

        now = datetime.now()
        spent = timedelta(seconds=attributes.get("seconds", 0.0))
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=state,
            value=value,
            datetime_start=now - spent,
            datetime_complete=now if state.is_finished() else None,
            params=dict(candidate),
            distributions={name: self._ranges[name] for name in candidate},
            user_attrs=dict(attributes),
            system_attrs={},
            intermediate_values={},
        )

    def _call(self, call: Callable[[], T], done: Callable[[], T | None] | None = None) -> T:
        """Use the storage; a database that restarts is waited for."""
        return patiently(call, self.where, done=done) if self._database else call()

    def _frozen(self) -> list[FrozenTrial]:
        return self._call(lambda: self._storage.get_all_trials(self._study, deepcopy=False))

    def _attributes(self) -> dict[str, Any]:
        return self._call(lambda: self._storage.get_study_user_attrs(self._study))

    def _note(self, name: str, value: Any) -> None:
        self._call(lambda: self._storage.set_study_user_attr(self._study, name, value))

    def _stored(self, attributes: Mapping[str, Any]) -> int | None:
        """The id of a trial that was stored although the database's answer was lost."""
        for frozen in reversed(self._storage.get_all_trials(self._study, deepcopy=False)):
            if frozen.user_attrs.get("sum") == attributes["sum"]:
                return frozen._trial_id
        return None

    def _read(self, frozen: FrozenTrial) -> Stored:
        attributes = dict(frozen.user_attrs)
        attributes.pop(CLAIM, None)
        attributes.update(attributes.pop(OUTCOME, {}))
        if attributes.get("sum") != checksum(attributes):
            raise RunError(
                f"{self.where}: trial {frozen.number} was changed after it was written; restore "
                "it from a copy, or start anew in another folder"
            )
        trial = Trial(
            number=attributes["number"],
            candidate=Candidate(tuple((name, count) for name, count in attributes["candidate"])),
            predicted=Cost.from_dict(attributes["predicted"]),
            metrics=attributes["metrics"],
            error=attributes["error"],
            seconds=attributes["seconds"],
            samples=attributes.get("samples"),
        )
        return Stored(trial, attributes["phases"], attributes.get("asked"))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what a storage raises into an error that says what to do."""
        from optuna.exceptions import OptunaError

        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.where} can't be used: {error.strerror or error}. Free space or mend the "
                "rights, then resume the run: everything finished so far is kept"
            ) from error
        except (OptunaError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.where} holds what autoprune did not write "
                f"({type(error).__name__}: {error}); restore it from a copy, or start anew"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing the study it makes."""
    import logging

    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
