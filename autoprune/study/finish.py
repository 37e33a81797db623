"""From the winner to what is shipped: checked, recovered, exported, measured once more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.errors import EvaluationError
from autoprune.core.objectives import metric_of
from autoprune.core.trial import Trial
from autoprune.evaluate.quiet import evaluating
from autoprune.study.evaluation import CandidateEvaluator, Phases, evaluate_model
from autoprune.study.progress import Progress
from autoprune.study.quietly import QuietBatches
from autoprune.study.verify import Verification, measure_network_until_decided

if TYPE_CHECKING:
    from autoprune.evaluate.base import Evaluator
    from autoprune.graph.network import Selection
    from autoprune.pruning.reconstruct import Reconstructor
    from autoprune.pruning.recover import Loss
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.settings import RecoverSettings


@dataclass(frozen=True)
class Shipped:
    """A winner as it leaves.

    Attributes:
        trial: that it was.
        model: pruned, reconstructed and recovered, in eval mode.
        metrics: of the model.
        built_metrics: of the model before recovery.
        onnx: the model's export that was measured, or None without a device.
        dense_onnx: the dense network's.
        verification: of it, or None without a device.
        dense_verification: of the dense network beside it.
        recovered: whether all that may recover it was done.
    """

    trial: Trial
    model: nn.Module
    metrics: dict[str, float]
    built_metrics: dict[str, float]
    onnx: bytes | None = None
    dense_onnx: bytes | None = None
    verification: Verification | None = None
    dense_verification: Verification | None = None
    recovered: bool = False


class Finisher:
    """Builds winners and measures them as they are shipped.

    Args:
        evaluator: builds and evaluates as in the search.
        evaluate: the user's function.
        objective: the metric that is maximised.
        calibration: every batch of inputs there is, to refit the winners' layers on; None
            leaves them as they were evaluated.
        train: batches of (inputs, labels), or None.
        recover: how the winner is fine-tuned, or None.
        loss: of the task, or None for cross-entropy.
        seed: of everything random in recovery.
        checkpoints: folder that recovery goes on from after a kill, or None.
        device: measures, or None.
        reference_ms: the dense network's latency, where a table fixes it.
        limits: absolute budget.
        progress: is told.
        phases: counts seconds.
    """

    def __init__(
        self,
        evaluator: CandidateEvaluator,
        evaluate: Evaluator,
        *,
        objective: str,
        calibration: Sequence[Any] | None,
        train: Iterable[Any] | None,
        recover: RecoverSettings | None,
        loss: Loss | None,
        seed: int,
        checkpoints: Path | None,
        device: DeviceMeasure | None,
        reference_ms: float | None,
        limits: Budget,
        progress: Progress,
        phases: Phases,
    ) -> None:
        self._evaluator = evaluator
        self._evaluate = evaluate
        self._objective = objective
        self._calibration = calibration
        self._train = train
        self._recover = recover
        self._loss = loss
        self._seed = seed
        self._checkpoints = checkpoints
        self._device = device
        self._reference_ms = reference_ms
        self._limits = limits
        self._progress = progress
        self._phases = phases

    def build(self, trial: Trial) -> Shipped:
        """The winner's network as it was evaluated, compared with the masked dense one; refitted.

        Raises:
            SurgeryError: the pruned network and the masked dense one don't give the same output.
        """
        from autoprune.pruning.surgery import prune

        network = self._evaluator.network
        self._progress.stage(f"checking trial {trial.number}")
        selection = self._evaluator.select(trial.candidate)
        with evaluating():
            with self._phases("check"):
                prune(network, selection, check=True)
            model, metrics = self._refitted(trial, selection)
        return Shipped(trial, model, metrics, metrics)

    def _refitted(self, trial: Trial, selection: Selection) -> tuple[nn.Module, dict[str, float]]:
        """The network as it was evaluated, or refitted on all calibration batches if better.

        Refitting every layer whose input changed, on more samples, is too slow for each
        candidate of a search, and worth it for the few that win.
        """
        from autoprune.pruning.surgery import apply

        model, metrics = self._evaluator.build(selection).eval(), dict(trial.metrics)
        if not self._calibration:
            return model, metrics
        self._progress.stage(f"refitting trial {trial.number} on all calibration batches")
        with self._phases("refit"):
            refitted = apply(self._evaluator.network, selection)
            self._reconstructor.apply(refitted, selection)
            try:
                again = evaluate_model(refitted, self._evaluate, self._objective)
            except EvaluationError as error:
                self._progress.message(f"the refitted network is left out: {error}")
                return model, metrics
        if again[self._objective] > metrics[self._objective]:
            return refitted.eval(), again
        return model, metrics

    @cached_property
    def _reconstructor(self) -> Reconstructor:
        from autoprune.pruning.reconstruct import Reconstructor

        return Reconstructor(self._evaluator.network, self._calibration or (), scope="all")

    def measure(self, shipped: Shipped) -> Shipped:
        """Export a network and measure it beside the dense one, where there is a device.

        Raises:
            ExportError: it can't be exported.
        """
        if self._device is None:
            return shipped
        self._progress.stage("measuring the exported network")
        with self._phases("export"):
            dense_onnx = self._device.dense
            onnx = self._device.export(shipped.model)
        with self._phases("measure"):
            own, dense = measure_network_until_decided(
                partial(self._device.model, shipped.model, onnx, dense_onnx),
                self._limits,
                self._reference_ms,
            )
        return replace(
            shipped,
            onnx=onnx,
            dense_onnx=dense_onnx,
            verification=own,
            dense_verification=dense,
        )

    def recover(self, shipped: Shipped) -> Shipped:
        """Fine-tune a winner with distillation from the dense network, and measure it again.

        Where no epoch made it better it is what it was, and what was measured of that holds.
        Between two steps it waits while something is measured on this machine.
        """
        if self._recover is None or self._train is None:
            return replace(shipped, recovered=True)
        from autoprune.pruning.recover import Epoch, Rewind, recover

        settings, metric = self._recover, metric_of(self._objective)
        self._progress.stage("recovering the winner", settings.epochs)

        def tell(epoch: Epoch) -> None:
            self._progress.step(
                epoch.epoch,
                settings.epochs,
                f"{metric} {epoch.metrics[metric]:.4f}",
            )

        options = settings.model_dump(exclude={"rewind"})
        if settings.rewind is not None:
            options["rewind"] = Rewind(**settings.rewind.model_dump())
        if self._checkpoints is not None:
            # One for each trial: after a kill the winners are measured anew, and another may win.
            options["checkpoint"] = self._checkpoints / f"trial-{shipped.trial.number}"
        with self._phases("recover"):
            recovery = recover(
                shipped.model,
                self._evaluator.network.model,
                QuietBatches(self._train),
                lambda model: evaluate_model(model, self._evaluate, self._objective),
                **options,
                loss=self._loss,
                objective=self._objective,
                seed=self._seed,
                on_progress=tell,
            )
        self._progress.message(f"recovered: {recovery.reason}, epoch {recovery.best.epoch} is best")
        after = replace(shipped, metrics=dict(recovery.best.metrics), recovered=True)
        return after if recovery.best.epoch == 0 else self.measure(after)
