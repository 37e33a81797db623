"""A finished run's `result.json` as a `Result` again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.device import Measurement
from autoprune.core.errors import RunError
from autoprune.core.trial import Trial
from autoprune.study.result import Result
from autoprune.study.verify import Verification


def result_of(
    data: dict[str, Any],
    model: nn.Module,
    example_inputs: tuple[Any, ...] | dict[str, Any],
    trials: Sequence[Trial],
    folder: Path,
) -> Result:
    """Put a result together from what `result.json` tells.

    Raises:
        RunError: something is missing in it.
    """
    try:
        return _result_of(data, model, example_inputs, trials, folder)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder / 'result.json'} was changed by hand or damaged "
            f"({type(error).__name__}: {error}); restore it"
        ) from error


def _result_of(
    data: dict[str, Any],
    model: nn.Module,
    example_inputs: tuple[Any, ...] | dict[str, Any],
    trials: Sequence[Trial],
    folder: Path,
) -> Result:
    winner, dense, budget = data["winner"], data["dense"], data["budget"]
    kept = {name: (k["kept"], k["of"]) for name, k in winner["kept"].items()}
    return Result(
        model=model.eval(),
        candidate=Candidate.of({name: k for name, (k, _) in kept.items()}),
        held=data["held"],
        cost=Cost.from_dict(winner["cost"]),
        predicted=Cost.from_dict(winner["predicted"]),
        dense_cost=Cost.from_dict(dense["cost"]),
        metrics=winner["metrics"],
        metrics_before_recovery=winner["metrics_before_recovery"],
        dense_metrics=dense["metrics"],
        budget=Budget.parse(budget["asked"]),
        limits=Budget.parse(budget["limits"]),
        violations={m: math.inf if v is None else v for m, v in budget["violations"].items()},
        objective=data["objective"],
        example_inputs=example_inputs,
        kept=kept,
        verification=_verification(winner["measured"]),
        dense_verification=_verification(dense["measured"]),
        trials=tuple(_measured(trial, data["verified"]) for trial in trials),
        data=data,
        folder=folder,
    )


def _verification(measured: Mapping[str, Any] | None) -> Verification | None:
    if measured is None:
        return None
    if measured["error"] is not None:
        return Verification(Measurement("", error=measured["error"]), math.nan)
    low, high = measured["ratio_interval"]
    reference = measured["latency_ms"] / measured["ratio"]
    return Verification(
        Measurement(
            "",
            latency_ms=measured["latency_ms"],
            latency_interval_ms=(low * reference, high * reference),
            ratio=measured["ratio"],
            ratio_interval=(low, high),
            energy_mj=measured["energy_mj"],
            energy_source=measured.get("energy_source") or "measured",
            energy_ratio=measured.get("energy_ratio"),
            energy_ratio_interval=_pair(measured.get("energy_ratio_interval")),
            stopped=measured["stopped"],
            notes=tuple(measured.get("notes", ())),
        ),
        reference,
    )


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _measured(trial: Trial, verified: Mapping[str, Mapping[str, Any]]) -> Trial:
    cost = verified.get(str(trial.number))
    return trial if cost is None else replace(trial, measured=Cost.from_dict(cost["cost"]))
