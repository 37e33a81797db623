"""What the dense network's outputs teach: classes by their logits, anything else by its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree

from autoprune.core.errors import ConfigError


def teaching(output: Any, taught: Any, targets: Any, temperature: float, own_loss: bool) -> Tensor:
    """How far a network's output is from its teacher's.

    With cross-entropy, or targets that are integers, outputs are logits: `distillation`. Else, as
    in regression or detection, it is the squared distance of every output, relative to the
    teacher's spread, the mean over the outputs.

    Args:
        output: the network's.
        taught: the teacher's, of the same structure.
        targets: of the batch.
        temperature: softens logits.
        own_loss: whether the task's loss is the user's own and not cross-entropy.
    """
    labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not own_loss or labels:
        logits = logits_of(taught)
        dim = class_dim(logits) if own_loss else min(1, logits.ndim - 1)
        if logits.ndim > 1 and logits.shape[dim] > 1:
            return distillation(output, taught, temperature, dim)
    pairs = list(zip(_floating(output), _floating(taught), strict=False))
    if not pairs or len(_floating(output)) != len(_floating(taught)):
        raise ConfigError(
            f"network and teacher must give the same outputs, got {type(output).__name__} and "
            f"{type(taught).__name__}; give distill=0 to train on the task alone"
        )
    total = torch.zeros((), device=pairs[0][0].device)
    for own, wanted in pairs:
        _same_shape(own, wanted)
        spread = (wanted - wanted.mean()).square().mean().clamp_min(1e-12)
        total = total + (own - wanted).square().mean() / spread
    return total / len(pairs)


def distillation(output: Any, taught: Any, temperature: float, dim: int | None = None) -> Tensor:
    """T² · KL(teacher ‖ network), the mean over samples, of outputs softened by T.

    Args:
        output: the network's logits; of a tuple, a mapping or an object with `logits`, those or
            the first are taken.
        taught: the teacher's, likewise.
        temperature: T.
        dim: of the classes; None takes the last of (N, classes) and (N, positions, classes), and
            the second of more dimensions: (N, classes, height, width).
    """
    student, master = full(logits_of(output)), full(logits_of(taught))
    _same_shape(student, master)
    dim = class_dim(student) if dim is None else dim
    student, master = student.movedim(dim, -1), master.movedim(dim, -1)
    classes = student.shape[-1]
    return F.kl_div(
        (student / temperature).log_softmax(-1).reshape(-1, classes),
        (master / temperature).log_softmax(-1).reshape(-1, classes),
        log_target=True,
        reduction="batchmean",
    ) * (temperature**2)


def class_dim(logits: Tensor) -> int:
    """The last of (N, classes) and (N, positions, classes), 1 of (N, classes, height, ...)."""
    return 1 if logits.ndim > 3 else logits.ndim - 1


def _same_shape(own: Tensor, wanted: Tensor) -> None:
    if own.shape != wanted.shape:
        raise ConfigError(
            f"network and teacher must give outputs of one shape, got {tuple(own.shape)} and "
            f"{tuple(wanted.shape)}"
        )


def _floating(output: Any) -> list[Tensor]:
    """Every floating-point tensor of an output, in single precision at least."""
    leaves = _pytree.tree_leaves(dict(output) if isinstance(output, Mapping) else output)
    return [full(x) for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def logits_of(output: Any) -> Tensor:
    """The logits of an output.

    Raises:
        ConfigError: it holds no tensor.
    """
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


def full(value: Any) -> Any:
    """A half-precision tensor in single precision; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
