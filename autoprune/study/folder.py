"""A run folder: one search on disk, used by one process at a time."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from autoprune.core.errors import RunError, RunLockedError, RunVersionError
from autoprune.core.files import write_atomically

#: Of the folder's layout and of `config.yaml` and `result.json` in it.
SCHEMA = 1


class RunFolder:
    """The files of one run. Use it in a `with` block: it is locked for as long as that lasts.

    ::

        config.yaml          what was asked for; `resume` reads it
        journal.log          every trial and event: an Optuna journal
        searcher.safetensors what the searcher has learned (a trained agent's), where it has that
        table.jsonl          the latency table as it was measured or loaded
        result.json          what came of it
        pareto.json          the front, where several objectives were searched for
        family.json          what came of each budget, where there were several
        pruned.safetensors   the pruned network's weights, with
        plan.json            what was cut from which tensor
        pruned.onnx          the same network, as it was measured
        dense.onnx           the dense network that it was measured against
        recovery/            where the winner's fine-tuning stands; gone once the run is finished

    Args:
        path: the folder; `create` makes it, `open` expects a run in it.

    Attributes:
        begun: whether there is something to resume, in the journal or a database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = False
        self._lock = FileLock(path / ".lock")

    @classmethod
    def create(cls, path: Path | str) -> RunFolder:
        """Make a folder for a new run; the caller then locks it and writes its config.

        Raises:
            RunError: it holds a run already, or can't be made.
        """
        folder = cls(Path(path).expanduser().absolute())
        if folder.config.exists():
            raise RunError(
                f"{folder.path} holds a run already; go on with it by `autoprune resume "
                f"{quote(str(folder.path))}`, or give another folder"
            )
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"the run folder {folder.path} can't be made: {error.strerror}; give another one"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            RunError: no run is in it.
        """
        folder = cls(Path(path).expanduser().absolute())
        if not folder.config.is_file():
            what = "holds no run (no config.yaml)" if folder.path.is_dir() else "does not exist"
            raise RunError(f"the run folder {folder.path} {what}; check the path")
        return folder

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / "config.yaml"

    @property
    def journal(self) -> Path:
        """Trials and events."""
        return self.path / "journal.log"

    @property
    def checkpoint(self) -> Path:
        """What the searcher had learned, where learning it again would take long."""
        return self.path / "searcher.safetensors"

    @property
    def table(self) -> Path:
        """The latency table the search began with."""
        return self.path / "table.jsonl"

    @property
    def result(self) -> Path:
        """What came of it."""
        return self.path / "result.json"

    @property
    def pareto(self) -> Path:
        """The Pareto front, where several objectives were searched for."""
        return self.path / "pareto.json"

    @property
    def family(self) -> Path:
        """What came of each of several budgets; their results are in folders below."""
        return self.path / "family.json"

    @property
    def onnx(self) -> Path:
        """The shipped network."""
        return self.path / "pruned.onnx"

    @property
    def dense_onnx(self) -> Path:
        """The dense network that it was measured against."""
        return self.path / "dense.onnx"

    @property
    def recovery(self) -> Path:
        """Where the winner's fine-tuning stands."""
        return self.path / "recovery"

    @property
    def racing(self) -> Path:
        """What the best candidates are right on, for evaluations that race against them."""
        return self.path / "racing.json"

    def discard_unless_begun(self) -> None:
        """Take back a run that failed before there was anything to resume."""
        begun = self.journal.exists() and b'"event/' in self.journal.read_bytes()
        if begun or self.begun or self.table.exists():
            return
        for path in (self.config, self.journal, self.path / f"{self.journal.name}.lock"):
            path.unlink(missing_ok=True)

    def write(self, path: Path, data: bytes | str) -> None:
        """Write one of the folder's files whole or not at all.

        Raises:
            RunError: no space, or no right to.
        """
        write_atomically(path, data)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`."""
        self.write_json(self.result, result)

    def write_json(self, path: Path, data: dict[str, Any]) -> None:
        """Write one of the folder's JSON files."""
        self.write(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def read_result(self) -> dict[str, Any]:
        """Read `result.json`.

        Raises:
            RunError: the run has not ended yet, or the file was damaged.
            RunVersionError: a newer autoprune wrote it.
        """
        if self.family.exists():
            names = [member["folder"] for member in self.read_json(self.family)["members"]]
            raise RunError(
                f"{self.path} holds a family of budgets, which have a result each; name one of its "
                f"folders: {', '.join(names)}"
            )
        return self.read_json(self.result)

    def read_json(self, path: Path) -> dict[str, Any]:
        """Read one of the folder's JSON files.

        Raises:
            RunError: the run has not ended yet, or the file was damaged.
            RunVersionError: a newer autoprune wrote it.
        """
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} has no result yet; finish it by `autoprune resume "
                f"{quote(str(self.path))}`"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} can't be read: {error}; restore it") from error
        if not isinstance(result, dict) or "schema" not in result:
            raise RunError(f"{path} is no result of autoprune: it has no 'schema'")
        check_schema(result["schema"], path)
        return result

    def __enter__(self) -> RunFolder:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunLockedError(
                f"another process works in {self.path}; wait for it, or give another folder"
            ) from error
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} can't be written: {error.strerror}; "
                "free space, mend the rights or give another folder"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


def check_schema(schema: object, where: Path) -> None:
    """Refuse a file of a newer autoprune.

    Raises:
        RunVersionError: its schema is newer than this release reads.
        RunError: its schema is no positive integer.
    """
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise RunError(f"{where}: schema must be a positive integer, got {schema!r}")
    if schema > SCHEMA:
        raise RunVersionError(
            f"{where} was written by a newer autoprune (schema {schema}, this one reads up to "
            f"{SCHEMA}); upgrade autoprune"
        )
