"""What autoprune itself takes of an evaluation, beside the bare forward passes.

    AUTOPRUNE_SHARED_DATA=... python benchmarks/overhead.py

One evaluation of a ResNet-56 candidate is: select units, slice the weights, refit layers by least
squares (which runs the network on the calibration images), evaluate on the 5,000 images of `val`.
Bare forward passes are those of the pruned network on the calibration images and on `val`;
everything else is overhead. Process time, so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoprune.graph import trace
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply
from benchmarks.reconstruction_resnet56 import by_stage
from examples import cifar10
from examples.resnet_cifar import example_inputs, resnet56


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stages", type=int, nargs=3, default=[4, 16, 48])
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = trace(resnet56().to(memory_format=torch.channels_last), example_inputs())
    batches = cifar10.calibration()
    importance = ReconstructionImportance(batches)
    importance.scores(network)
    reconstructor = Reconstructor(network, batches)
    candidate = by_stage(network, tuple(options.stages))
    best: dict[str, float] = {}

    def take(name: str, start: float) -> None:
        best[name] = min(best.get(name, float("inf")), time.process_time() - start)

    for _ in range(options.repeats):
        start = time.process_time()
        selection = select(network, candidate, importance)
        model = apply(network, selection)
        take("select and slice", start)
        start = time.process_time()
        reconstructor.apply(model, selection)
        take("reconstruct", start)
        start = time.process_time()
        with torch.inference_mode():
            for batch in batches:
                model(batch)
        take("forward, calibration", start)
        start = time.process_time()
        cifar10.evaluate(model)
        take("forward, val", start)
    for name, seconds in best.items():
        print(f"{name:22} {seconds:6.2f} s")
    forward = best["forward, calibration"] + best["forward, val"]
    own = best["select and slice"] + best["reconstruct"] - best["forward, calibration"]
    print(f"overhead over bare forward passes: {100 * own / forward:.1f} %")
    only = best["select and slice"] + best["reconstruct"]
    print(
        f"(counting the calibration's forward pass too: {100 * only / best['forward, val']:.1f} %)"
    )


if __name__ == "__main__":
    main()
