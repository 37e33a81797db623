"""Whether latency ratios depend on how busy the machine is: the same candidates, by its speed.

    python benchmarks/busy_neighbours.py [NETWORK ...] [--rounds 150] [--load]

Measures candidates beside the dense network for many rounds, and compares the rounds in which both
were at their fastest third with those in which both were at their slowest. Where nothing but drift
common to all networks disturbs, both give the same ratio. `--load` keeps the machine's other cores
at work every other second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time

import numpy as np
import torch
from networks import NETWORKS

from autoprune.core.device import MeasuringProtocol
from autoprune.cost.cover import covering
from autoprune.export import OnnxSlicer, artifacts
from autoprune.graph import trace
from autoprune.profile import make_profiler
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply


def busy() -> None:
    """Multiply matrices for a second, rest for one, and so on."""
    torch.set_num_threads(1)
    matrix = torch.rand(512, 512)
    while True:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(1.0)


def neighbours(name: str, device: str, rounds: int, seed: int) -> None:
    make, batch = NETWORKS[name]
    torch.manual_seed(0)
    network = trace(make().eval(), (torch.zeros(batch, 3, 32, 32),))
    graph = network.kernels
    kept = np.vstack([graph.units[None], covering(graph, 4, np.random.default_rng(seed))])
    candidates = graph.instantiate(kept).candidates()
    keys = ["dense again", *(f"candidate {i}" for i in range(1, len(kept)))]
    selections = [select(network, candidate) for candidate in candidates]
    sliced = artifacts(OnnxSlicer(network, apply), selections, keys)
    protocol = MeasuringProtocol(
        min_rounds=rounds, max_rounds=rounds, width=1e-9, timeout_s=600.0, seed=seed
    )
    profiler = make_profiler(device)
    dense, *found = profiler.measure(sliced, protocol)
    ends = np.quantile(dense.samples_ms, [0.05, 0.95])
    print(f"{name}, batch {batch}, {profiler.device}")
    print(f"  dense: 90 % of its visits took {ends[0]:.2f} to {ends[1]:.2f} ms")
    print(f"  {'':14} {'ratio':>7} {'fast':>7} {'slow':>7} {'slow / fast':>12}  rounds of each")
    for key, each in zip(keys, found, strict=True):
        if not each.ok:
            print(f"  {key:14} {each.error}")
            continue
        own, beside = np.array(each.samples_ms), np.array(each.reference_ms)
        picked = [
            (own <= np.quantile(own, 1 / 3)) & (beside <= np.quantile(beside, 1 / 3)),
            (own >= np.quantile(own, 2 / 3)) & (beside >= np.quantile(beside, 2 / 3)),
        ]
        fast, slow = (float(np.median(own[p]) / np.median(beside[p])) for p in picked)
        print(f"  {key:14} {each.ratio:7.3f} {fast:7.3f} {slow:7.3f} {slow / fast:12.3f}  "
              f"{picked[0].sum()} and {picked[1].sum()}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--device", default="onnxruntime-cpu?threads=1")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--load", action="store_true", help="keep the other cores at work")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=busy, daemon=True)
        for _ in range(args.load * max(1, (os.cpu_count() or 2) - 1))
    ]
    for process in others:
        process.start()
    for name in args.networks or ["resnet20", "densenet"]:
        neighbours(name, args.device, args.rounds, args.seed)
    for process in others:
        process.terminate()


if __name__ == "__main__":
    main()
