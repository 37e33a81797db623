"""`autoprune.search` and `autoprune.resume`."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.device import Profiler
from autoprune.core.errors import AutopruneError, ConfigError, RunError
from autoprune.cost.base import CostModel
from autoprune.evaluate.base import Evaluator
from autoprune.searchers.base import Searcher
from autoprune.space.space import SearchSpace
from autoprune.study.conduct import conduct
from autoprune.study.config import budget_settings, validate
from autoprune.study.config_files import read_config, write_yaml
from autoprune.study.folder import SCHEMA, RunFolder
from autoprune.study.progress import Progress
from autoprune.study.reopening import fingerprint, reopen
from autoprune.study.result import Result
from autoprune.study.settings import (
    FrontSettings,
    RacingSettings,
    RecoverSettings,
    Run,
    Settings,
    TableSettings,
    VerifySettings,
    WorkerSettings,
)
from autoprune.study.task import Task, as_batches, as_inputs, task_from_config

if TYPE_CHECKING:
    from autoprune.pruning.importance import Importance
    from autoprune.pruning.recover import Loss


def search(
    model: nn.Module,
    example_inputs: Any,
    *,
    budget: str | Mapping[str, float | str | Sequence[float | str]] | Budget | None = None,
    evaluate: Evaluator,
    calibration: Iterable[Any] | None = None,
    train: Iterable[Any] | None = None,
    device: str | Profiler | None = "onnxruntime-cpu",
    device_options: Mapping[str, Any] | None = None,
    searcher: str | type[Searcher] | Searcher = "auto",
    searcher_options: Mapping[str, Any] | None = None,
    local_search: float = 0.0,
    confidence: float = 0.8,
    trials: int = 200,
    seed: int = 0,
    out: str | Path | None = None,
    space: str | Path | SearchSpace | None = None,
    table: str | Path | CostModel | None = None,
    importance: str | Importance = "auto",
    reconstruct: bool = True,
    recover: RecoverSettings | Mapping[str, Any] | bool | None = None,
    loss: Loss | None = None,
    objective: str | None = None,
    objectives: Sequence[str] | None = None,
    front: FrontSettings | Mapping[str, Any] | None = None,
    verify: VerifySettings | Mapping[str, Any] | None = None,
    profile: TableSettings | Mapping[str, Any] | None = None,
    max_failures: int = 5,
    storage: str | None = None,
    study: str | None = None,
    workers: int | WorkerSettings | Mapping[str, Any] | None = None,
    racing: RacingSettings | Mapping[str, Any] | bool | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find a smaller network that holds a budget, with the least accuracy lost.

    Every candidate that is evaluated holds the budget by the cost model's upper bound. The
    best ones are measured on the device; where they break the budget, the cost model is corrected
    and the search goes on. What is returned was exported and measured as it is.

    Args:
        model: trained; any module that `torch.export` takes. It is not changed.
        example_inputs: a tensor, a tuple of the positional inputs, or a mapping of keyword inputs;
            its batch is what latency and memory are for.
        budget: such as `"latency=0.6x"`, `{"macs": "60M", "params": 0.5e6}` or a `Budget`; with
            several bounds, `{"latency": ["0.9x", "0.5x"]}` or `"latency=[0.9x,0.5x]"`, several
            budgets share one search (`result.family`). It may be left out where `objectives` are
            given.
        evaluate: network → `{"accuracy": 0.93, ...}`, or a number.
        calibration: batches of inputs, for BatchNorm statistics and least squares; without it
            neither is done. The search uses the first 400 samples; the winners are refitted on
            all of them, so more are better.
        train: batches of (inputs, labels), for recovery.
        device: a name (`autoprune devices` lists them), or a `Profiler`; None measures nothing,
            for a budget that is counted.
        device_options: keyword arguments of a device that is given by name: `{"threads": 2}`.
        searcher: a name, a class or an instance.
        searcher_options: keyword arguments of a searcher that is given by name or class.
        local_search: share of the trials, at the end, that are spent around the best candidates
            so far instead of being the searcher's own (0.3, say); 0 is none.
        confidence: with which a candidate must hold the budget by prediction to be evaluated
            (one-sided); winners are measured in any case.
        trials: candidates to evaluate; of several budgets, for all of them together.
        seed: the same seed gives the same trials, where `evaluate` is deterministic.
        out: run folder; without it nothing is kept on disk and nothing can be resumed.
        space: a `SearchSpace`, or a definition's name or file; None offers every group.
        table: a latency table's file, or a cost model; None measures one where the budget needs
            it.
        importance: "auto" ("reconstruction" where calibration batches are there, else "l1"),
            "reconstruction", "l1", "l2", "bn_scale", "taylor" or an `Importance`.
        reconstruct: whether consuming layers are refitted by least squares (AMC).
        recover: settings of the winner's fine-tuning (True: the usual ones, see
            `RecoverSettings`), with distillation from the dense network; it needs `train`.
        loss: (output, labels) → scalar, for recovery and Taylor importance; None is
            cross-entropy.
        objective: the metric of `evaluate` that is maximised, or minimised where a minus stands
            before it: `"-loss"`; None is "accuracy", or the first of `objectives`.
        objectives: a Pareto front of these is searched for (`result.front`): a metric of
            `evaluate`, then costs that are minimised and further metrics, maximised unless a minus
            stands before them: `["accuracy", "latency_ms", "memory_bytes"]`.
        front: which points of it are shown (see `FrontSettings`).
        verify: how winners are measured (see `VerifySettings`).
        profile: how a table is measured (see `TableSettings`).
        max_failures: evaluations that may fail in a row before the search stops.
        storage: Optuna database URL for the trials; None keeps a journal in the run folder.
        study: name of a study in `storage` that several drivers search together, each with a
            folder of its own: the first that names it begins it, others join.
        racing: stop evaluations of candidates that are surely worse than the best (True: at 99 %
            confidence); needs an evaluator such as `autoprune.evaluate.Accuracy`.
        workers: evaluate on so many Ray workers, on this machine or a cluster (see
            `WorkerSettings`); None evaluates in this process.
        progress: listens.

    Returns:
        The result; `result.held` says whether the budget holds.

    Raises:
        TraceError: `torch.export` refuses the network.
        BudgetError: the budget can't be read, or can't be met (`InfeasibleBudgetError`, with the
            smallest that is possible).
        ConfigError: another setting is wrong.
        EvaluationError: the dense network can't be evaluated, or `max_failures` in a row failed.
        ProfilerError: the device can't measure.
        TableError: the table can't be read, or is of another device.
        RunError: the run folder can't be used.
    """
    named: dict[str, Any] = {
        **_aims(budget, objective, objectives),
        "device": _named(device, device_options, "device"),
        "searcher": _named(searcher, searcher_options, "searcher"),
        "local_search": local_search,
        "confidence": confidence,
        "trials": trials,
        "seed": seed,
        "out": None if out is None else str(out),
        "space": str(space) if isinstance(space, str | Path) else None,
        "table": str(table) if isinstance(table, str | Path) else None,
        "importance": importance if isinstance(importance, str) else type(importance).__name__,
        "reconstruct": reconstruct,
        "recover": _plain(recover),
        "front": _plain(front) or {},
        "verify": _plain(verify) or {},
        "profile": _plain(profile) or {},
        "max_failures": max_failures,
        "storage": storage,
        "study": study,
        "workers": workers.model_dump() if isinstance(workers, WorkerSettings) else workers,
        "racing": _plain(racing),
    }
    task = Task(
        config=validate(named, "autoprune.search"),
        model=model,
        example_inputs=as_inputs(example_inputs),
        evaluate=evaluate,
        calibration=None if calibration is None else as_batches(calibration),
        train=train,
        loss=loss,
        searcher=None if isinstance(searcher, str) else searcher,
        importance=None if isinstance(importance, str) else importance,
        profiler=None if device is None or isinstance(device, str) else device,
        table=table if isinstance(table, CostModel) else None,
        space=space if isinstance(space, SearchSpace) else None,
    )
    return begin(task, progress)


def search_config(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    *,
    on_folder: Callable[[Path], object] | None = None,
) -> Result:
    """Search as a YAML config says.

    Args:
        path: the config; relative paths in it start from its folder, without one from the
            working directory.
        settings: overrides, `a.b=value`.
        options: overrides of whole settings.
        progress: listens.
        on_folder: is told the run folder as soon as it can be resumed.

    Raises:
        AutopruneError: as `search`.
    """
    file = None if path is None else Path(path)
    config = read_config(file, list(settings), options)
    if config.run is not None:
        raise ConfigError(
            f"{path} is the config of a run; go on with it by `autoprune resume RUN`, RUN being "
            "its folder"
        )
    base = Path.cwd() if file is None else file.absolute().parent
    return begin(task_from_config(config, base), progress, on_folder)


def resume(
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
    progress: Progress | None = None,
) -> Result:
    """Go on with a run that was stopped, however it was; a finished one is only read.

    A run begun by the command line or from a config needs its folder alone. One begun by
    `autoprune.search` needs the same objects again: model, inputs, evaluate and what else was
    given as an object.

    Raises:
        RunError: no run is there, another process works in it, or it can't be read.
        RunVersionError: a newer autoprune wrote it.
        ConfigError: an object that the run began with is missing.
    """
    folder, task = reopen(
        run,
        model=model,
        example_inputs=example_inputs,
        evaluate=evaluate,
        calibration=calibration,
        train=train,
        loss=loss,
        device=device,
        searcher=searcher,
        importance=importance,
        space=space,
        table=table,
    )
    with folder:
        return conduct(task, folder, progress or Progress())


def begin(
    task: Task,
    progress: Progress | None = None,
    on_folder: Callable[[Path], object] | None = None,
) -> Result:
    """Begin a task in its run folder, or without one."""
    listener = progress or Progress()
    if task.config.out is None:
        return conduct(task, None, listener)
    folder = RunFolder.create(task.config.out)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder)
        if folder.config.exists():
            raise RunError(f"{folder.path} holds a run already; give another folder")
        run = Run(
            schema_version=SCHEMA,
            autoprune=version("autoprune"),
            study=f"{folder.path.name}-{uuid.uuid4().hex[:8]}",
            network=fingerprint(task.model),
            base=str(task.base),
        )
        task.config = task.config.model_copy(update={"run": run})
        folder.write(folder.config, write_yaml(task.config))
        if on_folder is not None:
            on_folder(folder.path)
        try:
            return conduct(task, folder, listener)
        except AutopruneError:
            folder.discard_unless_begun()
            raise


def _aims(
    budget: str | Mapping[str, Any] | Budget | None,
    objective: str | None,
    objectives: Sequence[str] | None,
) -> dict[str, Any]:
    """Budget and objectives as the config notes them; what was left out is left out."""
    found: dict[str, Any] = {}
    if budget is not None:
        found["budget"] = budget_settings(budget)
    if objective is not None:
        found["objective"] = objective
    if objectives is not None:
        found["objectives"] = list(objectives)
    return found


def _named(given: Any, options: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """A plug-in as the config notes it."""
    if given is None:
        return None
    if isinstance(given, str):
        return {"name": given, "options": dict(options or {})}
    if options and not isinstance(given, type):
        raise ConfigError(f"{what}_options must be left out where {what} is an object")
    kind = given if isinstance(given, type) else type(given)
    return {"name": f"{kind.__module__}:{kind.__qualname__}", "options": dict(options or {})}


def _plain(given: Settings | Mapping[str, Any] | bool | None) -> dict[str, Any] | None:
    """Settings as a mapping; True stands for the usual ones."""
    if given is None or isinstance(given, bool):
        return {} if given else None
    return dict(given) if isinstance(given, Mapping) else given.model_dump()
