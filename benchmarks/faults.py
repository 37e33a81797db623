"""Faults, and what they cost: evaluations counted before and after each.

    python benchmarks/faults.py [--rounds 20] [--only worker hang]

Every fault happens to real processes of a Ray started here. An evaluation writes a line when it
begins and one when it ends, so nothing that the pool says of itself is believed. A round passes
if every trial is there once, no evaluation ended twice, and no more began again than were under
way when the fault struck. A worker that runs out of memory is ended by the kernel as "worker" is,
by SIGKILL. (The loss of a node, the driver killed and a restarted PostgreSQL are in
tests/integration/test_cluster.py, test_ray_search.py, test_batch.py and test_postgres.py.)
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from driver_overhead import PROBLEM, UNITS, make_loop

from autoprune.core.candidate import Candidate
from autoprune.core.errors import RunError
from autoprune.evaluate import Outcome
from autoprune.evaluate.base import Work
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
from autoprune.study.store import Store

TRIALS, WORKERS = 16, 2


@dataclass
class Struck:
    """Evaluations of the synthetic problem, one of which a fault strikes, once.

    Attributes:
        folder: of the log and the mark that it struck.
        fault: "worker", "hang" or "none".
        at: the evaluation that it strikes, counted from 1.
    """

    folder: Path
    fault: str
    at: int = 6

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
        if self.fault == "hang":
            time.sleep(3600)

    def first(self) -> bool:
        try:
            (self.folder / "struck").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def note(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(line + "\n")

    def lines(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []


def counted(folder: Path, trials: int) -> str | None:
    """What is wrong with the counts, or None."""
    lines = Struck(folder, "none").lines()
    begun = [line.split()[1] for line in lines if line.startswith("begin")]
    ended = [line.split()[1] for line in lines if line.startswith("end")]
    if len(ended) != trials or len(set(ended)) != trials:
        return f"{len(ended)} evaluations ended, {len(set(ended))} different ones, not {trials}"
    if not trials <= len(begun) <= trials + WORKERS:
        return f"{len(begun)} evaluations began for {trials} trials and {WORKERS} workers"
    return None


def on_workers(fault: str, folder: Path) -> str | None:
    """A fault that strikes a worker in the middle of an evaluation."""
    store = Store(folder / "journal.log", "run", UNITS)
    timeout_s = 3.0 if fault == "hang" else None
    with RayPool(Struck(folder, fault), WORKERS, timeout_s=timeout_s) as pool:
        loop = make_loop("random", store, TRIALS)
        loop._pool = pool
        loop.run(TRIALS)
    if not (folder / "struck").exists():
        return "the fault did not strike"
    numbers = sorted(s.trial.number for s in Store(folder / "journal.log", "run", UNITS).trials())
    if numbers != list(range(TRIALS)) or not all(trial.ok for trial in loop.trials):
        return f"stored trials {numbers}"
    return counted(folder, TRIALS)


def disk(folder: Path) -> str | None:
    """The journal can't grow in the middle of a run; then there is space again."""
    import resource

    path = folder / "journal.log"
    work = Struck(folder, "none")
    loop = make_loop("random", Store(path, "run", UNITS), TRIALS)
    loop._pool._work = work.evaluate  # type: ignore[attr-defined]
    loop.run(5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Half an entry fits: what a full disk leaves behind.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 200, before[1]))
        try:
            loop.run(TRIALS)
        except RunError as error:
            told = str(error)
        else:
            return "the full disk was not told"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    if "resume" not in told:
        return f"it was told so: {told}"
    loop = make_loop("random", Store(path, "run", UNITS), TRIALS)
    loop._pool._work = work.evaluate  # type: ignore[attr-defined]
    loop.run(TRIALS)
    lines = [line.split()[1] for line in work.lines() if line.startswith("end")]
    # The one evaluation whose result could not be written was under way: it is done again.
    if len(set(lines)) != TRIALS or len(lines) > TRIALS + 1:
        return f"{len(lines)} evaluations for {TRIALS} trials"
    return None


FAULTS: dict[str, Callable[[Path], str | None]] = {
    "worker": lambda folder: on_workers("worker", folder),
    "hang": lambda folder: on_workers("hang", folder),
    "disk": disk,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    given = parser.parse_args()
    failed = 0
    with connected(cpus=WORKERS):
        for name in given.only:
            passed, begin = 0, time.perf_counter()
            for number in range(given.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    wrong = FAULTS[name](Path(folder))
                passed += wrong is None
                if wrong is not None:
                    print(f"{name}, round {number}: {wrong}", flush=True)
            failed += given.rounds - passed
            seconds = (time.perf_counter() - begin) / given.rounds
            print(f"{name:8} {passed}/{given.rounds} survived, {seconds:.1f} s each", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
