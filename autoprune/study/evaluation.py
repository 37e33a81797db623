"""One evaluation: from a candidate to what the user's function says of the pruned network."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import AutopruneError, EvaluationError
from autoprune.core.failures import describe
from autoprune.core.objectives import metric_of
from autoprune.evaluate.base import Evaluator, Outcome
from autoprune.evaluate.quiet import evaluating
from autoprune.pruning._compare import evaluating as eval_mode

if TYPE_CHECKING:
    from autoprune.graph.network import Network, Selection
    from autoprune.pruning.importance import Importance
    from autoprune.study.racing import Race
    from autoprune.study.task import Task


def evaluate_model(model: nn.Module, evaluate: Evaluator, objective: str) -> dict[str, float]:
    """Call the user's function and check what it gives.

    A bare number is taken as the objective. Of one that is minimised ("-loss"), the negated value
    is added under that name. The model is in eval mode, without gradients; it gets its own mode
    back. Waits while something is measured on this machine.

    Raises:
        EvaluationError: it raised, or gave no finite number for the objective.
        RunError: the machine's locks can't be used.
    """
    with evaluating():
        try:
            with torch.no_grad(), eval_mode(model):
                given: Any = evaluate(model)
        except (Exception, SystemExit) as error:  # The user's: what it raises fails this trial.
            raise EvaluationError(f"evaluate raised {describe(error)}") from error
    metric = metric_of(objective)
    if not isinstance(given, Mapping):
        number = as_number(given)
        if number is None:
            raise EvaluationError(
                f'evaluate must return a mapping such as {{"{metric}": 0.93}}, or a number; '
                f"it returned {type(given).__name__}"
            )
        given = {metric: number}
    metrics = {}
    for name, value in given.items():
        number = as_number(value)
        if number is None or not math.isfinite(number):
            raise EvaluationError(
                f"evaluate must return finite numbers, its {str(name)!r} is {value!r}"
            )
        metrics[str(name)] = number
    if metric not in metrics:
        hint = next(iter(metrics), "")
        raise EvaluationError(
            f"evaluate must return {metric!r}, the objective; it returned "
            f"{', '.join(metrics) or 'nothing'}"
            + (f". Name another by `objective`: {hint}, or -{hint} to minimise it" if hint else "")
        )
    if objective != metric:
        metrics[objective] = -metrics[metric]
    return metrics


def as_number(value: Any) -> float | None:
    """A number, a numpy scalar or a tensor of one element as a float; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 and value.dtype != torch.bool else None
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "size", 0) == 1 and not isinstance(item(), bool):
        return as_number(item())
    return None


class Phases:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the seconds in the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds of a phase."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def evaluate_dense(task: Task, model: nn.Module) -> dict[str, float]:
    """What a task's function says of its dense network; once in a batch, which remembers it.

    Raises:
        EvaluationError: as `evaluate_model`.
    """

    def evaluate() -> dict[str, float]:
        return evaluate_model(model, task.evaluate, task.config.objective)

    return evaluate() if task.cache is None else task.cache.dense(evaluate)


class CandidateEvaluator:
    """Prunes, reconstructs and evaluates; called with a candidate.

    Args:
        network: traced.
        evaluate: the user's function.
        objective: the metric that is maximised; with a minus before it, minimised.
        importance: which units of a group go first.
        calibration: batches of inputs; () leaves what is not pruned as it is.
        reconstruct: whether consuming layers are refitted by least squares on them; otherwise
            only biases and BatchNorm statistics are moved (see `Reconstructor`).
        race: evaluates candidates instead, and stops those that are hopeless; or None.
    """

    def __init__(
        self,
        network: Network,
        evaluate: Evaluator,
        *,
        objective: str = "accuracy",
        importance: str | Importance = "l1",
        calibration: Sequence[Any] = (),
        reconstruct: bool = True,
        race: Race | None = None,
    ) -> None:
        from autoprune.pruning.importance import scores
        from autoprune.pruning.reconstruct import Reconstructor, Scope

        self.network = network
        self.objective = objective
        self._evaluate = evaluate
        self._race = race
        #: Group → (units,) scores; units with the highest are kept.
        self.scores = scores(network, importance)
        #: Batches of inputs.
        self.calibration = calibration
        scope: Scope = "consuming" if reconstruct else "bias"
        self._reconstructor = (
            Reconstructor(network, calibration, scope=scope) if calibration else None
        )

    def select(self, candidate: Candidate) -> Selection:
        """Which units a candidate keeps."""
        from autoprune.pruning.selection import select

        return select(self.network, candidate, scores=self.scores)

    def build(self, selection: Selection, phases: Phases | None = None) -> nn.Module:
        """The pruned network of a selection, reconstructed.

        Raises:
            AutopruneError: it can't be built.
        """
        from autoprune.pruning.surgery import apply

        phases = phases or Phases()
        with phases("surgery"):
            model = apply(self.network, selection)
        if self._reconstructor is not None:
            with phases("reconstruct"):
                self._reconstructor.apply(model, selection)
        return model

    def __call__(self, candidate: Candidate, racing: bool = True) -> Outcome:
        """Evaluate a candidate; a failure is an outcome. Waits while this machine measures.

        Args:
            candidate: what to evaluate.
            racing: False evaluates it in full, and beside the race.

        Raises:
            RunError: the machine's locks can't be used.
        """
        with evaluating():
            return self._evaluated(candidate, racing)

    def _evaluated(self, candidate: Candidate, racing: bool) -> Outcome:
        phases = Phases()
        start = time.perf_counter()
        metrics: dict[str, float] = {}
        error: str | None = None
        samples: int | None = None
        try:
            with phases("select"):
                selection = self.select(candidate)
            model = self.build(selection, phases)
            with phases("evaluate"):
                if self._race is None or not racing:
                    metrics = evaluate_model(model, self._evaluate, self.objective)
                else:
                    score, samples = self._race(model, candidate)
                    metrics = {self.objective: score}
        except EvaluationError as problem:
            error = str(problem)
        except AutopruneError as problem:
            error = f"{type(problem).__name__}: {problem}"
        except Exception as problem:  # Building runs the user's network on the user's batches.
            error = f"the pruned network could not be built: {describe(problem)}"
        return Outcome(metrics, error, time.perf_counter() - start, phases.seconds, samples)
