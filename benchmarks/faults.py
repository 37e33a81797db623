"""Faults, and what they cost: evaluations counted before and after each.

    python benchmarks/faults.py [--rounds 20] [--minutes 30] [--only worker hang]

Every fault happens to real processes. An evaluation writes a line when it begins and one when it
ends, so nothing that the pool says of itself is believed. A round passes if the search ended by
itself (a killed driver: when it was begun again), every trial is stored once, no evaluation ended
twice, and no more began again than were under way when the fault struck.

| fault | what happens |
|---|---|
| worker | SIGKILL to a worker in the middle of an evaluation |
| hang | a worker hangs until the time limit |
| memory | a worker takes more memory than there is; Ray's monitor ends it, or all that run |
| disk | the journal can't grow any more, then there is space again |
| database | PostgreSQL goes down without saying goodbye, and is started again |
| node | SIGKILL to a node in the middle of an evaluation; another one joins |
| driver | SIGKILL to the driver, which is begun again |
| head | SIGKILL to every process of the head's machine, which is started again |
| device | SIGKILL to the node of a device between two evaluations of a table's measuring |

`tests/integration/test_batch.py` and `test_cluster.py` have a batch's driver and a node killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from bench import KILLED_AT, Log
from driver_overhead import UNITS, make_loop
from postgres_server import NotInstalledError, running_server
from ray_nodes import HEAD, NODE, SECRET, Nodes
from struck import TRIALS, Struck, search, wrong

from autoprune.core.candidate import Candidate
from autoprune.core.device import Artifact, MeasuringProtocol
from autoprune.core.errors import RunError
from autoprune.evaluate import LocalPool, Outcome
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
from autoprune.evaluate.ray_device import RayProfiler
from autoprune.study.store import Store

WORKERS = 2
#: Bytes that all workers together may take before Ray's monitor ends some.
SPARE = 3 << 30
CPU = "--num-cpus=1"
DEVICE = "--num-cpus=0 --resources='{\"device:bench\": 1}'"


# -- faults of workers, on a Ray of this machine -----------------------------------------------


def on_workers(fault: str) -> Callable[[Path], str | None]:
    def one(folder: Path) -> str | None:
        timeout_s = 3.0 if fault == "hang" else None
        with RayPool(Struck(folder, fault), WORKERS, timeout_s=timeout_s) as pool:
            search(folder, pool)
        # Ray chooses whom it ends for memory: the newest first, more than one if that frees more.
        return wrong(folder, again=WORKERS if fault == "memory" else 1)

    return one


@contextlib.contextmanager
def here() -> Iterator[None]:
    with connected(cpus=WORKERS):
        yield


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Ray's monitor ends who takes more than `SPARE` of what is free now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    known = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    total = known["MemTotal"]
    share = (total - known["MemAvailable"] + SPARE) / total
    os.environ.update(RAY_memory_usage_threshold=f"{share:.3f}", RAY_memory_monitor_refresh_ms="50")
    try:
        with connected(cpus=WORKERS):
            yield
    finally:
        for name in ("usage_threshold", "monitor_refresh_ms"):
            del os.environ[f"RAY_memory_{name}"]


def memory(folder: Path) -> str | None:
    """With a Ray of its own each time: what is free changes with what else runs here."""
    with little_memory():
        return on_workers("memory")(folder)


# -- faults of what is stored ------------------------------------------------------------------


def disk(folder: Path) -> str | None:
    """The journal can't grow in the middle of a run; then there is space again."""
    import resource

    path = folder / "journal.log"
    pool = LocalPool(Struck(folder).evaluate)
    loop = make_loop("random", Store(path, folder.name, UNITS), TRIALS)
    loop._pool = pool
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
    (folder / "struck").touch()
    search(folder, LocalPool(Struck(folder).evaluate))
    return wrong(folder, again=1)


def database(folder: Path) -> str | None:
    """PostgreSQL goes down in the middle of an evaluation, and is back some seconds later."""
    work = Struck(folder)

    def evaluate(candidate: Candidate) -> Outcome:
        if len(work.lines()) >= 10 and work.first():
            SERVER[0].stop()
            threading.Timer(3.0, SERVER[0].start).start()
        return work.evaluate(candidate)

    search(folder, LocalPool(evaluate), SERVER[0].url)
    return wrong(folder, again=0, storage=SERVER[0].url)


SERVER: list[object] = []


@contextlib.contextmanager
def postgres() -> Iterator[None]:
    with running_server() as server:
        SERVER[:] = [server]
        yield


# -- faults of a cluster's machines ------------------------------------------------------------

NODES: list[Nodes] = []


@contextlib.contextmanager
def cluster(head: str, *nodes: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        made = Nodes(folder)
        NODES[:] = [made]
        try:
            made.start(f"{HEAD} {head}")
            for node in nodes:
                made.start(f"{NODE} {node}")
            yield
        finally:
            made.close()


def when(mark: Path, act: Callable[[], object], after_s: float = 0.0) -> threading.Thread:
    """A thread that acts when a file is there."""

    def wait() -> None:
        while not mark.exists():
            time.sleep(0.1)
        time.sleep(after_s)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def node(folder: Path) -> str | None:
    joined = when(folder / "struck", lambda: NODES[0].start(f"{NODE} {CPU}"))
    with RayPool(Struck(folder, "node"), WORKERS, address=NODES[0].address) as pool:
        search(folder, pool)
    joined.join(120)
    return wrong(folder, again=1)


def head(folder: Path) -> str | None:
    made = NODES[0]
    back = when(folder / "struck", lambda: made.start(f"{HEAD} --num-cpus=2"), after_s=3.0)
    struck = Struck(folder, "head", pid=made.started[-1].pid)
    with RayPool(struck, WORKERS, address=made.address) as pool:
        search(folder, pool)
    back.join(120)
    return wrong(folder, again=WORKERS)


def driver(folder: Path) -> str | None:
    for killed in (True, False):
        command = [sys.executable, __file__, "--drive", str(folder), NODES[0].address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != (-signal.SIGKILL if killed else 0):
            return f"the driver ended with {done.returncode}: {done.stderr[-500:]}"
    return wrong(folder, again=WORKERS)


def drive(folder: Path, address: str) -> None:
    """What the driver does, in a process of its own."""
    with RayPool(Struck(folder, "driver", pid=os.getpid()), WORKERS, address=address) as pool:
        search(folder, pool)


def device(folder: Path) -> str | None:
    back = when(folder / "struck", lambda: NODES[0].start(f"{NODE} {DEVICE}"), after_s=1.0)
    profiler = RayProfiler("device:bench", "bench:Bench", {"folder": str(folder)}, NODES[0].address)
    for key in "123":
        profiler.measure([Artifact(key, b"", {})], MeasuringProtocol())
    profiler.close()
    back.join(120)
    lines = Log(folder).lines()
    expected = [f"{word} {key}" for key in "123" for word in ("begin", "end")]
    expected.insert(expected.index(f"begin {KILLED_AT}"), f"begin {KILLED_AT}")
    return None if lines == expected else f"it measured {lines}"


@dataclass(frozen=True)
class Fault:
    """A fault: one round of it, and what must run around all rounds."""

    once: Callable[[Path], str | None]
    around: Callable[[], contextlib.AbstractContextManager[None]]


FAULTS: dict[str, Fault] = {
    "worker": Fault(on_workers("worker"), here),
    "hang": Fault(on_workers("hang"), here),
    "memory": Fault(memory, contextlib.nullcontext),
    "disk": Fault(disk, contextlib.nullcontext),
    "database": Fault(database, postgres),
    "node": Fault(node, lambda: cluster("--num-cpus=0", CPU, CPU)),
    "driver": Fault(driver, lambda: cluster("--num-cpus=2")),
    "head": Fault(head, lambda: cluster("--num-cpus=2")),
    "device": Fault(device, lambda: cluster("--num-cpus=0", DEVICE)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--minutes", type=float, default=30, help="for a fault: begin no round after that"
    )
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    # Waiting for what is away is told as a warning; here it is what should happen.
    warnings.simplefilter("ignore")
    if given.drive:
        drive(Path(given.drive[0]), given.drive[1])
        return 0
    # Ray keeps the token that a process had when it was first used, be it none.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRET)
    with tempfile.TemporaryDirectory() as locks:
        # What others measure on this machine is not waited for.
        os.environ["AUTOPRUNE_LOCKS"] = locks
        return rounds(given)


def rounds(given: argparse.Namespace) -> int:
    """Every fault asked for; 1 if a round failed."""
    failed = 0
    for name in given.only:
        passed, done, begin = 0, 0, time.perf_counter()
        try:
            with FAULTS[name].around():
                for number in range(given.rounds):
                    if number > 0 and time.perf_counter() - begin > 60 * given.minutes:
                        break
                    with tempfile.TemporaryDirectory() as folder:
                        problem = FAULTS[name].once(Path(folder))
                    passed, done = passed + (problem is None), done + 1
                    if problem is not None:
                        print(f"{name}, round {number}: {problem}", flush=True)
        except NotInstalledError as error:
            print(f"{name:8} left out: {error}")
            continue
        failed += done - passed
        seconds = (time.perf_counter() - begin) / done
        print(f"{name:8} {passed}/{done} survived, {seconds:.1f} s each", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
