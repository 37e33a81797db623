"""Trials of a study that several drivers search together: who evaluates what, and the results.

A driver claims a candidate by a running trial of it. The database numbers trials one after the
other, so of two trials of one candidate, and of one trial too many, every driver knows which came
first; the later one is withdrawn. A driver records heartbeats of its claims; one whose heartbeats
stopped is dead: its claims are given up, and taken over by whoever claims their candidates next.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.errors import RunError
from autoprune.core.trial import Trial
from autoprune.study.database import is_away
from autoprune.study.entries import CLAIM, OUTCOME, attributes_of, state_of
from autoprune.study.shared_study import SharedStudy
from autoprune.study.store import Stored

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

#: How often a candidate is taken over whose driver died; it may be what kills them.
TAKEOVERS = 2
#: Attribute of a trial that its own driver withdrew.
_WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Claim:
    """A candidate under way.

    Attributes:
        candidate: the one.
        driver: who evaluates it.
    """

    candidate: Candidate
    driver: str


class SharedStore(SharedStudy):
    """Trials and events of a study that several drivers search. Use it in a `with` block.

    The arguments are `SharedStudy`'s.

    Attributes:
        live: candidates under way at any driver, by trial number.
        orphans: what drivers that died had under way, to be taken over.
    """

    def __init__(self, url: str, study: str, units: Mapping[str, int], driver: str) -> None:
        super().__init__(url, study, units, driver)
        self.live: dict[int, Claim] = {}
        self.orphans: list[Candidate] = []
        self._mine: dict[int, int] = {}
        #: Numbers below which every trial is finished, and those of finished ones above.
        self._settled = 0
        self._known: set[int] = set()
        self._given_up: list[int] = []
        self._news: list[Stored] = []
        self._finished = 0
        #: Drivers that died with a candidate under way.
        self._deaths: Counter[Candidate] = Counter()
        #: Trials of each candidate that are under way or have a result.
        self._holders: dict[Candidate, set[int]] = {}
        self._failure: BaseException | None = None
        self._checked = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> SharedStore:
        with self._guarded():
            self._update()
            for number, claim in list(self.live.items()):
                if claim.driver == self.driver:  # of this run before it was killed
                    self._give_up(self._id_of(number))
            self._update()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Withdraw what is under way; a study that was not opened is taken back."""
        self._stop.set()
        self._thread.join()
        try:
            for trial_id in self._mine.values():
                self._give_up_now(trial_id, withdrawn=True)
            if self.first and not self.count and self._terms() is None:
                self._storage.delete_study(self._study)
        except Exception as problem:  # What a storage raises: heartbeats end in any case.
            if not is_away(problem):
                raise
        finally:
            self._rdb.engine.dispose()

    @property
    def count(self) -> int:
        """Trials that are finished or under way, of all drivers."""
        return self._finished + len(self.live)

    def look(self) -> list[Stored]:
        """The trials that any driver finished since the last look, in the order of their numbers.

        Raises:
            RunError: the database stays away, or holds what autoprune did not write.
        """
        if self._failure is not None:
            raise RunError(
                f"{self.where} refuses heartbeats: {self._failure}. Mend it, then resume the run"
            ) from self._failure
        with self._guarded():
            if time.monotonic() > self._checked + self.heartbeat_s:
                self._call(self._reap)
                self._checked = time.monotonic()
            self._update()
        news, self._news = self._news, []
        return news

    def claim(self, candidate: Candidate, predicted: Cost, total: int) -> int | None:
        """Claim a candidate.

        Args:
            candidate: to be evaluated by this driver.
            predicted: its cost.
            total: trials that there may be.

        Returns:
            The trial's number; None where another driver came before, or there are as many trials
            as there may be.
        """
        if self.count >= total or self._holders.get(candidate):
            return None
        attributes = {
            "candidate": [list(pair) for pair in candidate.kept],
            "predicted": predicted.to_dict(),
            CLAIM: {"driver": self.driver},
        }
        with self._guarded():
            trial_id = self._call(
                lambda: self._storage.create_new_trial(
                    self._study, self._entry(candidate, attributes, _running(), None)
                ),
                done=lambda: self._claimed(candidate),
            )
            number = self._call(lambda: self._storage.get_trial_number_from_id(trial_id))
            self._mine[number] = trial_id
            self._call(partial(self._rdb.record_heartbeat, trial_id))
            self._update()
            before = [n for n in self._holders[candidate] if n < number]
            if before or self._rank(number) > total:
                del self._mine[number]
                self._give_up(trial_id, withdrawn=True)
                self._update()
                return None
        return number

    def finish(self, trial: Trial, objective: str, phases: Mapping[str, float]) -> bool:
        """Store what came of a claim, whole or not at all.

        Args:
            trial: claimed by this driver under its number.
            objective: the metric that is its value.
            phases: seconds by phase that it took.

        Returns:
            False if this driver was held to be dead, and the claim was given up.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        whole = attributes_of(trial, phases, None)
        outcome = {k: v for k, v in whole.items() if k not in ("candidate", "predicted")}
        state, value = state_of(trial, objective)
        trial_id = self._mine.pop(trial.number)

        def write() -> bool:
            try:
                self._storage.set_trial_user_attr(trial_id, OUTCOME, outcome)
                self._storage.set_trial_state_values(
                    trial_id, state, None if value is None else [value]
                )
            except UpdateFinishedTrialError:  # it is there, although the answer was lost; or not
                stored = self._storage.get_trial(trial_id).user_attrs.get(OUTCOME, {})
                return bool(stored.get("sum") == outcome["sum"])
            return True

        with self._guarded():
            return self._call(write)

    # -- inside ------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Read what is new."""
        trials = self._frozen()
        for frozen in trials[self._settled :]:
            number = frozen.number
            if number in self._known:
                continue
            if frozen.state.is_finished():
                self._known.add(number)
                self._take(frozen)
            elif number not in self.live:
                claim = _claim_of(frozen)
                self.live[number] = claim
                self._holders.setdefault(claim.candidate, set()).add(number)
                if claim.driver != self.driver:
                    # It may have died before its first heartbeat, without which it lives forever.
                    self._call(partial(self._rdb.record_heartbeat, frozen._trial_id))
        while self._settled in self._known:
            self._known.remove(self._settled)
            self._settled += 1

    def _take(self, frozen: FrozenTrial) -> None:
        """A trial has come to its end."""
        number = frozen.number
        self.live.pop(number, None)
        claim = _claim_of(frozen)
        if OUTCOME in frozen.user_attrs:
            self._holders.setdefault(claim.candidate, set()).add(number)
            self._finished += 1
            self._news.append(self._read(frozen))
            return
        self._holders.get(claim.candidate, set()).discard(number)
        self._given_up.append(number)
        if _WITHDRAWN not in frozen.user_attrs:
            self._deaths[claim.candidate] += 1
            self.orphans = [c for c in self.orphans if c != claim.candidate]
            if self._deaths[claim.candidate] <= TAKEOVERS:
                self.orphans.append(claim.candidate)

    def _rank(self, number: int) -> int:
        """The how-manieth trial it is, of those that were not given up."""
        return number + 1 - sum(other < number for other in self._given_up)

    def _claimed(self, candidate: Candidate) -> int | None:
        """The id of a claim that was stored although the database's answer was lost."""
        for frozen in self._frozen()[self._settled :]:
            if frozen.state.is_finished() or frozen.number in self._mine:
                continue
            claim = _claim_of(frozen)
            if claim.driver == self.driver and claim.candidate == candidate:
                return frozen._trial_id
        return None

    def _id_of(self, number: int) -> int:
        return self._call(
            lambda: self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
        )

    def _give_up(self, trial_id: int, *, withdrawn: bool = False) -> None:
        self._call(lambda: self._give_up_now(trial_id, withdrawn=withdrawn))

    def _give_up_now(self, trial_id: int, *, withdrawn: bool) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):  # another driver did
            if withdrawn:
                self._storage.set_trial_user_attr(trial_id, _WITHDRAWN, True)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _reap(self) -> None:
        """Give up the claims of drivers that died."""
        from optuna import load_study
        from optuna.storages import fail_stale_trials

        self._beat()  # this one is alive, however long it was held up
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fail_stale_trials is experimental.*")
            fail_stale_trials(load_study(study_name=self.name, storage=self._storage))

    def _beat_on(self) -> None:
        """Record heartbeats until the end; in a thread of its own."""
        while not self._stop.wait(self.heartbeat_s):
            try:
                self._beat()
            except Exception as error:  # What a storage raises; `look` tells of it.
                if not is_away(error):
                    self._failure = error
                    return
        self._rdb.remove_session()

    def _beat(self) -> None:
        for trial_id in list(self._mine.values()):
            self._rdb.record_heartbeat(trial_id)


def _claim_of(frozen: FrozenTrial) -> Claim:
    attributes = frozen.user_attrs
    kept = tuple((name, count) for name, count in attributes["candidate"])
    return Claim(Candidate(kept), attributes[CLAIM]["driver"])


def _running() -> Any:
    from optuna.trial import TrialState

    return TrialState.RUNNING
