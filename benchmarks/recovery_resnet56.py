"""Fine-tune a pruned CIFAR-10 ResNet with distillation: top-1 on `val` before and after.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/recovery_resnet56.py --run runs/macs --epochs 40

Takes the widths of a finished run (or `--kept`, a JSON file of group → kept units), prunes, refits
every layer on 2,000 training images and recovers on `train`. The weights kept are those of the best
epoch on `val`, as in a search; the last epoch is told too. A run that is killed goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.candidate import Candidate
from autoprune.cost.analytic import AnalyticCost
from autoprune.graph import trace
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.recover import Epoch, recover
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply
from examples import cifar10, resnet_cifar


def kept_units(options: argparse.Namespace) -> Candidate:
    """The widths, of a run or of a file."""
    if options.run is not None:
        data = json.loads((options.run / "result.json").read_text(encoding="utf-8"))
        return Candidate.of({n: k["kept"] for n, k in data["winner"]["kept"].items()})
    return Candidate.of(json.loads(options.kept.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of a finished run")
    source.add_argument("--kept", type=Path, help="JSON file: group → kept units")
    parser.add_argument("--network", default="resnet56", help="of examples/resnet_cifar.py")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--features", type=float, default=0.0, help="weight of the features' match")
    parser.add_argument("--distill", type=float, default=0.7)
    parser.add_argument("--images", type=int, help="training images an epoch; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    normalisation = "resnet56b" if options.network == "resnet56b" else "imagenet"
    dense = getattr(resnet_cifar, options.network)().to(memory_format=torch.channels_last)
    network = trace(dense, resnet_cifar.example_inputs())
    candidate = kept_units(options)
    calibration = cifar10.calibration(2000, 200, normalisation)
    selection = select(network, candidate, ReconstructionImportance(calibration[:2]))
    model = apply(network, selection)
    Reconstructor(network, calibration, scope="all").apply(model, selection)
    rows = network.kernels.workloads([candidate, network.kernels.dense])
    macs, whole = AnalyticCost().predict(rows).mean["macs"]
    print(f"{macs / whole:.3f} x MACs ({whole / macs:.2f} x fewer)", flush=True)
    begun = time.perf_counter()

    def tell(epoch: Epoch) -> None:
        accuracy = 100 * epoch.metrics["accuracy"]
        print(
            f"epoch {epoch.epoch}: {accuracy:.2f} ({time.perf_counter() - begun:.0f} s)", flush=True
        )

    recovery = recover(
        model,
        network.model,
        cifar10.Loader(options.batch, normalisation, count=options.images),
        lambda net: cifar10.evaluate(net, normalisation),
        epochs=options.epochs,
        lr=options.lr,
        distill=options.distill,
        features=options.features,
        checkpoint=options.out,
        on_progress=tell,
    )
    history = [100 * epoch.metrics["accuracy"] for epoch in recovery.history]
    best = 100 * recovery.best.metrics["accuracy"]
    print(
        f"before {history[0]:.2f}, best {best:.2f}, last epoch {history[-1]:.2f}; {recovery.reason}"
    )


if __name__ == "__main__":
    main()
