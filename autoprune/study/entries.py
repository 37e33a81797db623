"""What the store keeps of a trial, and in which state Optuna shows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.core.trial import Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

#: Of a trial that several drivers may want (`autoprune.study.shared_store`): whose it is, and, in
#: one attribute, what came of it; without that it was given up.
CLAIM, OUTCOME = "claim", "outcome"


def given_up(frozen: FrozenTrial) -> bool:
    """Whether a trial of several drivers is under way, or was left without a result."""
    done = OUTCOME in frozen.user_attrs and frozen.state.is_finished()
    return CLAIM in frozen.user_attrs and not done


def state_of(trial: Trial, objective: str) -> tuple[TrialState, float | None]:
    """A finished trial's state and value, for Optuna."""
    from optuna.trial import TrialState

    if not trial.ok:
        return TrialState.FAIL, None
    state = TrialState.COMPLETE if trial.whole else TrialState.PRUNED
    return state, trial.score(objective)


def attributes_of(trial: Trial, phases: Mapping[str, float], asked: int | None) -> dict[str, Any]:
    """What is stored of a finished trial besides its state and value."""
    attributes: dict[str, Any] = {
        "number": trial.number,
        "candidate": [list(pair) for pair in trial.candidate.kept],
        "predicted": trial.predicted.to_dict(),
        "metrics": dict(trial.metrics),
        "error": trial.error,
        "seconds": round(trial.seconds, 6),
        "phases": {name: round(seconds, 6) for name, seconds in phases.items()},
        **({} if asked is None else {"asked": asked}),
        **({} if trial.samples is None else {"samples": trial.samples}),
    }
    attributes["sum"] = checksum(attributes)
    return attributes


def checksum(entry: Mapping[str, Any]) -> str:
    """Of an entry's content; it tells what was changed by hand."""
    content = {name: value for name, value in entry.items() if name != "sum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
