"""How far repeats of a measured latency ratio differ on this machine, now.

Measures ResNet-56 against the same candidates several times, each repeat with new sessions, and
prints the differences between repeats: |a / b - 1| for every pair of repeats of every candidate.

    AUTOPRUNE_SHARED_DATA=../shared/data python benchmarks/measuring_repeatability.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from autoprune.core.device import MeasuringProtocol
from autoprune.export import OnnxSlicer, artifacts
from autoprune.graph import Selection, trace
from autoprune.graph.network import Network
from autoprune.profile import make_profiler
from autoprune.pruning.surgery import apply

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

#: Inner channels of the three stages; None keeps all.
STAGES = [(8, 16, 48), (6, 14, 48), (4, 16, 48), (6, 14, 42), (8, 16, 32), (2, 16, 16), (2, 2, 2)]


def select(network: Network, inner: tuple[int, int, int]) -> Selection:
    """Keep so many of the channels between the two convolutions of each block, by stage."""
    selection = {}
    for group in network.groups:
        mask = np.ones(group.units, dtype=bool)
        if group.name.endswith(".conv1"):
            mask[inner[int(group.name[5]) - 1] :] = False
        selection[group.name] = mask
    return selection


def repeatability(batch: int, repeats: int, width: float, device: str) -> None:
    import resnet_cifar

    torch.manual_seed(0)
    pretrained = "AUTOPRUNE_SHARED_DATA" in os.environ
    model = resnet_cifar.resnet56(pretrained=pretrained).eval()
    network = trace(model, resnet_cifar.example_inputs(batch))
    start = time.perf_counter()
    slicer = OnnxSlicer(network, apply)
    ready = time.perf_counter() - start
    selections = [select(network, inner) for inner in STAGES]
    start = time.perf_counter()
    for selection in selections:
        slicer.slice(selection)
    slice_ms = (time.perf_counter() - start) / len(selections) * 1e3
    keys = [",".join(map(str, inner)) for inner in STAGES]
    measured = artifacts(slicer, selections, keys)
    profiler = make_profiler(device)
    ratios, widths, inside, seconds = [], [], [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        results = profiler.measure(measured, MeasuringProtocol(width=width, seed=repeat))
        seconds.append(time.perf_counter() - start)
        for result in results:
            if not result.ok:
                sys.exit(f"{result.key}: {result.error}")
        ratios.append([result.ratio for result in results[1:]])
        widths += [(r.ratio_interval[1] / r.ratio_interval[0] - 1) / 2 for r in results[1:]]
        inside.append([r.ratio_interval for r in results[1:]])
        print(f"  repeat {repeat + 1}: dense {results[0].latency_ms:.2f} ms, "
              + ", ".join(f"{r.ratio:.3f}" for r in results[1:]))  # fmt: skip
    table = np.array(ratios)
    pairs = np.array([np.abs(a / b - 1) for a, b in itertools.combinations(table, 2)])
    mean = table.mean(axis=0)
    held = np.mean(
        [low <= m <= high for row in inside for m, (low, high) in zip(mean, row, strict=True)]
    )
    print(
        f"batch {batch}: difference between repeats: median {100 * np.median(pairs):.2f} %, "
        f"90 % {100 * np.quantile(pairs, 0.9):.2f} %, worst {100 * pairs.max():.2f} %\n"
        f"  half width of the intervals: median {100 * np.median(widths):.2f} %; they hold the "
        f"mean of all repeats {100 * held:.0f} % of the time\n"
        f"  {np.mean(seconds):.1f} s a repeat for {len(STAGES)} candidates; slicer ready in "
        f"{ready:.1f} s, then {slice_ms:.1f} ms a candidate"
        + (f" (exported one by one: {slicer.reason})" if slicer.reason else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--width", type=float, default=MeasuringProtocol().width)
    parser.add_argument("--device", default="onnxruntime-cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(make_profiler(arguments.device).device)
    print("load average:", " ".join(f"{load:.2f}" for load in os.getloadavg()))
    for batch in arguments.batch:
        repeatability(batch, arguments.repeats, arguments.width, arguments.device)


if __name__ == "__main__":
    main()
