"""Predicted against measured latency of ResNet-56 on onnxruntime CPU, one thread.

    python benchmarks/latency_error.py [--batch 8] [--held-out 30] [--edges] [--save TABLE]
    python benchmarks/latency_error.py --table TABLE      # do not build, use this table

Builds a latency table, then measures candidates it has never seen beside the dense network and
prints the error of their predicted latency ratios beside the noise: the difference between two
halves of the same measuring. Goals: median error ≤ 5 % and ≤ 1.5 × the noise; table in ≤ 5 min.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from resnet_cifar import resnet56

from autoprune.core.workload import Ints, KernelGraph
from autoprune.cost.build import accuracy, build_table
from autoprune.cost.cover import covering
from autoprune.cost.table import LatencyTable
from autoprune.graph import trace
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.pruning.selection import select
from autoprune.study.device import DeviceMeasure
from autoprune.study.settings import VerifySettings


def held_out(graph: KernelGraph, table: LatencyTable, count: int, edges: bool, seed: int) -> Ints:
    """Kept units of candidates to check: of any counts, or of the plateau edges a search offers."""
    choices = {g: table.plateau_edges(graph, g) for g in graph.groups} if edges else None
    return covering(graph, count, np.random.default_rng(seed), choices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=48, help="at most, for the table")
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--edges", action="store_true", help="check at plateau edges only")
    parser.add_argument("--table", type=Path, help="use this table instead of building one")
    parser.add_argument("--save", type=Path, help="write the table here")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = resnet56(pretrained=False).eval()
    network = trace(model, (torch.zeros(args.batch, 3, 32, 32),))
    graph = network.kernels
    profiler = OnnxRuntimeProfiler(threads=1)
    device = DeviceMeasure(
        network, profiler, lambda c: select(network, c), VerifySettings(), args.seed
    )
    print(f"ResNet-56, batch {args.batch}, {profiler.device}")
    start = time.monotonic()
    if args.table:
        table = LatencyTable.load(args.table, profiler.device)
    else:
        table = build_table(
            graph,
            device.for_table,
            profiler.device,
            candidates=args.candidates,
            seed=args.seed,
            on_progress=lambda done, total, text: print(f"  {done}/{total} {text}", flush=True),
            info={"network": "ResNet-56 (CIFAR-10)", "batch": args.batch},
        )
        print(f"table: {time.monotonic() - start:.0f} s, {table.info['build']}")
        print(f"its own held-out candidates: {table.info['accuracy']}")
        if args.save:
            print(f"saved {table.save(args.save)}")
    kept = held_out(graph, table, args.held_out, args.edges, args.seed + 1000)
    rows = np.vstack([graph.units[None], kept])
    start = time.monotonic()
    measured = device.for_table(graph.instantiate(rows).candidates(), kernels=False)
    print(f"{len(kept)} held-out candidates measured in {time.monotonic() - start:.0f} s")
    found = accuracy(table, graph, kept, measured[1:])
    for name, value in asdict(found).items():
        print(f"  {name:14} {value:.4f}")
    # Not a number where too few repeats fitted into the time: then no goal is reached.
    good = found.median_error <= 0.05 and found.median_error <= 1.5 * found.noise
    print("goal reached" if good else "goal missed", "(median ≤ 5 % and ≤ 1.5 × noise)")
    start = time.perf_counter()
    many = np.random.default_rng(0).integers(1, graph.units + 1, (4000, len(graph.units)))
    table.predict(graph.instantiate(many))
    print(f"{4000 / (time.perf_counter() - start):,.0f} predictions a second")


if __name__ == "__main__":
    main()
