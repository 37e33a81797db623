"""The driver's own time for a trial when many are finished: suggest, predict, tell, store.

    python benchmarks/driver_overhead.py [--trials 10000] [--searchers tpe amc random] [--at 20]

Evaluations take no time here, so what is left is what a cluster waits for. The store is filled
with `--trials` finished trials, the searcher is told of them (AMC without its gradient steps), then
`--at` trials go through the real loop. The resume reads the whole journal, tells a new searcher of
it (AMC begins with its last checkpoint), asks again for the last trial and suggests the first new
candidate. Times are told on the wall, and of the processor, which is what counts where the machine
is shared.
"""

from __future__ import annotations

import argparse
import shutil
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
from autoprune.study.checkpoints import Checkpoints
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

#: Trials that go through the loop before it is timed: past the searchers' first designs.
BEFORE = 20
PROBLEM = SyntheticProblem.resnet()
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


def make_loop(
    searcher: str, store: Store, trials: int, path: Path | None = None, kind: type[Loop] = Loop
) -> Loop:
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), trials=trials
    )
    return kind(
        make_searcher(searcher, context),
        context.cost_model,
        LocalPool(lambda candidate: Outcome(PROBLEM.evaluate(candidate))),
        store,
        objective="accuracy",
        max_failures=3,
        progress=Progress(),
        phases=Phases(),
        checkpoints=None if path is None else Checkpoints(path, "accuracy"),
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


def fill(store: Store, finished: list[Trial]) -> None:
    """Store trials as a run of one worker does."""
    for trial in finished:
        store.add(trial, "accuracy", asked=trial.number)


def measure(
    searcher: str, journal: Path | None, finished: list[Trial], folder: Path, at: int
) -> None:
    """Print the seconds of a trial by phase after so many are finished, and of a resume."""
    count = len(finished)
    total = count + BEFORE + at
    path = folder / f"{searcher}.safetensors"
    used = None
    if journal is not None:
        used = folder / f"{searcher}.log"
        shutil.copyfile(journal, used)
    loop = make_loop(searcher, Store(used, "run", UNITS), total, path)
    loop._fast_forward(count)
    if loop._searcher.replays:  # told of all, where the loop would ask it all again
        loop._fast_forward = lambda total: None  # type: ignore[method-assign]
        loop._replay.clear()
        for trial in finished:
            loop._keep(trial)
        loop._searcher.update(finished)
        loop._next = count
    agent = getattr(loop._searcher, "agent", None)
    if agent is not None:  # minutes of gradient steps that change no time
        learn, agent.learn = agent.learn, lambda steps, seed: None
        loop._fast_forward(count + 1)
        loop._catch_up()
        agent.learn = learn
    loop.run(count + BEFORE)
    loop._phases.seconds.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run(total)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    shown = ", ".join(f"{n} {1e3 * s / at:.1f}" for n, s in loop._phases.seconds.items())
    print(
        f"{searcher:8} {count:6} finished: {1e3 * wall / at:.1f} ms a trial ({shown}), processor "
        f"{1e3 * cpu / at:.1f} ms",
        flush=True,
    )
    if used is None or loop._searcher.replays:
        return
    # One checkpoint as a search of many trials has it, a little before its end.
    state = loop._searcher.state()
    if state is not None:
        loop._checkpoints._every = 1  # type: ignore[union-attr]
        loop._checkpoints.after(loop._searcher, loop.trials)  # type: ignore[union-attr]
        loop.run(total + 25)
        loop._checkpoints._every = 10**9  # type: ignore[union-attr]
    del loop
    wall, cpu = time.perf_counter(), time.process_time()
    store = Store(used, "run", UNITS)
    opened, opened_cpu = time.perf_counter() - wall, time.process_time() - cpu
    again = make_loop(searcher, store, total, path)
    again.run(len(again._replay) + 1)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{searcher:8} {count:6} finished: resume, the first new trial after {wall:.2f} s, "
        f"processor {cpu:.2f} s (of which the journal {opened:.2f} s and {opened_cpu:.2f} s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--searchers", nargs="+", default=["random", "evolve", "tpe", "amc"])
    parser.add_argument("--at", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    finished = made_up(given.trials)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (0, given.trials // 10, given.trials):
            journal = folder / f"{count}.log" if count else None
            if journal is not None:
                fill(Store(journal, "run", UNITS), finished[:count])
            for searcher in given.searchers:
                measure(searcher, journal, finished[:count], folder, given.at)


if __name__ == "__main__":
    main()
