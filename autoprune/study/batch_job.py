"""What runs on a Ray worker for a batch: one latency table, or one search."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.core.errors import (
    AutopruneError,
    BudgetError,
    ConfigError,
    RunLockedError,
    TraceError,
)
from autoprune.core.files import write_atomically
from autoprune.core.trial import Trial
from autoprune.study.batch_folder import BatchFolder
from autoprune.study.progress import Progress

#: Seconds to wait for the run folder of a search whose process was just killed, or whose node has
#: yet to see that the cluster's head is gone: Ray gives it a minute.
LOCK_S = 120.0


class Told(Progress):
    """Notes in the batch folder how far a search is, not more often than once a second.

    Args:
        folder: of the batch.
        name: of the search.
        objective: the metric shown.
        attempts: that failed before.
    """

    def __init__(self, folder: BatchFolder, name: str, objective: str, attempts: int) -> None:
        self._folder, self._name, self._objective = folder, name, objective
        self._now: dict[str, Any] = {"attempts": attempts, "trials": 0, "best": None}
        self._last = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        """Note the stage at once."""
        self._now["stage"] = name
        self._tell()

    def trial(self, trial: Trial, best: Trial | None, done: int, total: int) -> None:
        """Note the trials."""
        score = None if best is None else best.score(self._objective)
        self._now.update(trials=done, total=total, best=score)
        if time.monotonic() - self._last >= 1.0 or done == total:
            self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        self._folder.tell(self._name, self._now)


@dataclass(frozen=True)
class Ended:
    """What came of a job; a failure is a value.

    Attributes:
        error: why it failed, or None.
        fatal: whether trying again can't help: the user's input is wrong.
    """

    error: str | None = None
    fatal: bool = False


def run_table(path: str, name: str, index: int) -> Ended:
    """Measure the latency table that the searches of a model on a device share.

    Args:
        path: of the batch folder.
        name: of the table.
        index: of a job that needs it.
    """
    return _guarded(lambda: _table(BatchFolder.open(path), name, index))


def run_search(path: str, index: int, attempts: int) -> Ended:
    """Begin a search, or go on with it.

    Args:
        path: of the batch folder.
        index: of the job.
        attempts: that failed before.
    """
    return _guarded(lambda: _search(BatchFolder.open(path), index, attempts))


def _guarded(work: Callable[[], None]) -> Ended:
    from autoprune.core.failures import describe

    try:
        work()
    except (ConfigError, BudgetError, TraceError) as error:
        return Ended(str(error), fatal=True)
    except AutopruneError as error:
        return Ended(f"{type(error).__name__}: {error}")
    except Exception as error:  # A fault of one search must not end the others.
        return Ended(describe(error))
    return Ended()


def _table(folder: BatchFolder, name: str, index: int) -> None:
    from autoprune.cost.format import sealed_text
    from autoprune.graph import trace
    from autoprune.pruning.selection import selector
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.shared_table import SharedTable
    from autoprune.study.table import make_profiler, measure_table
    from autoprune.study.task import build_model

    _one_thread()
    config = folder.jobs[index].config
    model, inputs = build_model(config, folder.base)
    network = trace(model, inputs)
    profiler = make_profiler(config)
    device = DeviceMeasure(network, profiler, selector(network), config.verify, config.seed)
    progress = Told(folder, f"table--{name}", config.objective, 0)
    path = folder.table(name)
    if folder.sweep.study is None or config.storage is None:
        measure_table(config, network, device, progress).save(path)
        return

    def measure() -> str:
        return sealed_text(measure_table(config, network, device, progress))

    study = f"{folder.sweep.study}/table/{name}"
    with SharedTable(config.storage, study, {}, folder.driver) as shared:
        write_atomically(path, shared.take(measure, progress.stage))


def _search(folder: BatchFolder, index: int, attempts: int) -> None:
    from autoprune.study.api import begin
    from autoprune.study.cache import EvaluationCache, content_of
    from autoprune.study.conduct import conduct
    from autoprune.study.config import validate
    from autoprune.study.config_files import read_yaml
    from autoprune.study.folder import RunFolder
    from autoprune.study.reopening import fingerprint
    from autoprune.study.table import make_profiler
    from autoprune.study.task import task_from_config

    _one_thread()
    job = folder.jobs[index]
    progress = Told(folder, job.name, job.config.objective, attempts)
    progress.stage("building the network")
    run = folder.run(job)
    begun = (run / "config.yaml").exists()
    if begun:
        config = validate(read_yaml(run / "config.yaml"), str(run / "config.yaml"))
    else:
        table = None if job.table is None else str(folder.table(job.table))
        config = job.config.model_copy(update={"out": str(run), "table": table})
    task = task_from_config(config, folder.base)
    if config.device is not None:
        # Where the budget is counted, a device that is not there is no failure: `conduct` notes it.
        with contextlib.nullcontext() if job.table else contextlib.suppress(AutopruneError):
            task.profiler = make_profiler(config, task.calibration)
    task.cache = EvaluationCache(folder.cache, content_of(config, fingerprint(task.model)))
    if not begun:
        begin(task, progress)
        return
    until = time.monotonic() + LOCK_S
    while True:
        try:
            with RunFolder.open(run) as held:
                conduct(task, held, progress)
            return
        except RunLockedError:
            # The process that had this search before may still be ending.
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _one_thread() -> None:
    """As many threads as the search holds CPUs, so that searches side by side do not fight."""
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
