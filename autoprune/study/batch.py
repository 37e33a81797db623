"""Drives a batch: one Ray task for each search, tables first, failures tried again.

Ray Tune is not used (docs/how-to/cluster.md says why): it keeps pickled state of its own,
where our searches already resume from their run folders, and no pickle is read from a file here.
So the driver keeps no state but those folders; killed, it is begun again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.core.errors import ConfigError, ProfilerError
from autoprune.evaluate.packed import Packed
from autoprune.evaluate.ray_cluster import Cluster, actor_options, connected
from autoprune.study.batch_config import Job, SweepConfig, plan
from autoprune.study.batch_folder import WAITING, BatchFolder, JobState
from autoprune.study.batch_job import Ended, run_search, run_table
from autoprune.study.database import check_storage

#: Processes that a job may lose (killed, out of memory, node gone) before it counts as failed.
LOST = 10
#: Seconds between two looks at what goes on.
TICK_S = 0.5

#: Is shown every job's state now and then.
Listener = Callable[[list[JobState]], None]


@dataclass
class _Unit:
    """A table or a search on its way.

    Attributes:
        name: in the batch folder's `state`.
        run: function and arguments; the search's attempts are added.
        needs: name of the table that must be there first.
        attempts: that failed.
        lost: processes that died.
        ref: of the Ray task, while it runs.
        began: when it was seen to run, for the time limit.
    """

    name: str
    function: Callable[..., Ended]
    arguments: tuple[Any, ...]
    needs: str | None = None
    attempts: int = 0
    lost: int = 0
    ref: Any = None
    began: float = field(default=math.inf)


def run_batch(sweep: SweepConfig, base: Path, where: str, listener: Listener) -> BatchFolder:
    """Run a sweep in a new folder, which is made when all that can be checked was.

    Args:
        sweep: what is asked for.
        base: relative paths of its models start here.
        where: its file, for messages.
        listener: is shown the states.

    Raises:
        AutopruneError: the folder, the cluster, a device or a storage can't be used.
    """
    with _ready(sweep, plan(sweep, where)) as cluster:
        folder = BatchFolder.create(sweep, base, where)
        with folder:
            _drive(folder, cluster, listener)
    return folder


def resume_batch(path: Path, listener: Listener, address: str | None = None) -> BatchFolder:
    """Go on with a batch: searches that were stopped, cancelled or failed.

    Args:
        path: of its folder.
        listener: is shown the states.
        address: of the cluster, where it is another one now.

    Raises:
        AutopruneError: the folder or the cluster can't be used, or another process drives it.
    """
    folder = BatchFolder.open(path)
    if address is not None:
        jobs = folder.sweep.jobs.model_copy(update={"address": address})
        folder.sweep = folder.sweep.model_copy(update={"jobs": jobs})
    with folder:
        folder.cancelled.unlink(missing_ok=True)
        folder.forget_failures()
        drive(folder, listener)
    return folder


def cancel_batch(path: Path) -> bool:
    """Have a batch ended; whether a process was driving it."""
    folder = BatchFolder.open(path)
    folder.cancelled.touch()
    return folder.driven


def drive(folder: BatchFolder, listener: Listener) -> None:
    """Run everything that has no result yet; returns when nothing is left to run.

    Raises:
        ConfigError: the cluster or a device can't be used, or no node has the resources of a job.
        RunError: the cluster is gone, or a storage can't be reached.
    """
    left = [job for job in folder.jobs if not (folder.run(job) / "result.json").exists()]
    if left:
        with _ready(folder.sweep, left) as cluster:
            _drive(folder, cluster, listener)


def _drive(folder: BatchFolder, cluster: Cluster, listener: Listener) -> None:
    _Driver(folder, cluster, _units(folder), listener).run()


@contextmanager
def _ready(sweep: SweepConfig, jobs: Sequence[Job]) -> Iterator[Cluster]:
    """Connect to the cluster; refuse what nobody has before anything runs."""
    settings = sweep.jobs
    cpus = None
    if settings.address is None:
        # On a cluster, the nodes of the searches may have and reach what this one does not.
        _check_devices(jobs)
        for url in {job.config.storage for job in jobs if job.config.storage is not None}:
            check_storage(url)
        cpus = math.ceil(settings.parallel * settings.resources.get("cpu", 1.0))
    with connected(settings.address, cpus=cpus) as cluster:
        cluster.require(settings.resources)
        if settings.address is not None:
            _check_devices(jobs, elsewhere=True)
        yield cluster


def _check_devices(jobs: Sequence[Job], *, elsewhere: bool = False) -> None:
    """Refuse a device that nobody has, where a table must be measured on it.

    Args:
        jobs: searches.
        elsewhere: whether a profiler that can't run on this node may run on others.
    """
    from autoprune.study.table import make_profiler

    for job in {job.table: job for job in jobs if job.table is not None}.values():
        try:
            make_profiler(job.config)
        except ProfilerError as error:
            if not elsewhere:
                raise ConfigError(f"device {job.device!r}: {error}") from error


def _units(folder: BatchFolder) -> list[_Unit]:
    """The tables that are missing, then the searches without a result."""
    tables: dict[str, _Unit] = {}
    searches = []
    path = str(folder.path)
    for index, job in enumerate(folder.jobs):
        if (folder.run(job) / "result.json").exists():
            continue
        name = job.table
        needs = name if name is not None and not folder.table(name).exists() else None
        if needs is not None and needs not in tables:
            tables[needs] = _Unit(f"table--{needs}", run_table, (path, needs, index))
        searches.append(_Unit(job.name, run_search, (path, index), needs))
        folder.tell(job.name, {**folder.told(job.name), "stage": WAITING})
    return [*tables.values(), *searches]


class _Driver:
    def __init__(
        self, folder: BatchFolder, cluster: Cluster, units: list[_Unit], listener: Listener
    ) -> None:
        self._folder, self._cluster, self._listener = folder, cluster, listener
        self._ray = cluster.ray
        self._waiting = units
        self._running: dict[Any, _Unit] = {}

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                if self._folder.cancelled.exists():
                    self._end_all()
                    return
                self._submit()
                try:
                    self._look()
                except (self._ray.exceptions.RaySystemError, ConnectionError):
                    self._rejoin()
                self._listener([self._folder.state(j, driven=True) for j in self._folder.jobs])
        except BaseException:
            self._end_all()
            raise

    def _submit(self) -> None:
        options = {
            **actor_options(self._folder.sweep.jobs.resources),
            "max_retries": 0,
            # A process for each search: modules of one model are not seen by the next.
            "max_calls": 1,
        }
        blocked = []
        for unit in self._waiting:
            if unit.needs is not None and not self._folder.table(unit.needs).exists():
                blocked.append(unit)
                continue
            arguments = unit.arguments
            if unit.function is run_search:
                arguments = (*arguments, unit.attempts)
            packed = Packed.of((unit.function, arguments), unit.name)
            task = self._ray.remote(**options)(_begin)
            unit.ref, unit.began = task.remote(packed), math.inf
            self._running[unit.ref] = unit
        self._waiting = blocked

    def _look(self) -> None:
        ready, _ = self._ray.wait(list(self._running), timeout=TICK_S)
        if self._cluster.away(now=bool(ready)):
            self._rejoin()
            return
        if not ready:
            self._cluster.await_room(self._folder.sweep.jobs.resources)
        for ref in ready:
            self._ended(self._running.pop(ref))
        limit = self._folder.sweep.jobs.timeout_s
        if limit is None:
            return
        for ref, unit in list(self._running.items()):
            told = self._folder.told(unit.name)
            if unit.began == math.inf and told.get("stage", WAITING) != WAITING:
                unit.began = time.monotonic()
            if time.monotonic() - unit.began > limit:
                del self._running[ref]
                self._ray.cancel(ref, force=True)
                self._failed(unit, f"it took longer than {limit:g} s", fatal=False)

    def _rejoin(self) -> None:
        """The cluster's head is gone: with a new one, every search goes on from its folder."""
        self._waiting.extend(self._running.values())
        self._running.clear()
        self._cluster.rejoin()

    def _ended(self, unit: _Unit) -> None:
        errors = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(unit.ref)
        except errors.RayTaskError as error:
            ended = Ended(str(error.cause))
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.RayError) as error:
            unit.lost += 1
            if unit.lost <= LOST:
                self._waiting.append(unit)
                return
            text = str(error).strip().splitlines()[0]
            ended = Ended(f"its process died {unit.lost} times: {text}", fatal=True)
        if ended.error is not None:
            self._failed(unit, ended.error, fatal=ended.fatal)

    def _failed(self, unit: _Unit, error: str, *, fatal: bool) -> None:
        unit.attempts += 1
        if not fatal and unit.attempts <= self._folder.sweep.jobs.retries:
            self._waiting.append(unit)
            return
        if unit.function is run_search:
            self._folder.fail(unit.name, error, unit.attempts)
            return
        # Without its table no search of it can begin; those on other tables go on.
        for waiting in [w for w in self._waiting if w.needs == unit.arguments[1]]:
            self._waiting.remove(waiting)
            self._folder.fail(waiting.name, f"its latency table: {error}", unit.attempts)

    def _end_all(self) -> None:
        """End what runs; every search can be resumed."""
        for ref in self._running:
            if self._ray.is_initialized():
                self._ray.cancel(ref, force=True)
        self._running.clear()


def _begin(packed: Packed) -> Ended:
    function, arguments = packed.unpack()
    ended: Ended = function(*arguments)
    return ended


__all__ = ["cancel_batch", "drive", "resume_batch", "run_batch"]
