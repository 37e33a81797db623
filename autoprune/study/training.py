"""The training batches, looked at before anything is spent on a search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from autoprune.core.errors import AutopruneError, ConfigError
from autoprune.core.failures import describe

if TYPE_CHECKING:
    from autoprune.study.task import Task


def check_training(task: Task) -> None:
    """Refuse training batches that the fine-tuning at the end could not use.

    The loss of the first batch is computed once, by the dense network in eval mode.

    Raises:
        ConfigError: they can be iterated only once, there is none, the first is no pair, its loss
            can't be computed, or every parameter of the network is frozen.
    """
    if task.config.recover is None or task.train is None:
        return
    if isinstance(task.train, Iterator):
        raise ConfigError(
            "train must be batches that can be iterated once an epoch (a list or a loader), got "
            f"{type(task.train).__name__}, which is used up after one; give list(...) of it"
        )
    if not any(parameter.requires_grad for parameter in task.model.parameters()):
        raise ConfigError(
            "recovery needs parameters that require gradients, got none; unfreeze the network by "
            "model.requires_grad_(), or leave `recover` out"
        )
    try:
        # A loader that shuffles then draws as if it had not been looked at.
        with torch.random.fork_rng():
            batch = next(iter(task.train), None)
    except Exception as error:  # the user's loader
        raise ConfigError(
            f"the training batches must be iterated, but got {describe(error)}"
        ) from error
    if batch is None:
        raise ConfigError("recovery needs at least one training batch, got none")
    _loss(task, batch)


def _loss(task: Task, batch: Any) -> None:
    from autoprune.pruning._batches import as_call, as_pair
    from autoprune.pruning._compare import evaluating
    from autoprune.pruning._student import moved
    from autoprune.pruning._teaching import logits_of

    inputs, targets = as_pair(batch)
    device = next((p.device for p in task.model.parameters()), torch.device("cpu"))
    args, kwargs = as_call(moved(inputs, device))
    try:
        with torch.no_grad(), torch.random.fork_rng(), evaluating(task.model):
            output = task.model(*args, **kwargs)
            if task.loss is None:
                torch.nn.functional.cross_entropy(logits_of(output), moved(targets, device))
            else:
                task.loss(output, moved(targets, device))
    except AutopruneError:
        raise
    except Exception as error:  # the user's network, batch and loss meet here
        own = "" if task.loss is not None else " (cross-entropy, unless `loss` is given)"
        raise ConfigError(
            f"recovery must be able to compute the loss{own} of a training batch, but got "
            f"{describe(error)}; look at the (inputs, labels) batches and at the loss"
        ) from error
