"""Evaluations that bring about a fault, and what must be true of a search that it struck."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bench import Log, kill_node
from driver_overhead import PROBLEM, UNITS, make_loop

from autoprune.core.candidate import Candidate
from autoprune.evaluate import Outcome
from autoprune.evaluate.base import EvaluatorPool, Work
from autoprune.study.store import Store

TRIALS = 16
#: Bytes that a greedy evaluation takes.
GREED = 6 << 30


@dataclass
class Struck(Log):
    """Evaluations of the synthetic problem, one of which a fault strikes, once.

    Attributes:
        folder: of the log and the mark that it struck.
        fault: one of the faults that an evaluation brings about, or "none".
        at: the evaluation that it strikes, counted from 1.
        pid: of the process that is killed, by some faults.
    """

    fault: str = "none"
    at: int = 6
    pid: int = 0

    def __call__(self) -> Work:
        return self.evaluate

    def evaluate(self, candidate: Candidate) -> Outcome:
        self.note(f"begin {candidate.key}")
        begun = sum(line.startswith("begin") for line in self.lines())
        if begun >= self.at and self.fault != "none" and self.first():
            self.strike()
        time.sleep(0.02)
        outcome = Outcome(PROBLEM.evaluate(candidate))
        self.note(f"end {candidate.key}")
        return outcome

    def strike(self) -> None:
        if self.fault == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "memory":
            greedy = bytearray(GREED)
            greedy[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(
                greedy[:: os.sysconf("SC_PAGE_SIZE")]
            )
        elif self.fault == "node":
            kill_node()
        elif self.fault == "driver":
            os.kill(self.pid, signal.SIGKILL)
        elif self.fault == "head":
            os.killpg(self.pid, signal.SIGKILL)
        time.sleep(3600)


def search(folder: Path, pool: EvaluatorPool, storage: Path | str | None = None) -> list[bool]:
    """Run or resume the search of a folder; whether each trial gave a figure."""
    loop = make_loop("random", Store(storage or folder / "journal.log", folder.name, UNITS), TRIALS)
    loop._pool = pool
    loop.run(TRIALS)
    return [trial.ok for trial in loop.trials]


def wrong(folder: Path, again: int, storage: Path | str | None = None) -> str | None:
    """What is wrong with a finished search, of which `again` evaluations may have begun twice."""
    if not (folder / "struck").exists():
        return "the fault did not strike"
    stored = Store(storage or folder / "journal.log", folder.name, UNITS).trials()
    if sorted(s.trial.number for s in stored) != list(range(TRIALS)):
        return f"stored trials {sorted(s.trial.number for s in stored)}"
    if failed := [s.trial.error for s in stored if not s.trial.ok]:
        return f"{len(failed)} trials failed: {failed[0]}"
    lines = Struck(folder).lines()
    begun = [line.split()[1] for line in lines if line.startswith("begin")]
    ended = [line.split()[1] for line in lines if line.startswith("end")]
    if len(set(ended)) != TRIALS or len(ended) > TRIALS + again:
        return f"{len(ended)} evaluations ended, {len(set(ended))} different ones, not {TRIALS}"
    if not TRIALS <= len(begun) <= TRIALS + again:
        return f"{len(begun)} evaluations began for {TRIALS} trials, {again} of them twice at most"
    return None
