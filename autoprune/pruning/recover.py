"""Fine-tuning of a pruned network, taught by the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.pruning._checkpoint import Checkpoint, Epoch, State
from autoprune.pruning._schedule import Rewind, schedule
from autoprune.pruning._student import Loss, Precision, Student
from autoprune.pruning._teaching import distillation

__all__ = ["Epoch", "Loss", "Recovery", "Rewind", "distillation", "recover"]


@dataclass(frozen=True)
class Recovery:
    """What recovery did.

    Attributes:
        history: every epoch, the network as given first.
        best: the epoch whose weights the network has now.
        reason: why it ended, in words.
    """

    history: tuple[Epoch, ...]
    best: Epoch
    reason: str


def recover(
    model: nn.Module,
    teacher: nn.Module | None,
    batches: Iterable[Any],
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    *,
    epochs: int = 10,
    lr: float = 0.01,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    weight_decay: float = 5e-4,
    warmup: float = 0.1,
    rewind: Rewind | None = None,
    loss: Loss | None = None,
    distill: float = 0.7,
    temperature: float = 4.0,
    features: float = 0.0,
    patience: int | None = None,
    objective: str = "accuracy",
    clip_norm: float | None = 5.0,
    precision: Precision = "auto",
    seed: int = 0,
    checkpoint: Path | str | None = None,
    on_progress: Callable[[Epoch], None] | None = None,
) -> Recovery:
    """Fine-tune a pruned network in place, with knowledge distillation from the dense one.

    The loss is `(1 - distill) · task + distill · T² · KL(teacher ‖ network) + features · D`. The
    KL divergence is of the outputs softened by the temperature T (Hinton et al. 2015, "Distilling
    the knowledge in a neural network"); with a loss of your own and targets that are not integers,
    as in regression or detection, the squared distance of all outputs, relative to the teacher's
    spread, stands in its place. D is the squared distance of the two networks' features,
    relative to the teacher's (Romero et al. 2015, "FitNets", without its regressors), the mean
    over the outermost submodules whose outputs have one shape in both: a ResNet's stages, where
    the residual stream keeps its width. Where there are none, D is left out.

    The learning rate warms up linearly and falls as a cosine, or is the original training's
    (`rewind`). With `evaluate`, the best weights seen are kept, those it was given with included:
    it never ends worse than it began. The mode of the network and of the teacher is restored.
    Networks stay on the device they are on, and batches are moved there.

    With `checkpoint`, where it stands is written after every epoch, and a call with the same
    folder, network and settings goes on from there. So that the epochs to come get the batches
    they would have got, `batches.set_epoch(number)` (or that of its `sampler`) is called before
    each, where there is one; a `torch.utils.data.DataLoader` that draws its order from torch's
    global generator needs none.

    Args:
        model: the pruned network, changed in place.
        teacher: the dense network; None trains on the task alone.
        batches: training batches, iterated once an epoch; a pair of inputs and targets each.
            Inputs are a tensor, a tuple of positional ones or a mapping of keyword ones.
        evaluate: gives metrics; called before and after every epoch.
        epochs: at most so many.
        lr: peak learning rate of the cosine.
        optimizer: "sgd" (Nesterov, momentum 0.9) or "adamw".
        weight_decay: not applied to biases and norms.
        warmup: share of the steps in which the cosine's learning rate rises.
        rewind: take the learning rates of the last `epochs` of this schedule instead.
        loss: of the task, from the network's output and the targets; cross-entropy unless given.
        distill: the distillation's share of the loss, from 0 to 1.
        temperature: softens both outputs.
        features: weight of the features' distance; 0 leaves it out.
        patience: stop after so many epochs without a better one; None goes on to the end.
        objective: the metric that is maximised.
        clip_norm: gradients are scaled to at most this norm; None leaves them.
        precision: of the forward passes, by autocast: "fp32", "bf16" or "fp16" (with a scaled
            loss; GPUs only); "auto" is bf16 on a GPU that has it, fp16 on another, fp32 on a CPU.
        seed: of everything random in the network (dropout); the batches' order is their own.
        checkpoint: folder to write to and go on from.
        on_progress: called with each epoch, the one before training too; those that a
            checkpoint holds are told again.

    Returns:
        The history and the epoch that was kept.

    Raises:
        ConfigError: a setting is out of range, or the batches are not as described.
        EvaluationError: `evaluate` gives no finite objective, the batches or the loss raise, or
            the loss is not a finite number and no epoch had been finished. (Later, a loss that
            is not finite ends the recovery, and the best weights are kept.)
        RunError: the checkpoint is of another recovery, is damaged or can't be written.
    """
    settings = {
        "epochs": epochs, "lr": lr, "optimizer": optimizer, "weight_decay": weight_decay,
        "warmup": warmup, "rewind": None if rewind is None else asdict(rewind),
        "distill": distill, "temperature": temperature, "features": features,
        "patience": patience, "objective": objective, "clip_norm": clip_norm,
        "precision": precision, "seed": seed,
    }  # fmt: skip
    _check(settings)
    tuner = _optimizer(model, optimizer, lr, weight_decay)
    student = Student(
        model,
        teacher,
        loss or F.cross_entropy,
        distill=0.0 if teacher is None else distill,
        temperature=temperature,
        features=features,
        clip_norm=clip_norm,
        precision=precision,
    )
    kept = None if checkpoint is None else Checkpoint(checkpoint, settings, model)
    modes = _modes(model, teacher)
    state = State([], Epoch(0, math.nan), _weights(model))

    def store() -> None:
        if kept is not None:
            kept.save(state, model, tuner, student.scaler)

    try:
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            per_epoch = _length(batches)
            rate = schedule(lr, warmup, rewind, epochs, per_epoch)
            known = None if kept is None else kept.load(model, tuner, student.scaler)
            if known is None:
                state.best = Epoch(0, math.nan, _metrics(evaluate, model, objective))
                state.history.append(state.best)
            else:
                state = known
            for epoch in state.history:
                _report(on_progress, epoch)
            while state.reason is None and len(state.history) <= epochs:
                number = len(state.history)
                _set_epoch(batches, number)
                value, count = student.epoch(batches, tuner, rate, state.steps)
                state.steps += count
                if not math.isfinite(value):
                    if number == 1:
                        raise EvaluationError(
                            f"the training loss must be finite, got {value} in the first epoch; "
                            f"lower the learning rate (lr={lr}) or look at the batches"
                        )
                    state.reason = f"the loss was {value} in epoch {number}"
                    break
                done = Epoch(number, value, _metrics(evaluate, model, objective))
                state.history.append(done)
                if evaluate is None or done.metrics[objective] > state.best.metrics[objective]:
                    state.best, state.weights = done, _weights(model)
                elif patience is not None and number - state.best.epoch >= patience:
                    state.reason = f"no better epoch in {patience}"
                store()
                _report(on_progress, done)
            if state.reason is None:
                state.reason = f"all {epochs} epochs done"
    finally:
        model.load_state_dict(state.weights)
        for module, mode in modes.items():
            module.training = mode
        for parameter in model.parameters():
            parameter.grad = None
    return Recovery(tuple(state.history), state.best, state.reason)


def _check(given: Mapping[str, Any]) -> None:
    """Refuse settings that are out of range."""
    patience, clip_norm = given["patience"], given["clip_norm"]
    precisions = ("auto", "fp32", "bf16", "fp16")
    rules = [
        (given["epochs"] >= 1, "epochs", "at least 1"),
        (given["lr"] > 0, "lr", "greater than 0"),
        (given["optimizer"] in ("sgd", "adamw"), "optimizer", "'sgd' or 'adamw'"),
        (given["weight_decay"] >= 0, "weight_decay", "at least 0"),
        (0 <= given["warmup"] < 1, "warmup", "at least 0 and less than 1"),
        (0 <= given["distill"] <= 1, "distill", "from 0 to 1"),
        (given["temperature"] > 0, "temperature", "greater than 0"),
        (given["features"] >= 0, "features", "at least 0"),
        (patience is None or patience >= 1, "patience", "at least 1 or None"),
        (clip_norm is None or clip_norm > 0, "clip_norm", "greater than 0 or None"),
        (given["precision"] in precisions, "precision", f"one of {', '.join(precisions)}"),
    ]
    for fine, name, rule in rules:
        if not fine:
            raise ConfigError(f"{name} must be {rule}, got {given[name]!r}")


def _set_epoch(batches: Iterable[Any], number: int) -> None:
    """Tell batches that ask for it which epoch begins, as torch's distributed sampler does."""
    for owner in (batches, getattr(batches, "sampler", None)):
        tell = getattr(owner, "set_epoch", None)
        if callable(tell):
            tell(number)
            return


def _metrics(
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None, model: nn.Module, objective: str
) -> Mapping[str, float]:
    if evaluate is None:
        return {}
    model.eval()
    found = dict(evaluate(model))
    value = found.get(objective)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise EvaluationError(f"evaluate must give a finite number as {objective!r}, got {found!r}")
    return found


def _modes(*models: nn.Module | None) -> dict[nn.Module, bool]:
    return {m: m.training for model in models if model is not None for m in model.modules()}


def _weights(model: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())


def _report(on_progress: Callable[[Epoch], None] | None, epoch: Epoch) -> None:
    if on_progress is not None:
        on_progress(epoch)


def _length(batches: Iterable[Any]) -> int:
    """Batches in an epoch; where it has no length, they are counted."""
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        count = sum(1 for _ in batches)
    if count < 1:
        raise ConfigError("recovery needs at least one training batch, got none")
    return count


def _optimizer(
    model: nn.Module, kind: str, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Weight decay on weight matrices and kernels only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("recovery needs parameters that require gradients, got none")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
