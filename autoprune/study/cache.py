"""Evaluations by what they are of, shared by the searches of a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from autoprune.core.candidate import Candidate
from autoprune.core.errors import RunError
from autoprune.core.files import write_atomically
from autoprune.evaluate.base import Outcome

if TYPE_CHECKING:
    from autoprune.study.config import SearchConfig

#: Settings that an evaluation's figure depends on, besides the network and the candidate.
_RELEVANT = (
    "model",
    "inputs",
    "evaluate",
    "calibration",
    "python_path",
    "importance",
    "reconstruct",
    "objective",
)


@dataclass(frozen=True)
class EvaluationCache:
    """Finished evaluations as small JSON files, named after everything their figure depends on.

    Two searches that come to the same candidate at the same time evaluate it once: the second
    waits for the first. The lock is the operating system's and ends with its process.

    Attributes:
        folder: of the files.
        content: of the evaluation, but for the candidate; see `content_of`.
    """

    folder: Path
    content: str

    def dense(self, evaluate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """The dense network's figures, evaluated if nobody has."""
        return dict(self._once("dense", lambda: Outcome(evaluate())).metrics)

    def candidate(self, candidate: Candidate, evaluate: Callable[[Candidate], Outcome]) -> Outcome:
        """A candidate's figures, evaluated if nobody has; a failure is not kept."""
        return self._once(candidate.key, lambda: evaluate(candidate))

    def _once(self, what: str, evaluate: Callable[[], Outcome]) -> Outcome:
        name = hashlib.sha256(f"{self.content}/{what}".encode()).hexdigest()[:32]
        path = self.folder / name[:2] / f"{name}.json"
        known = _read(path)
        if known is not None:
            return known
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            with lock:
                known = _read(path)
                if known is not None:
                    return known
                outcome = evaluate()
                if outcome.ok:
                    data = {"metrics": dict(outcome.metrics), "of": what}
                    write_atomically(path, json.dumps(data) + "\n", RunError)
                    # Whoever still waits for the removed file finds the figures when it has it.
                    Path(lock.lock_file).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"the evaluation cache {self.folder} can't be written: {error.strerror or error}. "
                "Free space or mend the rights, then resume the batch: what is finished is kept"
            ) from error
        return outcome


def content_of(config: SearchConfig, network: str) -> str:
    """A short name of all that an evaluation depends on but the candidate.

    Args:
        config: of the search.
        network: fingerprint of the dense network.
    """
    names = {*_RELEVANT, *(("train", "loss", "seed") if config.importance == "taylor" else ())}
    relevant: dict[str, Any] = config.model_dump(mode="json", include=names)
    text = json.dumps({**relevant, "network": network}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> Outcome | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        metrics = {str(name): float(value) for name, value in data["metrics"].items()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}; mend the rights") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is no finished evaluation ({error}); delete it and resume the batch"
        ) from error
    return Outcome(metrics)
