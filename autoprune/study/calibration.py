"""How the calibration batches are used: some of them in the search, all of them at the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

        from autoprune.pruning.importance import Taylor

        loss = task.loss or F.cross_entropy
        return Taylor(
            list(itertools.islice(task.train, TAYLOR_BATCHES)),
            lambda model, batch: loss(model(batch[0]), batch[1]),
        )
    return name
