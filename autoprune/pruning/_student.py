"""One training step of recovery after another: losses, precision, memory layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from autoprune.core.errors import AutopruneError, ConfigError, EvaluationError
from autoprune.core.failures import describe
from autoprune.pruning._batches import as_call, as_pair
from autoprune.pruning._features import Taps, distance, points
from autoprune.pruning._teaching import full, logits_of, teaching

#: (the network's output, the batch's targets) → scalar loss.
Loss = Callable[[Any, Any], Tensor]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: Steps between two looks at the loss on an accelerator, for each look waits for it.
_LOOK_EVERY = 20


class Student:
    """A network that is trained, and what it is taught by.

    Args:
        model: trained in place, on the device that its parameters are on; batches are moved
            there.
        teacher: gives targets in eval mode, or None.
        loss: of the task.
        distill: share of the outputs' distillation in the loss.
        temperature: softens both outputs.
        features: weight of the features' distance.
        clip_norm: of the gradients, or None.
        precision: of the forward pass; "auto" is bf16 (or fp16) on a GPU and fp32 elsewhere.

    Raises:
        ConfigError: a precision that the device does not do.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        loss: Loss,
        *,
        distill: float,
        temperature: float,
        features: float,
        clip_norm: float | None,
        precision: Precision,
    ) -> None:
        self.model, self.teacher, self.loss = model, teacher, loss
        self.distill, self.temperature, self.features = distill, temperature, features
        self.clip_norm = clip_norm
        self.device = next(model.parameters()).device
        self.dtype = _dtype(precision, self.device)
        #: Of the gradients of half precision; does nothing in any other.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.dtype == torch.float16 and self.device.type != "cpu"
        )
        #: Submodules whose outputs are matched; known once the first batch was seen.
        self.points: tuple[str, ...] | None = None
        self._layout: torch.memory_format | None = None
        self._own: Taps | None = None
        self._dense: Taps | None = None

    def epoch(
        self,
        batches: Iterable[Any],
        tuner: torch.optim.Optimizer,
        rate: Callable[[int], float],
        step: int,
    ) -> tuple[float, int]:
        """Train on all batches.

        Args:
            batches: pairs of inputs and targets.
            tuner: the optimizer.
            rate: learning rate at each step.
            step: number of the first.

        Returns:
            The mean loss, or one that is not finite and ended the epoch; the number of steps.
        """
        if self.teacher is not None:
            self.teacher.eval()
        try:
            return self._epoch(batches, tuner, rate, step)
        finally:
            self._untap()

    def _epoch(
        self,
        batches: Iterable[Any],
        tuner: torch.optim.Optimizer,
        rate: Callable[[int], float],
        step: int,
    ) -> tuple[float, int]:
        every = 1 if self.device.type == "cpu" else _LOOK_EVERY
        total = torch.zeros((), device=self.device)
        count = 0
        for batch in given(batches):
            value = self._loss_of(batch)
            total += value.detach()
            if count % every == 0 and not math.isfinite(number := float(total)):
                return number, count
            for group in tuner.param_groups:
                group["lr"] = rate(step + count)
            tuner.zero_grad()
            self.scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            if self.clip_norm is not None:
                self.scaler.unscale_(tuner)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.scaler.step(tuner)
            self.scaler.update()
            count += 1
        if not count:
            raise ConfigError(
                "recovery needs training batches that can be iterated once an epoch, got none; "
                "give a list or a loader, not an iterator that is used up"
            )
        return float(total) / count, count

    def _untap(self) -> None:
        """Leave both networks without hooks."""
        for taps in (self._own, self._dense):
            if taps is not None:
                taps.remove()
        self._own = self._dense = None

    def _loss_of(self, batch: Any) -> Tensor:
        inputs, targets = as_pair(batch)
        try:
            return self._loss(inputs, targets)
        except AutopruneError:
            raise
        except Exception as error:  # the user's network, batch and loss meet here
            raise EvaluationError(
                f"the training loss must be computed from a batch, but got {describe(error)}; "
                "look at the (inputs, labels) batches and at the loss"
            ) from error

    def _loss(self, inputs: Any, targets: Any) -> Tensor:
        if self.points is None:
            self.points = self._begin(inputs)
        if self.points and self._own is None and self.teacher is not None:
            self._own = Taps(self.model, self.points)
            self._dense = Taps(self.teacher, self.points)
        # Tried on ResNet-56 on a CPU: a step takes half as long in channels-last memory.
        args, kwargs = as_call(moved(inputs, self.device, self._layout))
        targets = moved(targets, self.device)
        self.model.train()
        with self._autocast():
            taught = None
            if self.teacher is not None and (self.distill > 0 or self._dense is not None):
                with torch.no_grad():
                    taught = self.teacher(*args, **kwargs)
            output = self.model(*args, **kwargs)
        total = torch.zeros((), device=self.device)
        if self.distill < 1:
            total = total + (1 - self.distill) * self._task(output, targets)
        if self.distill > 0 and taught is not None:
            own = self.loss is not F.cross_entropy
            total = total + self.distill * teaching(output, taught, targets, self.temperature, own)
        if self._own is not None and self._dense is not None:
            total = total + self.features * distance(self._own.take(), self._dense.take())
        return total

    def _autocast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _task(self, output: Any, targets: Any) -> Tensor:
        if self.dtype != torch.float32:
            output = _pytree.tree_map(full, output)
        value = self.loss(logits_of(output) if self.loss is F.cross_entropy else output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(f"the loss must be a scalar tensor, got {value!r}")
        return value

    def _begin(self, inputs: Any) -> tuple[str, ...]:
        """Look at the first batch: which memory layout goes, which features can be matched."""
        self.model.eval()
        few = _pytree.tree_map(lambda x: x[:2] if isinstance(x, Tensor) and x.ndim else x, inputs)
        self._layout = self._goes(few)
        if self.features == 0 or self.teacher is None:
            return ()
        args, kwargs = as_call(moved(few, self.device, self._layout))
        return points(self.model, self.teacher, args, kwargs)

    def _goes(self, inputs: Any) -> torch.memory_format | None:
        """Channels-last memory for images, unless a network's forward can't take it (`.view`)."""
        if not any(isinstance(m, nn.Conv2d) for m in self.model.modules()):
            return None
        args, kwargs = as_call(moved(inputs, self.device, torch.channels_last))
        try:
            with torch.no_grad():
                for network in (self.model, self.teacher):
                    if network is not None:
                        network(*args, **kwargs)
        except RuntimeError:
            return None
        return torch.channels_last


def given(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of an epoch.

    Raises:
        EvaluationError: the user's loader raised.
    """
    try:
        yield from batches
    except Exception as error:  # the user's loader
        raise EvaluationError(
            f"the training batches must be iterated, but got {describe(error)}"
        ) from error


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU, got a network on the CPU; give bf16 or fp32")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def moved(value: Any, device: torch.device, layout: torch.memory_format | None = None) -> Any:
    """A batch's tensors on a device, images in a memory layout; none is copied needlessly."""

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if layout is not None and x.ndim == 4 and x.is_floating_point():
            return x.to(device, memory_format=layout, non_blocking=True)
        return x.to(device, non_blocking=True)

    return _pytree.tree_map(move, value)
