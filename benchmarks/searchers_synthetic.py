"""Compare the searchers on a made-up problem: no network, no data, a few minutes on one core.

    python benchmarks/searchers_synthetic.py --trials 200 --seeds 3

The problem has the kernels of ResNet-56 and a formula for its accuracy (see
`autoprune.testing.problems`); it says which searcher learns, not what a real network reaches.

With `--front` the searchers look for a Pareto front of accuracy against MACs instead, and what is
compared is its hypervolume: 1 would be the dense network's accuracy at no MACs, and a network that
guesses counts nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from autoprune.core.objectives import losses, parse_objectives
from autoprune.core.pareto import hypervolume
from autoprune.searchers import SearchContext, Searcher, make_searcher, names
from autoprune.searchers.local import LocalSearch
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, run_search

#: Searchers that are compared on fronts.
FRONTS = ("evolve", "random", "tpe", "nsga2", "nsga3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searchers", default=",".join(names()), help="comma-separated")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="suggestions at a time")
    parser.add_argument("--blocks", type=int, default=9, help="in each stage; 9 is ResNet-56")
    parser.add_argument("--trunk", action="store_true", help="prune what shortcuts carry too")
    parser.add_argument("--budget", type=float, default=0.5, help="MACs, a share of the dense")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, of every searcher")
    parser.add_argument("--local-search", type=float, help="share of the trials, at the end")
    parser.add_argument("--front", action="store_true", help="compare Pareto fronts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.front:
        compare_fronts(arguments)
        return

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
                lambda c, name=name: made(name, c, arguments),
                problem,
                context,
                batch=arguments.batch,
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


def made(name: str, context: SearchContext, arguments: argparse.Namespace) -> Searcher:
    """A searcher, with local search at the end where that is asked for."""
    if arguments.local_search is None:
        return make_searcher(name, context, **arguments.options)
    make = partial(make_searcher, name, **arguments.options)
    return LocalSearch(context, make, arguments.local_search)


def compare_fronts(arguments: argparse.Namespace) -> None:
    """The hypervolume of each searcher's front, seed by seed."""
    names_given = arguments.searchers != ",".join(names())
    chosen = arguments.searchers.split(",") if names_given else FRONTS
    table = Table(title=f"hypervolume after {arguments.trials} trials")
    for heading in ("searcher", *(f"seed {s}" for s in range(arguments.seeds)), "mean"):
        table.add_column(heading, justify="left" if heading == "searcher" else "right")
    for name in chosen:
        found = [front_volume(name, seed, arguments) for seed in range(arguments.seeds)]
        table.add_row(name, *(f"{v:.4f}" for v in found), f"{np.mean(found):.4f}")
    Console().print(table)


def front_volume(name: str, seed: int, arguments: argparse.Namespace) -> float:
    problem = SyntheticProblem.resnet(arguments.blocks, trunk=arguments.trunk, seed=seed)
    objectives = parse_objectives(["accuracy", "macs"])
    context = replace(
        make_context(problem, budget=problem.budget(1.0), trials=arguments.trials, seed=seed),
        objectives=objectives,
    )
    trials = run_search(lambda c: make_searcher(name, c), problem, context, batch=arguments.batch)
    points = losses(objectives, trials)
    points[:, 0] = (0.93 + points[:, 0]) / 0.83
    points[:, 1] /= float(context.budget.limits["macs"].value)
    return hypervolume(points, np.ones(2))


if __name__ == "__main__":
    main()
