"""What moving biases and statistics gains, beside and instead of least squares: top-1 on `val`.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/bias_correction.py --network vit --weights FILE

The same share of every group's units is kept, by L1 norm. Networks: ResNets (biases in the last
layer alone, BatchNorm everywhere else), and a small vision transformer (LayerNorm, a bias in every
layer) that is trained first, unless `--weights` has it already. "scope" is `Reconstructor`'s;
"biases kept" is the same without the correction of layers that are not refitted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.core.candidate import Candidate
from autoprune.graph import Network, trace
from autoprune.pruning.recalibrate import recalibrate
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply
from benchmarks.networks import VisionTransformer
from examples import cifar10, resnet_cifar


def trained(weights: Path | None, minutes: float) -> nn.Module:
    """A vision transformer (width 64, 4 blocks) trained on `train` for so long, or read."""
    torch.manual_seed(0)
    model = VisionTransformer(width=64, depth=4, heads=4, hidden=256)
    if weights is not None and weights.exists():
        model.load_state_dict(load_file(weights))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    loader, start, done = cifar10.Loader(batch=64), time.monotonic(), 0.0
    while done < 1:
        for x, y in loader:
            done = (time.monotonic() - start) / (60 * minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, 20 * done + 0.01) * (1 - done)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    if weights is not None:
        save_file(model.state_dict(), weights)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20", help="vit, or of examples/resnet_cifar.py")
    parser.add_argument("--weights", type=Path, help="file of the trained transformer")
    parser.add_argument("--minutes", type=float, default=8, help="that it is trained for")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--only", default="", help="groups whose name has this in it")
    parser.add_argument("--images", type=int, default=400, help="calibration images")
    parser.add_argument("--subset", type=int, default=5000, help="images of `val`")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the calibration images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.network == "vit":
        model = trained(options.weights, options.minutes)
    else:
        model = getattr(resnet_cifar, options.network)().to(memory_format=torch.channels_last)
    network = trace(model, resnet_cifar.example_inputs())

    def top1(pruned: nn.Module) -> float:
        return 100 * cifar10.evaluate(pruned, subset=options.subset)["accuracy"]

    print(f"dense {top1(model):.2f}", flush=True)
    for keep in options.keep:
        candidate = Candidate.of(
            {
                g.name: max(1, round(keep * g.units)) if options.only in g.name else g.units
                for g in network.groups
            }
        )
        compare(network, candidate, keep, options, top1)


def compare(network: Network, candidate: Candidate, keep: float, options, top1) -> None:
    selection = select(network, candidate, "l1")
    found: dict[str, list[float]] = {"as cut": [top1(apply(network, selection))]}
    for seed in range(options.seeds):
        batches = cifar10.calibration(options.images, seed=seed)
        pruned = apply(network, selection)
        if recalibrate(pruned, batches):
            found.setdefault("BatchNorm recalibrated", []).append(top1(pruned))
        for scope in ("bias", "consuming", "all"):
            reconstructor = Reconstructor(network, batches, scope=scope)
            pruned = apply(network, selection)
            reconstructor.apply(pruned, selection)
            found.setdefault(f"scope {scope}", []).append(top1(pruned))
            reconstructor.means.clear()
            pruned = apply(network, selection)
            reconstructor.apply(pruned, selection)
            found.setdefault(f"scope {scope}, biases kept", []).append(top1(pruned))
    for name, values in found.items():
        each = " ".join(f"{value:.2f}" for value in values)
        print(f"keep {keep:g}  {name:28} {sum(values) / len(values):6.2f}  ({each})", flush=True)


if __name__ == "__main__":
    main()
