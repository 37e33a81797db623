"""Fine-tuning of a pruned network, taught by the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.errors import AutopruneError, ConfigError, EvaluationError
from autoprune.core.failures import describe
from autoprune.pruning._batches import as_call

#: (the network's output, the batch's targets) → scalar loss.
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Epoch:
    """One epoch of recovery.

    Attributes:
        epoch: from 1; 0 is the network as it was given.
        loss: mean training loss, NaN for epoch 0.
        metrics: what `evaluate` gave; empty without one.
    """

    epoch: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


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
    loss: Loss | None = None,
    distill: float = 0.7,
    temperature: float = 4.0,
    patience: int | None = None,
    objective: str = "accuracy",
    clip_norm: float | None = 5.0,
    seed: int = 0,
    on_progress: Callable[[Epoch], None] | None = None,
) -> Recovery:
    """Fine-tune a pruned network in place, with knowledge distillation from the dense one.

    The loss is `(1 - distill) · task + distill · T² · KL(teacher ‖ network)` of the outputs
    softened by the temperature T (Hinton et al. 2015, "Distilling the knowledge in a neural
    network"). The learning rate warms up linearly and falls as a cosine. With `evaluate`, the
    best weights seen are kept, those it was given with included: it never ends worse than it
    began. The mode of the network and of the teacher is restored.

    Args:
        model: the pruned network, changed in place.
        teacher: the dense network; None trains on the task alone.
        batches: training batches, iterated once an epoch; a pair of inputs and targets each.
            Inputs are a tensor, a tuple of positional ones or a mapping of keyword ones.
        evaluate: gives metrics; called before and after every epoch.
        epochs: at most so many.
        lr: peak learning rate.
        optimizer: "sgd" (Nesterov, momentum 0.9) or "adamw".
        weight_decay: not applied to biases and norms.
        warmup: share of the steps in which the learning rate rises.
        loss: of the task, from the network's output and the targets; cross-entropy unless given.
        distill: the distillation's share of the loss, from 0 to 1.
        temperature: softens both outputs.
        patience: stop after so many epochs without a better one; None goes on to the end.
        objective: the metric that is maximised.
        clip_norm: gradients are scaled to at most this norm; None leaves them.
        seed: of everything random in the network (dropout); the batches' order is their own.
        on_progress: called with each epoch, the one before training too.

    Returns:
        The history and the epoch that was kept.

    Raises:
        ConfigError: a setting is out of range, or the batches are not as described.
        EvaluationError: `evaluate` gives no finite objective, the batches or the loss raise, or
            the loss is not a finite number and no epoch had been finished. (Later, a loss that
            is not finite ends the recovery, and the best weights are kept.)
    """
    _check(epochs, lr, optimizer, warmup, distill, temperature, patience, clip_norm)
    if teacher is None:
        distill = 0.0
    modes = _modes(model, teacher)
    weights = _weights(model)
    reason = f"all {epochs} epochs done"
    student = _Student(model, teacher, loss or F.cross_entropy, distill, temperature, clip_norm)
    try:
        best = Epoch(0, math.nan, _metrics(evaluate, model, objective))
        history = [best]
        _report(on_progress, best)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            steps = epochs * _length(batches)
            tuner = _optimizer(model, optimizer, lr, weight_decay)
            schedule = torch.optim.lr_scheduler.LambdaLR(tuner, _cosine(steps, warmup))
            for number in range(1, epochs + 1):
                value = student.epoch(batches, tuner, schedule)
                if not math.isfinite(value):
                    if number == 1:
                        raise EvaluationError(
                            f"the training loss must be finite, got {value} in the first epoch; "
                            f"lower the learning rate (lr={lr}) or look at the batches"
                        )
                    reason = f"the loss was {value} in epoch {number}"
                    break
                done = Epoch(number, value, _metrics(evaluate, model, objective))
                history.append(done)
                _report(on_progress, done)
                if evaluate is None or done.metrics[objective] > best.metrics[objective]:
                    best, weights = done, _weights(model)
                elif patience is not None and number - best.epoch >= patience:
                    reason = f"no better epoch in {patience}"
                    break
    finally:
        model.load_state_dict(weights)
        for module, mode in modes.items():
            module.training = mode
        for parameter in model.parameters():
            parameter.grad = None
    return Recovery(tuple(history), best, reason)


class _Student:
    """One training step after another."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        loss: Loss,
        distill: float,
        temperature: float,
        clip_norm: float | None,
    ) -> None:
        self.model, self.teacher, self.loss = model, teacher, loss
        self.distill, self.temperature, self.clip_norm = distill, temperature, clip_norm

    def epoch(self, batches: Iterable[Any], tuner: Any, schedule: Any) -> float:
        """Train on all batches; gives the mean loss, or the first that is not finite."""
        self.model.train()
        if self.teacher is not None:
            self.teacher.eval()
        total, count = 0.0, 0
        for batch in _given(batches):
            value = self._loss_of(batch)
            number = float(value.detach())
            if not math.isfinite(number):
                return number
            tuner.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            tuner.step()
            schedule.step()
            total += number
            count += 1
        if not count:
            raise ConfigError(
                "recovery needs training batches that can be iterated once an epoch, got none; "
                "give a list or a loader, not an iterator that is used up"
            )
        return total / count

    def _loss_of(self, batch: Any) -> Tensor:
        try:
            return self._loss(batch)
        except AutopruneError:
            raise
        except Exception as error:  # the user's network, batch and loss meet here
            raise EvaluationError(
                f"the training loss must be computed from a batch, but got {describe(error)}; "
                "look at the (inputs, labels) batches and at the loss"
            ) from error

    def _loss(self, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ConfigError(
                "a training batch must be a pair of inputs and targets, got "
                f"{type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
            )
        args, kwargs = as_call(batch[0])
        output = self.model(*args, **kwargs)
        total = torch.zeros(())
        if self.distill < 1:
            total = total + (1 - self.distill) * self._task(output, batch[1])
        if self.distill > 0 and self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(*args, **kwargs)
            total = total + self.distill * distillation(output, taught, self.temperature)
        return total

    def _task(self, output: Any, targets: Any) -> Tensor:
        value = self.loss(_first(output) if self.loss is F.cross_entropy else output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(f"the loss must be a scalar tensor, got {value!r}")
        return value


def distillation(output: Any, taught: Any, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ network), the mean over samples, of outputs softened by T.

    Args:
        output: the network's logits (..., classes); of a tuple, a mapping or an object with
            `logits`, those or the first are taken.
        taught: the teacher's, likewise.
        temperature: T.
    """
    student, master = _first(output), _first(taught)
    if student.shape != master.shape:
        raise ConfigError(
            f"network and teacher must give outputs of one shape, got {tuple(student.shape)} and "
            f"{tuple(master.shape)}"
        )
    classes = student.shape[-1]
    return F.kl_div(
        (student / temperature).log_softmax(-1).reshape(-1, classes),
        (master / temperature).log_softmax(-1).reshape(-1, classes),
        log_target=True,
        reduction="batchmean",
    ) * (temperature**2)


def _first(output: Any) -> Tensor:
    """The logits of an output."""
    found = getattr(output, "logits", output)
    if isinstance(found, Mapping):
        found = found.get("logits", next(iter(found.values()), None))
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"recovery needs an output that holds logits, got {type(output).__name__}; "
            "wrap the network so that it gives a tensor"
        )
    return found


def _check(
    epochs: int,
    lr: float,
    optimizer: str,
    warmup: float,
    distill: float,
    temperature: float,
    patience: int | None,
    clip_norm: float | None,
) -> None:
    rules = [
        (epochs >= 1, "epochs must be at least 1", epochs),
        (lr > 0, "lr must be greater than 0", lr),
        (optimizer in ("sgd", "adamw"), "optimizer must be 'sgd' or 'adamw'", optimizer),
        (0 <= warmup < 1, "warmup must be at least 0 and less than 1", warmup),
        (0 <= distill <= 1, "distill must be from 0 to 1", distill),
        (temperature > 0, "temperature must be greater than 0", temperature),
        (patience is None or patience >= 1, "patience must be at least 1 or None", patience),
        (clip_norm is None or clip_norm > 0, "clip_norm must be greater than 0 or None", clip_norm),
    ]
    for fine, rule, got in rules:
        if not fine:
            raise ConfigError(f"{rule}, got {got!r}")


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


def _given(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of an epoch."""
    try:
        yield from batches
    except Exception as error:  # the user's loader
        raise EvaluationError(
            f"the training batches must be iterated, but got {describe(error)}"
        ) from error


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


def _cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate at each step."""
    rising = int(steps * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(steps - rising, 1))))

    return factor


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
