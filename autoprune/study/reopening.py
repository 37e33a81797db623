"""A run's task again: from its folder, and what it was given as objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.core.device import Profiler
from autoprune.core.errors import ConfigError, RunError
from autoprune.cost.base import CostModel
from autoprune.evaluate.base import Evaluator
from autoprune.searchers.base import Searcher
from autoprune.space.space import SearchSpace
from autoprune.study.config import validate
from autoprune.study.config_files import read_yaml
from autoprune.study.folder import RunFolder, check_schema
from autoprune.study.task import Task, as_batches, as_inputs, task_from_config

if TYPE_CHECKING:
    from autoprune.pruning.importance import Importance
    from autoprune.pruning.recover import Loss


def reopen(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    example_inputs: Any = None,
    evaluate: Evaluator | None = None,
    calibration: Iterable[Any] | None = None,
    train: Iterable[Any] | None = None,
    loss: Loss | None = None,
    device: Profiler | None = None,
    searcher: type[Searcher] | None = None,
    importance: Importance | None = None,
    space: SearchSpace | None = None,
    table: CostModel | None = None,
) -> tuple[RunFolder, Task]:
    """The folder of a run and its task; the objects are those of `autoprune.resume`.

    Raises:
        RunError: no run is there, it can't be read, or it is of another network.
        RunVersionError: a newer autoprune wrote it.
        ConfigError: an object that the run began with is missing.
    """
    folder = RunFolder.open(run)
    data = read_yaml(folder.config)
    noted = data.get("run")
    if not isinstance(noted, Mapping):
        raise RunError(f"{folder.config} was not written by autoprune: it has no section 'run'")
    check_schema(noted.get("schema_version"), folder.config)
    config = validate(data, str(folder.config))
    base = Path(noted["base"])
    if config.model is not None:
        task = task_from_config(config, base)
    else:
        if model is None or example_inputs is None or evaluate is None:
            raise ConfigError(
                f"the run {folder.path} was begun from Python: go on with it there, by "
                "autoprune.resume(run, model=..., example_inputs=..., evaluate=...), or "
                "autoprune.pick, with the objects that autoprune.search was given"
            )
        task = Task(config, model, as_inputs(example_inputs), evaluate, base=base)
        task.calibration = None if calibration is None else as_batches(calibration)
        task.train, task.loss = train, loss
    task.profiler, task.searcher, task.importance = device, searcher, importance
    task.space, task.table = space, table
    _same_network(task, folder)
    return folder, task


def fingerprint(model: nn.Module) -> str:
    """A short name of a network's structure and weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        if tensor.numel():
            total = tensor.detach().double()
            digest.update(f"{float(total.sum()):.9e} {float(total.abs().max()):.9e}".encode())
    return digest.hexdigest()[:16]


def _same_network(task: Task, folder: RunFolder) -> None:
    run = task.config.run
    found = fingerprint(task.model)
    if run is not None and run.network != found:
        raise RunError(
            f"the run {folder.path} was begun with another network (fingerprint {run.network}, "
            f"now {found}); build the same one with the same weights, or start a new run"
        )
