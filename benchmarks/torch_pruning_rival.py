"""Torch-Pruning's pruners beside autoprune, at the same MACs, on the same network and data.

    pip install torch-pruning==1.6.1
    AUTOPRUNE_SHARED_DATA=... python benchmarks/torch_pruning_rival.py --macs 0.5 [--epochs 2]

Torch-Pruning prunes globally by group L2 norm, LAMP and BatchNorm scale until the MACs are held.
For each: top-1 on `val` as cut, after BatchNorm recalibration, and of the same widths in
autoprune's pipeline (its choice of channels, least squares on 400 training images). The last line
is autoprune's own search with so many evaluations. With `--epochs`, each is fine-tuned likewise:
Torch-Pruning's networks as they were cut, autoprune's as its winners are refitted (2,000 images).
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
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.recalibrate import recalibrate
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.recover import recover
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply
from benchmarks.searchers import Problem, search
from examples import cifar10


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


def refitted(problem: Problem, candidate: Candidate, normalisation: str) -> nn.Module:
    """A candidate's network as autoprune ships it, before fine-tuning."""
    calibration = cifar10.calibration(2000, 200, normalisation)
    network = problem.network
    selection = select(network, candidate, ReconstructionImportance(calibration[:2]))
    pruned = apply(network, selection)
    Reconstructor(network, calibration, scope="all").apply(pruned, selection)
    return pruned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56b", help="of examples/resnet_cifar.py")
    parser.add_argument("--macs", type=float, default=0.5, help="budget, a share of the dense")
    parser.add_argument("--pruners", default="group L2,LAMP,BatchNorm scale", help="of its own")
    parser.add_argument("--trials", type=int, default=30, help="evaluations of autoprune's search")
    parser.add_argument("--searcher", default="auto")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning, with distillation")
    parser.add_argument("--images", type=int, help="training images an epoch; all by default")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem = Problem(options.network, None, "fine")
    normalisation = "resnet56b" if options.network == "resnet56b" else "imagenet"
    counted = problem.network.kernels

    def macs(candidate: Candidate) -> float:
        rows = counted.workloads([candidate, counted.dense])
        own, dense = problem.cost_model.predict(rows).mean["macs"]
        return float(own / dense)

    def tuned(pruned: nn.Module) -> str:
        if not options.epochs:
            return ""
        batches = cifar10.Loader(128, normalisation, count=options.images)
        teacher = problem.network.model
        found = recover(pruned, teacher, batches, problem.evaluate, epochs=options.epochs)
        history = [f"{100 * epoch.metrics['accuracy']:.2f}" for epoch in found.history]
        print(" → ".join(history), flush=True)
        return history[-1]

    table = Table(
        title=f"{options.network}, at most {options.macs:g} x MACs, top-1 on val "
        f"(dense {100 * problem.dense_metrics['accuracy']:.2f} %)"
    )
    headings = ["", "MACs", "as cut", "BatchNorm recalibrated", "in autoprune's pipeline"]
    for heading in (*headings, f"fine-tuned, {options.epochs} epochs"):
        table.add_column(heading, justify="right" if heading else "left")
    for importance in filter(None, options.pruners.split(",")):
        pruned = as_torch_pruning_cuts(problem.network.model, importance, options.macs)
        cut = problem.evaluate(pruned)
        after = tuned(copy.deepcopy(pruned))
        candidate = widths(problem.network, pruned)
        recalibrate(pruned, problem.calibration)
        again = problem.evaluate(pruned)
        ours, _ = problem.trial(0, candidate)
        shares = [f"{100 * a['accuracy']:.2f}" for a in (cut, again, ours.metrics)]
        table.add_row(f"Torch-Pruning, {importance}", f"{macs(candidate):.3f}", *shares, after)
    run = search(problem, options.searcher, options.macs, options.trials, seed=0)
    table.add_row(
        f"autoprune, {options.searcher}, {len(run['best'])} evaluations",
        f"{macs(run['candidate']):.3f}",
        "",
        "",
        f"{100 * run['best'][-1]:.2f}",
        tuned(refitted(problem, run["candidate"], normalisation)) if options.epochs else "",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
