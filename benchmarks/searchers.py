"""Compare the searchers on a real network: same budget, same evaluations, several seeds.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/searchers.py --trials 100 --out runs/compare

Candidates of a CIFAR-10 ResNet (the width inside each block) are pruned, refitted by least squares
on 400 training images and evaluated on `val`, before any fine-tuning. Every evaluation is noted in
`evaluations-*.jsonl` with the CPU seconds it took, and done only once for all searchers and seeds;
a run that is stopped goes on where it was. Gives a table, and as JSON and PNG the best-so-far
accuracy against evaluations and against seconds, with the band from the worst to the best seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.trial import Trial
from autoprune.cost.analytic import AnalyticCost
from autoprune.graph import trace
from autoprune.pruning.divergence import divergence_losses
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.searchers import SearchContext, Searcher, make_searcher
from autoprune.searchers.local import LocalSearch
from autoprune.space.schema import load_space
from autoprune.study.evaluation import CandidateEvaluator
from autoprune.testing.searchers import best_so_far
from examples import cifar10, resnet_cifar

SEARCHERS = "random,uniform,greedy,exact,evolve,auto,tpe,gp,cmaes,nsga2,amc"


class Problem:
    """A network whose candidates are evaluated once, in this run or an earlier one."""

    def __init__(
        self, name: str, subset: int | None, space: str, notes: Path | None = None
    ) -> None:
        model = getattr(resnet_cifar, name)().to(memory_format=torch.channels_last)
        normalisation = "resnet56b" if name == "resnet56b" else "imagenet"
        self.calibration = cifar10.calibration(400, 200, normalisation)
        self.evaluate = lambda pruned: cifar10.evaluate(pruned, normalisation, subset)
        self.network = trace(model, resnet_cifar.example_inputs())
        self.space = load_space(space).build(self.network)
        self.cost_model = AnalyticCost()
        self.dense_metrics = self.evaluate(model)
        self._evaluator = CandidateEvaluator(
            self.network,
            self.evaluate,
            importance=ReconstructionImportance(self.calibration),
            calibration=self.calibration,
        )
        self._notes = notes
        #: CPU seconds that a sensitivity asked for would have cost, were it not known already.
        self.sensitivity_s = 0.0
        self._known: dict[str, dict[str, Any]] = {}
        if notes is not None and notes.exists():
            lines = notes.read_text(encoding="utf-8").splitlines()
            self._known = {line["key"]: line for line in map(json.loads, lines)}

    @property
    def usual(self) -> str:
        """The sensitivity that a searcher takes where none is asked for."""
        return "divergence"

    def __call__(self, kind: str) -> dict[str, np.ndarray]:
        """What pruning each group alone would lose; computed once, its CPU seconds always count."""
        found = self._known.get(f"sensitivity {kind}")
        if found is None:
            if kind != self.usual:
                raise SystemExit(f"this benchmark has the sensitivity divergence, not {kind}")
            begun = time.process_time()
            choices = {d.group: d.choices for d in self.space.decisions if len(d.choices) > 1}
            losses = divergence_losses(
                self.network, self.calibration, choices, self._evaluator.scores
            )
            found = {
                "key": f"sensitivity {kind}",
                "losses": {name: values.tolist() for name, values in losses.items()},
                "seconds": round(time.process_time() - begun, 3),
            }
            self._note(found)
            self.sensitivity_s = 0.0  # in the caller's own time already
        else:
            self.sensitivity_s = found["seconds"]
        return {name: np.array(values) for name, values in found["losses"].items()}

    def _note(self, found: dict[str, Any]) -> None:
        self._known[found["key"]] = found
        if self._notes is not None:
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")

    def trial(self, number: int, candidate: Candidate) -> tuple[Trial, float]:
        """The trial of a candidate and its CPU seconds."""
        found = self._known.get(candidate.key)
        if found is None:
            begun = time.process_time()
            outcome = self._evaluator(candidate)
            seconds = time.process_time() - begun
            found = {
                "key": candidate.key,
                "kept": dict(candidate),
                "metrics": dict(outcome.metrics),
                "error": outcome.error,
                "seconds": round(seconds, 3),
            }
            self._note(found)
        predicted = self.cost_model.predict(self.network.kernels.workloads([candidate]))[0]
        trial = Trial(number, candidate, predicted, metrics=found["metrics"], error=found["error"])
        return trial, float(found["seconds"])


def search(
    problem: Problem, name: str, macs: float, trials: int, seed: int, local: float | None = None
) -> dict[str, Any]:
    """Run a searcher: the best candidate, and best so far and seconds spent after each trial."""
    dense = problem.cost_model.predict(
        problem.network.kernels.workloads([problem.network.kernels.dense])
    )[0]
    context = SearchContext(
        space=problem.space,
        budget=Budget(macs=f"{macs}x").absolute(dense),
        cost_model=problem.cost_model,
        trials=trials,
        seed=seed,
        dense_metrics=problem.dense_metrics,
        sensitivity=problem,
    )
    problem.sensitivity_s = 0.0
    begun = time.process_time()
    searcher: Searcher
    if local is None:
        searcher = make_searcher(name, context)
    else:
        searcher = LocalSearch(context, partial(make_searcher, name), local)
    own, spent = time.process_time() - begun + problem.sensitivity_s, 0.0
    done: list[Trial] = []
    seconds = []
    while len(done) < trials:
        begun = time.process_time()
        suggested = searcher.suggest(1)
        own += time.process_time() - begun
        if not suggested:
            break
        trial, cost = problem.trial(len(done), suggested[0])
        spent += cost
        begun = time.process_time()
        searcher.update([trial])
        own += time.process_time() - begun
        done.append(trial)
        seconds.append(own + spent)
    return {
        "searcher": name,
        "seed": seed,
        "best": best_so_far(done),
        "seconds": seconds,
        "own_s": own,
        "candidate": max(done, key=lambda trial: trial.score("accuracy")).candidate,
    }


def filled(values: Sequence[float], count: int) -> np.ndarray:
    """A searcher that has nothing left to try stays where it is."""
    return np.array([*values, *[values[-1]] * (count - len(values))])


def picture(runs: Sequence[dict[str, Any]], trials: int, title: str, path: Path) -> None:
    """Best so far against evaluations, and against seconds."""
    figure = Figure(figsize=(11.0, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys(run["searcher"] for run in runs))
    styles = ("-", "--", ":", "-.")
    finals = []
    for index, name in enumerate(names):
        mine = [run for run in runs if run["searcher"] == name]
        best = 100 * np.stack([filled(run["best"], trials) for run in mine])
        seconds = np.stack([filled(run["seconds"], trials) for run in mine]).mean(0)
        look = {"color": f"C{index % 10}", "linestyle": styles[index // 10], "linewidth": 1.6}
        left.plot(np.arange(1, trials + 1), best.mean(0), label=name, **look)
        left.fill_between(
            np.arange(1, trials + 1), best.min(0), best.max(0), color=look["color"], alpha=0.12
        )
        right.plot(seconds, best.mean(0), **look)
        finals.append(best.mean(0))
    low = float(np.median([curve[min(4, trials - 1)] for curve in finals])) - 1.0
    left.set_ylim(bottom=max(low, float(min(c[-1] for c in finals)) - 6.0))
    left.set_xlabel("evaluations")
    left.set_ylabel("best top-1 so far, mean of seeds (%)")
    right.set_xlabel("CPU seconds, searcher and evaluations")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, ncols=2, loc="lower right", frameon=False)
    done = sum(run["searcher"] == names[-1] for run in runs)
    figure.suptitle(f"{title}, {done} seed{'s' * (done > 1)}", fontsize=11)
    figure.savefig(path)


def table(runs: Sequence[dict[str, Any]], trials: int, title: str) -> Table:
    """One line for each searcher, the best first."""
    at = sorted({1, 10, 20, 50, 100, 200, trials} & set(range(1, trials + 1)))
    seeds = len({run["seed"] for run in runs})
    result = Table(title=f"{title}, {seeds} seed{'s' * (seeds > 1)}")
    for heading in ("searcher", *(f"after {n}" for n in at), "worst seed", "own s / trial"):
        result.add_column(heading, justify="left" if heading == "searcher" else "right")
    rows = []
    for name in dict.fromkeys(run["searcher"] for run in runs):
        mine = [run for run in runs if run["searcher"] == name]
        best = 100 * np.stack([filled(run["best"], trials) for run in mine])
        own = np.mean([run["own_s"] / max(len(run["best"]), 1) for run in mine])
        cells = [name, *(f"{best[:, n - 1].mean():.2f}" for n in at)]
        rows.append((best[:, -1].mean(), [*cells, f"{best[:, -1].min():.2f}", f"{own:.3f}"]))
    for _, cells in sorted(rows, key=lambda row: -row[0]):
        result.add_row(*cells)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56", help="of examples/resnet_cifar.py")
    parser.add_argument("--searchers", default=SEARCHERS, help="comma-separated")
    parser.add_argument("--macs", type=float, default=0.5, help="budget, a share of the dense")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--space", default="resnet-inner", help="of search_spaces/, or a file")
    parser.add_argument("--local-search", type=float, help="share of the trials, at the end")
    parser.add_argument("--subset", type=int, help="images of `val`; all 5,000 by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/searchers"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    about = f"{options.network}-{options.subset or 'all'}"
    problem = Problem(
        options.network, options.subset, options.space, options.out / f"evaluations-{about}.jsonl"
    )
    accuracy = 100 * problem.dense_metrics["accuracy"]
    title = (
        f"{options.network} at {options.macs:g} x MACs, before fine-tuning (dense {accuracy:.2f} %)"
    )
    runs = []
    for seed in range(options.seeds):
        for name in options.searchers.split(","):
            run = search(problem, name, options.macs, options.trials, seed, options.local_search)
            runs.append(run)
            print(f"{name} seed {seed}: {100 * run['best'][-1]:.2f}", flush=True)
            (options.out / f"{about}.json").write_text(
                json.dumps(runs, default=dict), encoding="utf-8"
            )
            picture(runs, options.trials, title, options.out / f"{about}.png")
    Console(width=120).print(table(runs, options.trials, title))


if __name__ == "__main__":
    main()
