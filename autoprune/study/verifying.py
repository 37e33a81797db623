"""What a search measures end to end: which of its trials, and what is known of them then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autoprune.core.budget import Budget
from autoprune.core.errors import ProfilerError, RunError
from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.study.verify import (
    MEASURED,
    Verification,
    holds,
    measure_until_decided,
    ranked,
)

if TYPE_CHECKING:
    from autoprune.cost.base import CostModel
    from autoprune.graph.network import Network
    from autoprune.study.config import SearchConfig
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.evaluation import Phases
    from autoprune.study.events import Events
    from autoprune.study.loop import Loop
    from autoprune.study.progress import Progress
    from autoprune.study.store import Store

#: Candidates of one verification measured at most, as a multiple of `VerifySettings.top`.
BATCHES = 2


class Verifying:
    """The part of a `Session` that measures its best trials, and knows which hold the budget."""

    config: SearchConfig
    limits: Budget
    network: Network
    cost_model: CostModel
    device: DeviceMeasure | None
    reference_ms: float | None
    loop: Loop
    store: Store
    progress: Progress
    phases: Phases
    _events: Events

    def __init__(self) -> None:
        #: Verifications by trial number.
        self.verified: dict[int, Verification] = {}
        #: (predicted, measured) latency in ms of each, as predicted before it was measured.
        self.errors: list[tuple[float, float]] = []

    @property
    def needs_device(self) -> bool:
        """Whether the budget bounds what only a device can tell."""
        return any(metric in self.limits.limits for metric in MEASURED)

    def winner(self) -> Trial | None:
        """The best trial whose measured upper bound holds the budget; None if there is none yet.

        Bounds on what is counted are compared with the exact counts.
        """
        return next(iter(self.winners()), None)

    def winners(self) -> list[Trial]:
        """Every trial that holds the budget for sure, the best first."""
        order = ranked(self.loop.trials, self.merit)
        if not self.needs_device:  # Trials of a looser budget may break this one.
            return [t for t in order if holds(self.limits.violations(t.predicted))]
        return [t for t in order if t.number in self.verified and holds(self.broken(t))]

    def others(self, shipped: Mapping[int, Verification | None]) -> list[Trial]:
        """Winners besides those, which did not hold when they were measured to be shipped.

        Where there are none, more of the trials are measured. What is measured here is not stored:
        after a kill the winners are measured anew.
        """
        for number, found in shipped.items():
            if found is not None:
                self._measured_as(self.trial(number), found)
        left = [t for t in self.winners() if t.number not in shipped]
        for _ in range(BATCHES if self.needs_device else 0):
            chosen = [] if left else self._worth_measuring()
            if not chosen:
                break
            self._learn(chosen, self._verifications(chosen))
            left = [t for t in self.winners() if t.number not in shipped]
        return left

    def merit(self, trial: Trial) -> float:
        """What decides between trials that hold the budget: the score, or an AMC reward."""
        return self.loop.merit(trial)

    def broken(self, trial: Trial) -> dict[str, float]:
        """By how much a measured trial breaks each bound; above 0 is broken."""
        return self.verified[trial.number].violations(self.limits, trial.predicted)

    def nearest(self) -> Trial | None:
        """The measured trial that breaks the budget least, for a search that did not hold it."""
        known = [t for t in self.loop.trials if t.number in self.verified]
        order = sorted(known, key=lambda t: max(self.broken(t).values()))
        return next(iter(order or ranked(self.loop.trials, self.merit)), None)

    def _verify(self, batches: int) -> bool:
        """Measure the best candidates, and correct the cost model with what was measured.

        Returns:
            True if a winner is there and nothing better is left to measure; False if what looked
            best broke the budget, so that the search should go on with the corrected model.
        """
        for _ in range(batches):
            chosen = self._worth_measuring()
            if not chosen:
                return self.winner() is not None
            self._measure(chosen)
            if any(holds(self.broken(trial)) for trial in chosen):
                return True
        return False

    def _worth_measuring(self) -> list[Trial]:
        """The best unmeasured trials that may hold the budget and would beat the winner."""
        measured = {self.trial(number).candidate.key for number in self.verified}
        best = self.winner()
        bar = float("-inf") if best is None else self.merit(best)
        order = [
            trial
            for trial in ranked(self.loop.trials, self.merit)
            if trial.candidate.key not in measured and self.merit(trial) > bar
        ]
        if not order:
            return []
        costs = self.cost_model.predict(self.network.workloads([t.candidate for t in order]))
        fits = [
            trial
            for trial, cost in zip(order, costs, strict=True)
            if holds(self.limits.violations(cost))
        ]
        return fits[: self.config.verify.top]

    def trial(self, number: int) -> Trial:
        """A finished trial by its number."""
        return next(t for t in self.loop.trials if t.number == number)

    def _measure(self, chosen: Sequence[Trial]) -> None:
        numbers = [trial.number for trial in chosen]
        known = self._events.replay("verified")
        if known is not None:
            if known["trials"] != numbers:
                raise RunError(
                    f"{self.store.where}: the next verification is of trials "
                    f"{known['trials']}, this search would measure {numbers}; the settings or "
                    "the versions changed since. Start anew in another folder"
                )
            found = [Verification.from_dict(v) for v in known["verifications"]]
        else:
            found = self._verifications(chosen)
            data = {"trials": numbers, "verifications": [v.to_dict() for v in found]}
            self._events.record("verified", len(self.loop.trials), data)
        self._learn(chosen, found)

    def _verifications(self, chosen: Sequence[Trial]) -> list[Verification]:
        if self.device is None:
            raise ProfilerError("a budget on latency needs a device; give one by `device`")
        several = f"{len(chosen)} best candidates" if len(chosen) > 1 else "best candidate"
        self.progress.message(f"measuring the {several}")
        candidates = [trial.candidate for trial in chosen]
        with self.phases("measure"):
            found = measure_until_decided(
                self.device.candidates,
                candidates,
                self.limits,
                self.reference_ms,
                every=bool(self.config.objectives),  # each point of a front counts
            )
        if not any(v.measurement.ok for v in found):
            raise ProfilerError(
                f"none of {len(found)} candidates could be measured on {self.device.spec}; "
                f"the first: {found[0].measurement.error}"
            )
        return found

    def _learn(self, chosen: Sequence[Trial], found: Sequence[Verification]) -> None:
        """Take measurements of trials, and correct the cost model with them."""
        candidates = [trial.candidate for trial in chosen]
        workloads = self.network.workloads(candidates)
        before = self.cost_model.predict(workloads)
        with self.phases("correct"):
            self.cost_model.update(workloads, [v.measurement for v in found])
        for trial, verification, predicted in zip(chosen, found, before, strict=True):
            if verification.measurement.ok and predicted.latency_ms is not None:
                self.errors.append((predicted.latency_ms, verification.latency_ms))
            self._measured_as(trial, verification)
            self._tell_measured(trial, verification)

    def _measured_as(self, trial: Trial, verification: Verification) -> None:
        self.verified[trial.number] = verification
        position = self.loop.trials.index(trial)
        self.loop.trials[position] = replace(trial, measured=verification.cost(trial.predicted))

    def _tell_measured(self, trial: Trial, verification: Verification) -> None:
        text = str(verification)
        if verification.measurement.ok:
            metric = metric_of(self.config.objective)
            text = f"{metric} {trial.score(metric):.4f}, {text}{self._verdict(trial)}"
        self.progress.message(f"trial {trial.number}: {text}")

    def _verdict(self, trial: Trial) -> str:
        return ": holds" if holds(self.broken(trial)) else ": breaks the budget"
