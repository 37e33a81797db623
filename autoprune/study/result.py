"""What a search gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.core.errors import ConfigError, ExportError
from autoprune.core.failures import describe
from autoprune.core.files import write_atomically
from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.pruning._batches import as_call
from autoprune.study.config import budget_settings
from autoprune.study.folder import SCHEMA
from autoprune.study.verify import Verification


@dataclass(frozen=True, eq=False)
class Result:
    """The pruned network, and what it costs and is worth beside the dense one.

    Attributes:
        model: the pruned (and recovered) network, in eval mode; the user's own is untouched.
        candidate: kept units of each group.
        held: whether the budget holds: measured upper bounds for what a device can tell, exact
            counts for the rest.
        cost: of the pruned network; latency measured, where a device was there.
        predicted: its cost as the cost model told it before it was measured.
        dense_cost: of the dense network.
        metrics: what `evaluate` says of `model`.
        metrics_before_recovery: of the pruned network before fine-tuning.
        dense_metrics: of the dense network.
        budget: as it was asked for.
        limits: the same in absolute numbers.
        violations: by how much each bound is broken, as a fraction; above 0 is broken.
        verification: the measurement of what is shipped, or None without a device.
        dense_verification: of the dense network beside it.
        trials: every trial, in order.
        objective: the metric that was maximised, or minimised where a minus stands before it.
        example_inputs: of one batch.
        kept: group → (kept units, units).
        data: everything as JSON values: the content of `result.json`.
        folder: the run folder, if there is one.
        front: with several objectives, the content of `pareto.json`; `model` then is the front's
            most accurate network that holds the budget.
        family: of several budgets, the result of each, the loosest first; this one then is that of
            the tightest that holds.
    """

    model: nn.Module
    candidate: Candidate
    held: bool
    cost: Cost
    predicted: Cost
    dense_cost: Cost
    metrics: Mapping[str, float]
    metrics_before_recovery: Mapping[str, float]
    dense_metrics: Mapping[str, float]
    budget: Budget
    limits: Budget
    violations: Mapping[str, float]
    objective: str
    example_inputs: tuple[Any, ...] | dict[str, Any]
    kept: Mapping[str, tuple[int, int]]
    verification: Verification | None = None
    dense_verification: Verification | None = None
    trials: tuple[Trial, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    front: dict[str, Any] | None = None
    family: tuple[Result, ...] = ()

    @property
    def accuracy(self) -> float:
        """The metric that was searched for, of the pruned network after recovery."""
        return self.metrics[metric_of(self.objective)]

    @property
    def dense(self) -> Mapping[str, float]:
        """What `evaluate` says of the dense network."""
        return self.dense_metrics

    def export(self, path: str | Path, format: str | None = None) -> Path:
        """Write the pruned network to a file.

        Args:
            path: `.onnx`, or `.pt2` for a `torch.export` program.
            format: "onnx" or "torch"; None goes by the ending.

        Raises:
            ConfigError: the format is unknown.
            ExportError: the network can't be written in that format.
        """
        return export_model(self.model, self.example_inputs, Path(path), format)

    def __repr__(self) -> str:
        held = "held" if self.held else "not held"
        metric = metric_of(self.objective)
        return (
            f"Result(budget {self.budget}: {held}, {metric} {self.accuracy:.4g} "
            f"(dense {self.dense_metrics[metric]:.4g}))"
        )


_ENDINGS = {".onnx": "onnx", ".pt2": "torch"}


def export_model(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | dict[str, Any],
    path: Path,
    format: str | None = None,
) -> Path:
    """Write a network as ONNX or as a `torch.export` program.

    Raises:
        ConfigError: the format is unknown.
        ExportError: it can't be written in that format.
    """
    kind = format or _ENDINGS.get(path.suffix)
    if kind not in _ENDINGS.values():
        raise ConfigError(
            f"a network can be exported as onnx (.onnx) or torch (.pt2); got "
            f"{format or path.name!r}"
        )
    args, kwargs = as_call(example_inputs)
    if kind == "onnx":
        from autoprune.export.onnx import export_onnx

        write_atomically(path, export_onnx(model, args, kwargs), ExportError)
        return path
    write_atomically(path, _torch_program(model, args, kwargs), ExportError)
    return path


def _torch_program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A `torch.export` program as bytes."""
    import io
    import warnings

    import torch

    from autoprune.pruning._compare import evaluating

    buffer = io.BytesIO()
    try:
        with evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a recurrent layer's list of weights, say
            torch.export.save(torch.export.export(model, args, kwargs, strict=False), buffer)
    except Exception as error:  # torch raises many kinds; the user's forward runs here
        raise ExportError(
            f"torch.export must take the network; it refused {type(model).__name__}: "
            f"{describe(error)}"
        ) from error
    return buffer.getvalue()


def result_data(result: Result, trial: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `result.json`.

    Args:
        result: whose own `data` is not looked at.
        trial: number of the winner's trial.
        about: further entries: seed, seconds, device, versions, table, ...
    """
    failed = sum(not trial.ok for trial in result.trials)
    return {
        "schema": SCHEMA,
        "held": result.held,
        "budget": {
            "asked": budget_settings(result.budget),
            "limits": {m: limit.value for m, limit in result.limits.limits.items()},
            "violations": _finite(result.violations),
        },
        "objective": result.objective,
        "dense": {
            "metrics": dict(result.dense_metrics),
            "cost": result.dense_cost.to_dict(),
            "measured": measured(result.dense_verification),
        },
        "winner": {
            "trial": trial,
            "metrics": dict(result.metrics),
            "metrics_before_recovery": dict(result.metrics_before_recovery),
            "cost": result.cost.to_dict(),
            "predicted": result.predicted.to_dict(),
            "measured": measured(result.verification),
            "kept": {n: {"kept": k, "of": of} for n, (k, of) in result.kept.items()},
        },
        "trials": {"finished": len(result.trials), "failed": failed},
        **about,
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """None stands for what is broken because it could not be measured."""
    return {m: v if v != float("inf") else None for m, v in values.items()}


def measured(verification: Verification | None) -> dict[str, Any] | None:
    """A measurement for people: without its single rounds."""
    if verification is None:
        return None
    measurement = verification.measurement
    if not measurement.ok:
        return {"error": measurement.error}
    return {
        "error": None,
        "latency_ms": verification.latency_ms,
        "interval_ms": list(verification.interval_ms),
        "ratio": measurement.ratio,
        "ratio_interval": list(measurement.ratio_interval),
        "energy_mj": measurement.energy_mj,
        "energy_interval_mj": _list(verification.energy_interval_mj),
        "energy_ratio": measurement.energy_ratio,
        "energy_ratio_interval": _list(measurement.energy_ratio_interval),
        "energy_source": None if measurement.energy_mj is None else measurement.energy_source,
        "rounds": len(measurement.samples_ms),
        "stopped": measurement.stopped,
        "notes": list(measurement.told),
    }


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
