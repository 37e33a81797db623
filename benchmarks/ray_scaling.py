"""What Ray workers bring, and how busy a driver keeps many of them.

    python benchmarks/ray_scaling.py [--evaluations 12] [--rounds 2]        # ResNet-56, CIFAR-10
    python benchmarks/ray_scaling.py --slots 24 --sleep 0.12                # simulated

The first needs `$AUTOPRUNE_SHARED_DATA`: evaluations a second with one worker and with two, one
thread each, the rounds interleaved so that a drifting machine does not tell. The second sends
evaluations that only sleep through the whole loop, store and all: 24 slots of 0.12 s ask as much
of the driver as 200 slots of 1 s, and can be had on a small machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from driver_overhead import PROBLEM, UNITS

from autoprune.core.candidate import Candidate
from autoprune.evaluate import Outcome
from autoprune.evaluate.base import Work
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
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
from autoprune.testing.problems import ShapeCost

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10-resnet56-macs.yaml"


def rate(pool: RayPool, candidates: list[Candidate]) -> float:
    """Evaluations a second."""
    begin = time.perf_counter()
    for ticket, candidate in enumerate(candidates):
        pool.submit(ticket, candidate)
    while came := pool.results():
        for _, outcome in came:
            if outcome.error is not None:
                raise RuntimeError(outcome.error)
    return len(candidates) / (time.perf_counter() - begin)


def resnet56(evaluations: int, rounds: int) -> None:
    from autoprune.graph import trace

    config = read_config(CONFIG)
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
    source = EvaluatorSource.of(task, evaluator, threads=1)
    with connected(cpus=3), RayPool(source, 1) as one, RayPool(source, 2) as two:
        for pool, warm in ((one, 1), (two, 4)):
            rate(pool, candidates[:warm])
        rates: dict[str, list[float]] = {"one": [], "two": []}
        for _ in range(rounds):
            rates["one"].append(rate(one, candidates))
            rates["two"].append(rate(two, candidates))
    first, second = (statistics.median(rates[name]) for name in ("one", "two"))
    load = os.getloadavg()[0]
    print(
        f"ResNet-56: {first:.2f} evaluations a second with one worker, {second:.2f} with two: "
        f"{second / first:.2f}x (load average {load:.1f} on {os.cpu_count()} cores)"
    )


class Sleeping:
    """Evaluations that only take time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> Work:
        def work(candidate: Candidate) -> Outcome:
            time.sleep(self.seconds)
            return Outcome({"accuracy": sum(candidate.values()) / 1000})

        return work


def busy(slots: int, sleep: float, each: int) -> None:
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), trials=slots * each
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        RayPool(Sleeping(sleep), slots, resources={"cpu": 0.01}) as pool,
    ):
        while len(pool._idle) < slots:
            pool._wait()
        loop = Loop(
            make_searcher("random", context),
            context.cost_model,
            pool,
            Store(Path(folder) / "journal.log", "run", UNITS),
            objective="accuracy",
            max_failures=1,
            progress=Progress(),
            phases=Phases(),
        )
        begin = time.perf_counter()
        loop.run(slots * each)
        seconds = time.perf_counter() - begin
    driver = {n: 1e3 * s / (slots * each) for n, s in loop._phases.seconds.items()}
    print(
        f"{slots} slots, evaluations of {sleep:g} s ({slots / sleep:.0f} results a second at "
        f"best): {each * sleep / seconds:.1%} busy; driver "
        + ", ".join(f"{name} {ms:.1f}" for name, ms in driver.items())
        + f" ms a trial (load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--sleep", type=float, default=0.12)
    parser.add_argument("--each", type=int, default=20)
    given = parser.parse_args()
    if given.slots:
        busy(given.slots, given.sleep, given.each)
    else:
        resnet56(given.evaluations, given.rounds)


if __name__ == "__main__":
    main()
