"""The folder of a batch: what is asked for, and the state of every search in it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from autoprune.core.errors import RunError, RunLockedError
from autoprune.core.files import write_atomically
from autoprune.study.batch_config import Job, SweepConfig, plan, validate_sweep, write_sweep
from autoprune.study.config_files import read_yaml
from autoprune.study.folder import check_schema

#: Of the folder's layout and of `batch.yaml` and `summary.json` in it.
SCHEMA = 1

#: States of a job, as they are shown.
WAITING, RUNNING, HELD, NOT_HELD, FAILED, STOPPED = (
    "waiting",
    "running",
    "held",
    "not held",
    "failed",
    "stopped",
)
#: States in which nothing is left to do, unless the batch is resumed.
ENDED = (HELD, NOT_HELD, FAILED)


@dataclass(frozen=True)
class JobState:
    """How far a search is.

    Attributes:
        job: the search.
        state: one of the module's states.
        trials: finished.
        total: planned.
        best: the objective of the best trial so far, or None.
        note: what it is at, or why it failed.
        attempts: that failed.
    """

    job: Job
    state: str
    trials: int = 0
    total: int = 0
    best: float | None = None
    note: str = ""
    attempts: int = 0


class BatchFolder:
    """The files of one batch. Use it in a `with` block to drive it: it is locked meanwhile.

    ::

        batch.yaml           what was asked for; `autoprune batch resume` reads it
        jobs/NAME/           run folders of the searches
        state/NAME.json      how far each search is; state/NAME.failed.json why it failed
        tables/              latency tables, one for each device and model
        cache/               finished evaluations, shared by all searches
        summary.json, summary.csv, summary.png
        cancelled            is there when the batch was cancelled

    Args:
        path: the folder; `create` makes it, `open` expects a batch in it.

    Attributes:
        sweep: what was asked for.
        base: relative paths of its models start here.
        jobs: its searches.
        driver: names this folder's part of a batch that several clusters run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")
        self.sweep: SweepConfig
        self.base: Path
        self.jobs: list[Job]
        self.driver = path.name

    @classmethod
    def create(cls, sweep: SweepConfig, base: Path, where: str) -> BatchFolder:
        """Make a folder for a new batch.

        Raises:
            RunError: it holds a batch already, or can't be made.
        """
        folder = cls(Path(sweep.out).expanduser().absolute())
        if folder.config.exists():
            raise RunError(
                f"{folder.path} holds a batch already; go on with it by `autoprune batch resume "
                f"{folder.path}`, or give another folder"
            )
        folder.sweep, folder.base, folder.jobs = sweep, base, plan(sweep, where)
        head = f"# Written by autoprune; relative paths start from `base`.\nschema: {SCHEMA}\n"
        folder.driver = f"{folder.path.name}-{uuid.uuid4().hex[:8]}"
        own = f"base: {json.dumps(str(base))}\ndriver: {json.dumps(folder.driver)}\n"
        text = f"{head}{own}{write_sweep(sweep)}"
        write_atomically(folder.config, text)
        return folder

    @classmethod
    def open(cls, path: Path | str) -> BatchFolder:
        """Open the folder of an earlier batch.

        Raises:
            RunError: no batch is in it, or its `batch.yaml` was changed beyond reading.
            RunVersionError: a newer autoprune wrote it.
        """
        folder = cls(Path(path).expanduser().absolute())
        if not folder.config.is_file():
            what = "holds no batch (no batch.yaml)" if folder.path.is_dir() else "does not exist"
            raise RunError(f"the batch folder {folder.path} {what}; check the path")
        data = read_yaml(folder.config)
        check_schema(data.pop("schema", None), folder.config)
        folder.base = Path(str(data.pop("base", ".")))
        folder.driver = str(data.pop("driver", folder.driver))
        folder.sweep = validate_sweep(data, str(folder.config))
        folder.jobs = plan(folder.sweep, str(folder.config))
        return folder

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / "batch.yaml"

    @property
    def cache(self) -> Path:
        """Finished evaluations."""
        return self.path / "cache"

    @property
    def cancelled(self) -> Path:
        """Is there when the batch was cancelled."""
        return self.path / "cancelled"

    def run(self, job: Job) -> Path:
        """The run folder of a search."""
        return self.path / "jobs" / job.name

    def table(self, name: str) -> Path:
        """A latency table that searches share."""
        return self.path / "tables" / f"{name}.jsonl"

    @property
    def driven(self) -> bool:
        """Whether a process drives this batch now."""
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    # -- states --------------------------------------------------------------------------------

    def tell(self, name: str, data: Mapping[str, Any]) -> None:
        """Note how far a search or a table is."""
        path = self.path / "state" / f"{name}.json"
        write_atomically(path, json.dumps({**data, "time": time.time()}) + "\n")

    def told(self, name: str) -> dict[str, Any]:
        """What was noted last; {} if nothing was."""
        return _json(self.path / "state" / f"{name}.json") or {}

    def fail(self, name: str, error: str, attempts: int) -> None:
        """Note that a search failed for good."""
        data = {"error": error, "attempts": attempts}
        write_atomically(self.path / "state" / f"{name}.failed.json", json.dumps(data) + "\n")

    def failure(self, name: str) -> dict[str, Any] | None:
        """Why a search failed for good, or None."""
        return _json(self.path / "state" / f"{name}.failed.json")

    def forget_failures(self) -> None:
        """Before failed searches are tried again."""
        for path in (self.path / "state").glob("*.failed.json"):
            path.unlink(missing_ok=True)

    def result(self, job: Job) -> dict[str, Any] | None:
        """The `result.json` of a finished search, or None."""
        return _json(self.run(job) / "result.json")

    def state(self, job: Job, *, driven: bool) -> JobState:
        """How far a search is.

        Args:
            job: the search.
            driven: whether a process drives the batch: what runs then runs, else it was stopped.
        """
        told = self.told(job.name)
        failed = self.failure(job.name)
        result = self.result(job)
        trials, total = int(told.get("trials", 0)), int(told.get("total", job.config.trials))
        best, attempts = told.get("best"), int(told.get("attempts", 0))
        if result is not None:
            metrics = result["winner"]["metrics"]
            state = HELD if result["held"] else NOT_HELD
            done = int(result["trials"]["finished"])
            return JobState(job, state, done, done, metrics.get(job.config.objective), "", attempts)
        if failed is not None:
            note, attempts = str(failed["error"]), int(failed["attempts"])
            return JobState(job, FAILED, trials, total, best, note, attempts)
        if not told or told.get("stage") == WAITING:
            note = self._awaited(job) if driven else ""
            return JobState(job, WAITING, trials, total, best, note, attempts)
        state = RUNNING if driven else STOPPED
        return JobState(job, state, trials, total, best, str(told.get("stage", "")), attempts)

    def _awaited(self, job: Job) -> str:
        """What a search waits for besides room."""
        if job.table is None or self.table(job.table).exists():
            return ""
        stage = self.told(f"table--{job.table}").get("stage")
        return "for its latency table" + (f": {stage}" if stage else "")

    def states(self) -> list[JobState]:
        """How far every search is."""
        driven = self.driven
        return [self.state(job, driven=driven) for job in self.jobs]

    def __enter__(self) -> BatchFolder:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunLockedError(
                f"another process drives the batch {self.path}; look at it by `autoprune batch "
                f"status {self.path}`, or end it by `autoprune batch cancel {self.path}`"
            ) from error
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read: {error}; restore or delete it") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} must hold a JSON object; restore or delete it")
    return data
