"""What Ray workers bring, and how busy a driver keeps many of them.

    python benchmarks/ray_scaling.py [--seconds 150] [--images 1000]        # ResNet-56, CIFAR-10
    python benchmarks/ray_scaling.py --slots 200 --sleep 1 --each 40        # simulated

The first needs `$AUTOPRUNE_SHARED_DATA`: evaluations a second with one worker and with two, one
thread each, in short rounds that alternate until the time is up. Other work on the machine takes
cores from two workers more than from one, so besides the median the best pair of neighbouring
rounds is told, and evaluations per second of CPU time, which others can't take away: what two
workers lose there, they lose to each other (caches, memory, the clock's frequency).

The second sends evaluations that only sleep through the whole loop: searcher, cost model, store,
Ray. The driver's code is the real one, with a handle and a task for each slot; but 200 processes
don't fit on a small machine, so the slots share a few actors that run their tasks in threads. Busy
is what was slept of what could have been, from asking for the first candidate to the last result;
and until the last evaluation began, for then there is nothing left to fill slots with.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from driver_overhead import PROBLEM, UNITS

from autoprune.core.candidate import Candidate
from autoprune.cost.analytic import AnalyticCost
from autoprune.evaluate import Outcome
from autoprune.evaluate.base import Work
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
from autoprune.evaluate.ray_worker import Worker
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.calibration import for_search, importance_of
from autoprune.study.config_files import read_config
from autoprune.study.evaluation import CandidateEvaluator, Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.remote import EvaluatorSource
from autoprune.study.store import Store
from autoprune.study.task import task_from_config

#: That the slots of the simulation share.
ACTORS = 4
CONFIG = Path(__file__).parents[1] / "configs" / "cifar10-resnet56-macs.yaml"


@dataclass
class Counted:
    """Evaluations that tell the CPU time they took.

    Attributes:
        source: of the evaluations.
    """

    source: EvaluatorSource

    def __call__(self) -> Work:
        work = self.source()

        def counted(candidate: Candidate) -> Outcome:
            before = time.process_time()
            outcome = work(candidate)
            cpu_s = time.process_time() - before
            return replace(outcome, metrics={**outcome.metrics, "cpu_s": cpu_s})

        return counted


@dataclass(frozen=True)
class Round:
    """Evaluations a second, and for each second of the workers' and of the driver's CPU time."""

    rate: float
    per_cpu_s: float
    driver_cpu_s: float


def one_round(pool: RayPool, candidates: list[Candidate]) -> Round:
    begin, before, cpu_s = time.perf_counter(), time.process_time(), 0.0
    for ticket, candidate in enumerate(candidates):
        pool.submit(ticket, candidate)
    while came := pool.results():
        for _, outcome in came:
            if outcome.error is not None:
                raise RuntimeError(outcome.error)
            cpu_s += outcome.metrics["cpu_s"]
    count, driver = len(candidates), time.process_time() - before
    return Round(count / (time.perf_counter() - begin), count / cpu_s, driver / count)


def resnet56(evaluations: int, seconds: float, images: int) -> None:
    from autoprune.graph import trace

    evaluate = {"name": "examples.cifar10:evaluate", "options": {"subset": images}}
    config = read_config(CONFIG, options={"evaluate": evaluate})
    task = task_from_config(config, CONFIG.parent)
    network = trace(task.model, task.example_inputs)
    candidates = [
        Candidate.of({g.name: max(1, round(g.units * (0.5 + 0.02 * n))) for g in network.groups})
        for n in range(evaluations)
    ]
    evaluator = CandidateEvaluator(
        network,
        task.evaluate,
        importance=importance_of(task),
        calibration=for_search(task.calibration),
    )
    source = Counted(EvaluatorSource.of(task, evaluator, threads=1))
    found: dict[int, list[Round]] = {1: [], 2: []}
    # Ray gives its workers 15, and then other work takes the cores.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with connected(cpus=3), RayPool(source, 1) as one, RayPool(source, 2) as two:
        pools = {1: one, 2: two}
        for pool, warm in ((one, 1), (two, 4)):
            one_round(pool, candidates[:warm])
        until = time.monotonic() + seconds
        for number in itertools.count():
            if number > 0 and time.monotonic() > until:
                break
            # One, two, two, one: each is beside the other, and drift counts for both.
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                found[workers].append(one_round(pools[workers], candidates))
            last = {workers: each[-1].rate for workers, each in found.items()}
            load = os.getloadavg()[0]
            print(
                f"  {last[1]:.2f} a second with one, {last[2]:.2f} with two: "
                f"{last[2] / last[1]:.2f}x (load {load:.1f} on {os.cpu_count()} cores)",
                flush=True,
            )
    rate = {n: statistics.median(r.rate for r in each) for n, each in found.items()}
    cpu = {n: statistics.median(r.per_cpu_s for r in each) for n, each in found.items()}
    driver = statistics.median(r.driver_cpu_s for r in found[2])
    best = max(b.rate / a.rate for a, b in zip(found[1], found[2], strict=True))
    print(
        f"ResNet-56: {rate[1]:.2f} evaluations a second with one worker, {rate[2]:.2f} with two: "
        f"median {rate[2] / rate[1]:.2f}x, best of {len(found[1])} pairs of rounds {best:.2f}x\n"
        f"for each second of CPU time: {cpu[1]:.2f} with one, {cpu[2]:.2f} with two: two cores of "
        f"their own would give {2 * cpu[2] / cpu[1]:.2f}x; the driver takes {1e3 * driver:.1f} ms "
        "of CPU time for each"
    )


class Sleeping:
    """Evaluations that only take time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> Work:
        def work(candidate: Candidate) -> Outcome:
            begin = time.monotonic()
            time.sleep(self.seconds)
            return Outcome({"accuracy": sum(candidate.values()) / 1000, "begin": begin})

        return work


class Seats(RayPool):
    """A pool whose workers are seats on a few actors, which run their tasks in threads."""

    def _start(self) -> None:
        actors: list[Any] = self.__dict__.setdefault("_actors", [])
        if len(actors) < ACTORS:
            seats = -(-self._workers // ACTORS)
            made = self._ray.remote(Worker).options(num_cpus=0, max_concurrency=seats)
            actors.append(made.remote())
        actor = actors[len(self._starting) % ACTORS]
        self._starting[actor.prepare.remote(self._source)] = actor


def busy(slots: int, sleep: float, each: int, searcher: str) -> None:
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), AnalyticCost(), trials=slots * each
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Seats(Sleeping(sleep), slots, resources={"cpu": 0.01}) as pool,
    ):
        while len(pool._idle) < slots:
            pool._wait()
        loop = Loop(
            make_searcher(searcher, context),
            context.cost_model,
            pool,
            Store(Path(folder) / "journal.log", "run", UNITS),
            objective="accuracy",
            max_failures=1,
            progress=Progress(),
            phases=Phases(),
        )
        before, begin = time.process_time(), time.monotonic()
        loop.run(slots * each)
        seconds = time.monotonic() - begin
        cpu_s = time.process_time() - before
    begun = [trial.metrics["begin"] for trial in loop.trials]
    until = max(begun)
    slept = sum(min(sleep, until - moment) for moment in begun)
    driver = {n: 1e3 * s / (slots * each) for n, s in loop._phases.seconds.items()}
    print(
        f"{slots} slots, evaluations of {sleep:g} s ({slots / sleep:.0f} results a second at "
        f"best), {searcher}: {each * sleep / seconds:.1%} busy, "
        f"{slept / (slots * (until - begin)):.1%} until the last one began; driver "
        + ", ".join(f"{name} {ms:.2f}" for name, ms in driver.items())
        + f" ms a trial, {1e3 * cpu_s / (slots * each):.1f} ms of CPU time in all "
        f"(load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=4, help="in a round")
    parser.add_argument("--seconds", type=float, default=150, help="begin no round after that")
    parser.add_argument("--images", type=int, default=1000, help="of `val`, in an evaluation")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--sleep", type=float, default=1.0)
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--searcher", default="random")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as locks:
        # What others measure on this machine is not waited for.
        os.environ["AUTOPRUNE_LOCKS"] = locks
        run(given)


def run(given: argparse.Namespace) -> None:
    if given.slots:
        busy(given.slots, given.sleep, given.each, given.searcher)
    else:
        resnet56(given.evaluations, given.seconds, given.images)


if __name__ == "__main__":
    main()
