"""Torch-Pruning's pruners beside autoprune, at the same MACs, on the same network and data.

    pip install torch-pruning==1.6.1
    AUTOPRUNE_SHARED_DATA=... python benchmarks/torch_pruning_rival.py --macs 0.5

Torch-Pruning prunes globally by group L2 norm, LAMP and BatchNorm scale until the MACs are held.
For each: top-1 on `val` as cut, after BatchNorm recalibration, and of the same widths in
autoprune's pipeline (its choice of channels, least squares on 400 training images). The last line
is autoprune's own search with so many evaluations. No fine-tuning anywhere.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.candidate import Candidate
from autoprune.graph import Network
from autoprune.pruning.recalibrate import recalibrate
from benchmarks.searchers import Problem, search


def as_torch_pruning_cuts(model: nn.Module, importance: str, macs: float) -> nn.Module:
    """A copy pruned by Torch-Pruning, globally, in small steps until the MACs are held."""
    import torch_pruning as tp

    pruned = copy.deepcopy(model).eval()
    example = torch.zeros(1, 3, 32, 32)
    head = pruned.get_submodule(str(pruned.head))
    dense, _ = tp.utils.count_ops_and_params(pruned, example)
    pruner = tp.pruner.BasePruner(
        pruned,
        example,
        importance={
            "group L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
            "LAMP": lambda: tp.importance.LAMPImportance(),
            "BatchNorm scale": lambda: tp.importance.BNScaleImportance(),
        }[importance](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=400,
        ignored_layers=[head],
    )
    for _ in range(400):
        pruner.step()
        now, _ = tp.utils.count_ops_and_params(pruned, example)
        if now <= macs * dense:
            return pruned
    raise SystemExit(f"Torch-Pruning with {importance} did not come down to {macs:g} x MACs")


def widths(network: Network, pruned: nn.Module) -> Candidate:
    """The candidate that keeps as many units of each group as a pruned network has."""
    kept = {g.name: int(pruned.get_submodule(g.name).weight.shape[0]) for g in network.groups}
    return Candidate.of(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56b", help="of examples/resnet_cifar.py")
    parser.add_argument("--macs", type=float, default=0.5, help="budget, a share of the dense")
    parser.add_argument("--trials", type=int, default=30, help="evaluations of autoprune's search")
    parser.add_argument("--searcher", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = Problem(options.network, None, "fine")
    counted = problem.network.kernels

    def macs(candidate: Candidate) -> float:
        rows = counted.workloads([candidate, counted.dense])
        own, dense = problem.cost_model.predict(rows).mean["macs"]
        return float(own / dense)

    table = Table(
        title=f"{options.network}, at most {options.macs:g} x MACs, top-1 on val before "
        f"fine-tuning (dense {100 * problem.dense_metrics['accuracy']:.2f} %)"
    )
    for heading in ("", "MACs", "as cut", "BatchNorm recalibrated", "in autoprune's pipeline"):
        table.add_column(heading, justify="right" if heading else "left")
    for importance in ("group L2", "LAMP", "BatchNorm scale"):
        pruned = as_torch_pruning_cuts(problem.network.model, importance, options.macs)
        cut = problem.evaluate(pruned)
        candidate = widths(problem.network, pruned)
        recalibrate(pruned, problem.calibration)
        again = problem.evaluate(pruned)
        ours, _ = problem.trial(0, candidate)
        shares = [f"{100 * a['accuracy']:.2f}" for a in (cut, again, ours.metrics)]
        table.add_row(f"Torch-Pruning, {importance}", f"{macs(candidate):.3f}", *shares)
    run = search(problem, options.searcher, options.macs, options.trials, seed=0)
    table.add_row(
        f"autoprune, {options.searcher}, {len(run['best'])} evaluations",
        f"{macs(run['candidate']):.3f}",
        "",
        "",
        f"{100 * run['best'][-1]:.2f}",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
