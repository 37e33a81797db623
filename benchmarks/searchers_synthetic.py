"""Compare the searchers on a made-up problem: no network, no data, a few minutes on one core.

    python benchmarks/searchers_synthetic.py --trials 200 --seeds 3

The problem has the kernels of ResNet-56 and a formula for its accuracy (see
`autoprune.testing.problems`); it says which searcher learns, not what a real network reaches.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from autoprune.searchers import make_searcher, names
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, run_search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searchers", default=",".join(names()), help="comma-separated")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="suggestions at a time")
    parser.add_argument("--blocks", type=int, default=9, help="in each stage; 9 is ResNet-56")
    parser.add_argument("--trunk", action="store_true", help="prune what shortcuts carry too")
    parser.add_argument("--budget", type=float, default=0.5, help="MACs, a share of the dense")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    at = sorted({1, 20, 50, 100, arguments.trials} & set(range(1, arguments.trials + 1)))
    table = Table(title=f"best accuracy (%), mean of {arguments.seeds} seeds")
    for heading in ("searcher", *(f"after {n}" for n in at), "± seeds", "CPU ms / trial"):
        table.add_column(heading, justify="left" if heading == "searcher" else "right")
    for name in arguments.searchers.split(","):
        curves, seconds = [], 0.0
        for seed in range(arguments.seeds):
            problem = SyntheticProblem.resnet(arguments.blocks, trunk=arguments.trunk, seed=seed)
            context = make_context(
                problem,
                budget=problem.budget(arguments.budget),
                trials=arguments.trials,
                seed=seed,
            )
            begun = time.process_time()
            trials = run_search(
                lambda c, name=name: make_searcher(name, c), problem, context, batch=arguments.batch
            )
            seconds += time.process_time() - begun
            curve = best_so_far(trials)
            curves.append(curve + [curve[-1]] * (arguments.trials - len(curve)))
        best = 100 * np.array(curves)
        table.add_row(
            name,
            *(f"{best[:, n - 1].mean():.2f}" for n in at),
            f"{best[:, -1].std():.2f}",
            f"{1000 * seconds / arguments.seeds / arguments.trials:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
