"""Top-1 of pruned ResNet-56 on `val`: as cut, BatchNorm recalibrated, reconstructed.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/reconstruction_resnet56.py

Inner channels are kept by stage, one line for each choice. "all" is `Reconstructor(scope="all")`
on 2,000 images: what a winner is given at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.candidate import Candidate
from autoprune.cost.analytic import AnalyticCost
from autoprune.graph import Network, trace
from autoprune.pruning.importance import Importance
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.recalibrate import recalibrate
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply
from examples import cifar10
from examples.resnet_cifar import example_inputs, resnet56

STAGES = ((8, 16, 48), (6, 14, 48), (4, 16, 48), (6, 14, 42), (8, 16, 32), (8, 16, 31))


def by_stage(network: Network, kept: tuple[int, int, int]) -> Candidate:
    """Keep so many inner channels in the blocks of each stage, and the shortcuts whole."""
    return Candidate.of(
        {
            group.name: kept[int(group.name[5]) - 1]
            if group.name.startswith("layer") and group.name.endswith("conv1")
            else group.units
            for group in network.groups
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=400, help="calibration images")
    parser.add_argument("--thorough", action="store_true", help='"all" on 2,000 images too')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = trace(resnet56().to(memory_format=torch.channels_last), example_inputs())
    batches = cifar10.calibration(options.images)
    reconstructors = {"reconstructed": Reconstructor(network, batches)}
    if options.thorough:
        many = cifar10.calibration(2000)
        reconstructors["all"] = Reconstructor(network, many, scope="all")
    importances: dict[str, str | Importance] = {
        "l1": "l1",
        "obs": ReconstructionImportance(batches),
    }
    macs = AnalyticCost()
    dense = macs.predict(network.workload(network.dense)).mean["macs"][0]
    print(f"dense {100 * cifar10.evaluate(network.model)['accuracy']:.2f}", flush=True)
    for stages in STAGES:
        candidate = by_stage(network, stages)
        ratio = macs.predict(network.workload(candidate)).mean["macs"][0] / dense
        for name, importance in importances.items():
            selection = select(network, candidate, importance)
            model = apply(network, selection)
            line = [f"cut {_top1(model)}"]
            recalibrate(model, batches)
            line.append(f"recalibrated {_top1(model)}")
            for kind, reconstructor in reconstructors.items():
                model = apply(network, selection)
                start = time.process_time()
                reconstructor.apply(model, selection)
                seconds = time.process_time() - start
                line.append(f"{kind} {_top1(model)} ({seconds:.1f} s)")
            kept = ",".join(map(str, stages))
            print(f"{kept:8} {ratio:.3f} MACs  {name:3}  " + "  ".join(line), flush=True)


def _top1(model: torch.nn.Module) -> str:
    return f"{100 * cifar10.evaluate(model)['accuracy']:.2f}"


if __name__ == "__main__":
    main()
