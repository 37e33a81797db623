"""Evaluations of one search that race against the best so far."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError, EvaluationError, RunError
from autoprune.core.failures import describe
from autoprune.core.files import write_atomically
from autoprune.evaluate.racing import Bools, Raced, looks, surely_below
from autoprune.study.table import bounds_latency

if TYPE_CHECKING:
    from autoprune.study.task import Task


def check_racing(task: Task) -> None:
    """Refuse racing where it can't be, before anything is spent.

    Raises:
        ConfigError: says why.
    """
    config = task.config
    if config.racing is None:
        return
    if not isinstance(task.evaluate, Raced):
        raise ConfigError(
            "racing needs an evaluator that tells of single samples (`samples` and `hits`), such "
            f"as autoprune.evaluate.Accuracy; got {type(task.evaluate).__name__}"
        )
    several = any(isinstance(bound, list | tuple) for bound in config.budget.values())
    for given, what in (
        (config.workers is not None, "workers"),
        (config.objectives is not None, "objectives"),
        (several, "a family of budgets"),
        (task.cache is not None, "a batch, whose searches share evaluations"),
    ):
        if given:
            raise ConfigError(f"racing can't be combined with {what}; leave one of them out")


def race_of(task: Task, file: Path | None) -> Race | None:
    """The race that a task asks for, or None."""
    config = task.config
    if config.racing is None or not isinstance(task.evaluate, Raced):
        return None
    places = config.racing.places
    if places is None:
        bounds = {name: b for name, b in config.budget.items() if not isinstance(b, tuple)}
        places = config.verify.top * (3 if bounds_latency(bounds) else 1)
    return Race(
        task.evaluate,
        places=places,
        confidence=config.racing.confidence,
        seed=config.seed,
        file=file,
    )


class Race:
    """Stops evaluations of candidates that are surely worse than the `places`-th best.

    Each candidate sees the samples in a random order of its own. After growing parts of them it
    is compared with the `places`-th best of those that were evaluated in full, on the same
    samples; a candidate that is as good is stopped with a probability of `1 - confidence` at
    most, all looks together.

    Args:
        evaluator: tells of single samples.
        places: how many of the best are to be known in full.
        confidence: as above.
        seed: of the orders.
        file: where the best ones' samples are kept for a resumed run, or None.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(
        self, evaluator: Raced, *, places: int, confidence: float, seed: int, file: Path | None
    ) -> None:
        self._evaluator = evaluator
        self._places = places
        self._doubt = 1 - confidence
        self._seed = seed
        self._file = file
        #: The best so far: candidate's key → its hits on every sample.
        self._best: dict[str, Bools] = self._load()

    def __call__(self, model: nn.Module, candidate: Candidate) -> tuple[float, int | None]:
        """Evaluate a network.

        Returns:
            Its score and None; or, of one that was stopped, an estimate of its score, below the
            bar, and on how many samples.

        Raises:
            EvaluationError: the evaluator raised, or gave something else than hits.
        """
        total = self._evaluator.samples
        rng = np.random.default_rng((self._seed, zlib.crc32(candidate.key.encode())))
        order = rng.permutation(total)
        bar = self._bar(candidate.key)
        known = np.zeros(total, dtype=bool)
        parts, done = looks(total), 0
        for part in parts:
            known[order[done:part]] = self._hits(model, order[done:part])
            done = part
            if bar is None or done == total:
                continue
            seen = order[:done]
            if surely_below(bar[seen], known[seen], self._doubt / (len(parts) - 1)):
                behind = float(bar[seen].mean() - known[seen].mean())
                return max(float(bar.mean()) - behind, 0.0), done
        self._take(candidate.key, known)
        return float(known.mean()), None

    def _hits(self, model: nn.Module, indices: Any) -> Bools:
        model.eval()
        try:
            with torch.no_grad():
                found = np.asarray(self._evaluator.hits(model, indices))
        except (Exception, SystemExit) as error:  # The user's: what it raises fails this trial.
            raise EvaluationError(f"evaluate raised {describe(error)}") from error
        if found.shape != indices.shape or found.dtype != np.bool_:
            raise EvaluationError(
                f"evaluate.hits must give {len(indices)} booleans, one for each sample; got "
                f"{found.dtype} of shape {found.shape}"
            )
        return found

    def _bar(self, key: str) -> Bools | None:
        """Hits of the candidate that must be beaten, the weakest of the best."""
        others = [hits for name, hits in self._best.items() if name != key]
        if len(others) < self._places:
            return None
        return sorted(others, key=lambda hits: -hits.sum())[self._places - 1]

    def _take(self, key: str, hits: Bools) -> None:
        self._best[key] = hits
        ranked = sorted(self._best.items(), key=lambda item: -int(item[1].sum()))
        # One more than there are places: after a kill, a candidate can meet its own hits here.
        self._best = dict(ranked[: self._places + 1])
        if self._file is not None and key in self._best:
            data = {
                k: base64.b64encode(np.packbits(h).tobytes()).decode()
                for k, h in self._best.items()
            }
            text = json.dumps({"samples": self._evaluator.samples, "best": data})
            write_atomically(self._file, text + "\n")

    def _load(self) -> dict[str, Bools]:
        if self._file is None or not self._file.exists():
            return {}
        total = self._evaluator.samples
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
            if data["samples"] != total:
                raise ValueError(f"it is of {data['samples']} samples, the evaluator has {total}")
            return {
                key: np.unpackbits(
                    np.frombuffer(base64.b64decode(bits), dtype=np.uint8), count=total
                ).astype(bool)
                for key, bits in data["best"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self._file} can't be read: {error}; restore it, or start anew in another folder"
            ) from error
