"""What an agent that was trained before is worth: evaluations to reach the cold agent's level.

    python benchmarks/amc_warm_start.py [--trials 60] [--seeds 3]

AMC searches a made-up network (`autoprune.testing.problems`) under a budget; then its agent
begins a search of another one: under a tighter budget of the same network, and of another network
with other sensitivities and more layers. Beside each stands a search that begins cold. Told is the
best accuracy of both after some trials, and after how many the warm one is at the level that the
cold one reaches with half and with all of its trials.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from autoprune.searchers.amc.searcher import AmcSearcher
from autoprune.searchers.checkpoint import save_state
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, run_search


def curve(
    problem: SyntheticProblem,
    budget: float,
    trials: int,
    seed: int,
    options: dict[str, object],
    keep: Path | None = None,
) -> list[float]:
    """Best accuracy in % after each trial; the agent is kept in a file if asked for."""
    context = make_context(problem, budget=problem.budget(budget), trials=trials, seed=seed)
    searcher = AmcSearcher(context, **options)  # type: ignore[arg-type]
    found = [100 * a for a in best_so_far(run_search(lambda _: searcher, problem, context))]
    if keep is not None:
        save_state(keep, searcher.state())
    return found


def reached(found: list[float], level: float) -> int | None:
    """After how many trials a level was reached."""
    return next((n for n, best in enumerate(found, start=1) if best >= level), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--before", type=int, default=100, help="trials of the first search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--elite", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = {"hidden": given.hidden, "elite": given.elite}
    half = given.trials // 2
    curves: dict[str, list[tuple[list[float], list[float]]]] = {"budget": [], "network": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            first = SyntheticProblem.resnet(blocks=5, seed=seed)
            kept = Path(folder) / f"{seed}.safetensors"
            curve(first, 0.5, given.before, seed, options, kept)
            for name, problem in (
                ("budget", first),
                ("network", SyntheticProblem.resnet(blocks=7, seed=seed + 100)),
            ):
                cold = curve(problem, 0.35, given.trials, seed, options)
                warm = curve(
                    problem, 0.35, given.trials, seed, {**options, "warm_start": str(kept)}
                )
                curves[name].append((cold, warm))
                levels = [reached(warm, cold[n - 1]) for n in (half, given.trials)]
                print(
                    f"another {name}, seed {seed}: after {half} trials cold {cold[half - 1]:.2f}, "
                    f"warm {warm[half - 1]:.2f}; after {given.trials} cold {cold[-1]:.2f}, warm "
                    f"{warm[-1]:.2f}; the cold one's levels after {levels[0]} and {levels[1]} "
                    "trials",
                    flush=True,
                )
    for name, pairs in curves.items():
        for n in (5, half, given.trials):
            cold, warm = (np.mean([pair[side][n - 1] for pair in pairs]) for side in (0, 1))
            print(f"another {name}, mean after {n} trials: cold {cold:.2f}, warm {warm:.2f}")


if __name__ == "__main__":
    main()
