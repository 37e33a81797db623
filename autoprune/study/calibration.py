"""How the calibration batches are used: some of them in the search, all of them at the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import EvaluationError
from autoprune.core.failures import describe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autoprune.pruning.importance import Importance
    from autoprune.study.task import Task

#: Samples that each evaluation of a search refits layers on; the winners get all there are.
SEARCH_SAMPLES = 400

#: Training batches that Taylor importance takes its gradients on.
TAYLOR_BATCHES = 8


def for_search(batches: Sequence[Any] | None) -> tuple[Any, ...]:
    """The first batches, as many as hold `SEARCH_SAMPLES` samples; at least one if there is one."""
    chosen: list[Any] = []
    samples = 0
    for batch in batches or ():
        if samples >= SEARCH_SAMPLES:
            break
        chosen.append(batch)
        samples += _samples(batch)
    return tuple(chosen)


def _samples(batch: Any) -> int:
    """Samples in a batch: the size of the first dimension of its first tensor."""
    from autoprune.pruning._batches import as_call

    positional, named = as_call(batch)
    for value in (*positional, *named.values()):
        if getattr(value, "ndim", 0):
            return len(value)
    return 1


def importance_name(task: Task) -> str:
    """The importance that the config asks for, "auto" resolved."""
    name = task.config.importance
    return ("reconstruction" if task.calibration else "l1") if name == "auto" else name


def importance_of(task: Task) -> str | Importance:
    """The importance, with the batches that it needs."""
    if task.importance is not None:
        return task.importance
    name = importance_name(task)
    if name == "reconstruction" and task.calibration:
        from autoprune.pruning.obs import ReconstructionImportance

        return ReconstructionImportance(for_search(task.calibration))
    if name == "taylor" and task.train is not None:
        import torch.nn.functional as F

        from autoprune.pruning._batches import as_call
        from autoprune.pruning.importance import Taylor

        loss = task.loss or F.cross_entropy

        def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
            try:
                inputs, labels = batch
                args, kwargs = as_call(inputs)
                return loss(model(*args, **kwargs), labels)
            except Exception as error:  # the user's network, batch and loss meet here
                raise EvaluationError(
                    "importance taylor must be able to compute the loss of a training batch, but "
                    f"got {describe(error)}; look at the (inputs, labels) batches and at the loss"
                ) from error

        return Taylor(list(itertools.islice(task.train, TAYLOR_BATCHES)), loss_of)
    return name
