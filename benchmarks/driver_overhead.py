"""The driver's own time for a trial when many are finished: suggest, predict, tell, store.

    python benchmarks/driver_overhead.py [--trials 10000] [--searchers tpe amc random] [--at 20]

Evaluations take no time here, so what is left is what a cluster waits for. The searcher is told
of `--trials` finished trials, the store is filled with as many, then `--at` trials go through the
real loop. The resume reads the whole journal, goes the search's way again and suggests the first
new candidate; it is timed at `--resume` trials, which the searcher itself suggested.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autoprune.core.trial import Trial
from autoprune.evaluate import LocalPool, Outcome
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

#: Trials that go through the loop before it is timed: past the searchers' first designs.
BEFORE = 20
PROBLEM = SyntheticProblem.resnet()
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


def make_loop(searcher: str, store: Store, trials: int) -> Loop:
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), trials=trials
    )
    return Loop(
        make_searcher(searcher, context),
        context.cost_model,
        LocalPool(lambda candidate: Outcome(PROBLEM.evaluate(candidate))),
        store,
        objective="accuracy",
        max_failures=3,
        progress=Progress(),
        phases=Phases(),
    )


def made_up(count: int) -> list[Trial]:
    """Finished trials around the uniform candidate, each once."""
    rng = np.random.default_rng(0)
    space = SearchSpace.from_network(PROBLEM)
    cost = ShapeCost()
    found = []
    for number in range(count):
        kept = np.clip(space.units * rng.uniform(0.4, 0.9, len(space)), 1, None)
        candidate = space.candidate(space.nearest(kept))
        predicted = cost.predict(PROBLEM.kernels.workloads([candidate]))[0]
        found.append(Trial(number, candidate, predicted, metrics=PROBLEM.evaluate(candidate)))
    return found


def per_trial(searcher: str, finished: list[Trial], folder: Path, at: int) -> dict[str, float]:
    """Seconds of a trial by phase, after so many are finished."""
    store = Store(None if not finished else folder / f"{searcher}.log", "run", UNITS)
    loop = make_loop(searcher, store, len(finished) + BEFORE + at)
    for trial in finished:
        loop._store.add(trial, "accuracy")
        loop.trials.append(trial)
        loop._next += 1
    for start in range(0, len(finished), 100):
        loop._searcher.update(finished[start : start + 100])
    loop.run(len(finished) + BEFORE)
    loop._phases.seconds.clear()
    begin = time.perf_counter()
    loop.run(len(finished) + BEFORE + at)
    total = (time.perf_counter() - begin) / at
    return {"total": total, **{n: s / at for n, s in loop._phases.seconds.items()}}


def resume(searcher: str, trials: int, folder: Path) -> tuple[float, float]:
    """Seconds until the first new candidate: of opening the journal, and in all."""
    path = folder / f"resume-{searcher}.log"
    make_loop(searcher, Store(path, "run", UNITS), trials).run(trials)
    begin = time.perf_counter()
    store = Store(path, "run", UNITS)
    store.trials()
    opened = time.perf_counter() - begin
    loop = make_loop(searcher, store, trials)
    loop.run(trials)
    loop._searcher.suggest(1)
    return opened, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--searchers", nargs="+", default=["random", "amc", "tpe"])
    parser.add_argument("--at", type=int, default=20)
    parser.add_argument("--resume", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    finished = made_up(given.trials)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for searcher in given.searchers:
            for count in (0, given.trials // 10, given.trials):
                begin = time.perf_counter()
                phases = per_trial(searcher, finished[:count], folder, given.at)
                (folder / f"{searcher}.log").unlink(missing_ok=True)
                shown = ", ".join(f"{n} {1e3 * s:.1f}" for n, s in phases.items())
                print(f"{searcher:8} {count:6} finished: {shown} ms a trial", flush=True)
                print(f"    (filled and timed in {time.perf_counter() - begin:.0f} s)", flush=True)
            if given.resume:
                opened, total = resume(searcher, given.resume, folder)
                print(
                    f"{searcher:8} resume of {given.resume}: journal {opened:.2f} s, first new "
                    f"candidate after {total:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
