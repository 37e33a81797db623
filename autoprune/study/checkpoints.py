"""Checkpoints of a searcher that takes long to learn its trials again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from autoprune.core.errors import RunError, SearchError
from autoprune.core.trial import Trial
from autoprune.searchers.base import Searcher
from autoprune.searchers.checkpoint import load_state, save_state

#: Trials between two checkpoints.
EVERY = 50


class Checkpoints:
    """Keeps a searcher's state of the last two round numbers of trials.

    Two, because with several workers a resumed run begins a little before the last trial.

    Args:
        path: of the newest; the one before stands beside it.
        objective: of the trials.
        every: trials between two of them.
    """

    def __init__(self, path: Path, objective: str, every: int = EVERY) -> None:
        self.path = path
        self.before = path.with_name(f"{path.stem}.before{path.suffix}")
        self._objective = objective
        self._every = every
        self._digest = hashlib.sha256()
        self._digested = 0

    def after(self, searcher: Searcher, trials: Sequence[Trial]) -> None:
        """Write one if it is time; costs nothing for a searcher that gives no state.

        Raises:
            RunError: it can't be written.
        """
        if type(searcher).state is Searcher.state:
            return
        digest = self._of(trials)
        if len(trials) % self._every:
            return
        state = searcher.state()
        if state is None:
            return
        try:
            if self.path.exists():
                os.replace(self.path, self.before)
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror}") from error
        save_state(self.path, state, trials=len(trials), digest=digest)

    def restore(self, searcher: Searcher, trials: Sequence[Trial]) -> int:
        """Have a searcher take the newest state of these trials' first ones.

        Args:
            searcher: new, told of nothing yet.
            trials: finished, in their order.

        Returns:
            How many trials it knows now; 0 where there is no state of them.

        Raises:
            RunError: a checkpoint can't be read, or is of another searcher.
        """
        if type(searcher).state is Searcher.state:
            return 0
        for path in (self.path, self.before):
            if not path.exists():
                continue
            state, about = load_state(path)
            count = about["trials"]
            if not 0 < count <= len(trials):
                continue
            if Checkpoints(path, self._objective)._of(trials[:count]) != about["digest"]:
                raise RunError(
                    f"{path} is not of the trials that are stored in its run: delete it, and what "
                    "it holds is learned again"
                )
            try:
                searcher.restore(state, trials[:count])
            except SearchError as error:
                raise RunError(
                    f"{path} does not fit this search: {error}. Resume it with the settings and "
                    "the network that it began with, or start anew in another folder"
                ) from error
            self._of(trials)
            return int(count)
        return 0

    def _of(self, trials: Sequence[Trial]) -> str:
        """Says which trials in which order; reads each once."""
        for trial in trials[self._digested :]:
            score = trial.score(self._objective)
            self._digest.update(f"{trial.number} {trial.candidate.key} {score!r}\n".encode())
        self._digested = len(trials)
        return self._digest.copy().hexdigest()
