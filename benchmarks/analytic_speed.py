"""How many candidates a second the analytic cost model counts, for ResNet-56 (goal: ≥ 10,000).

    python benchmarks/analytic_speed.py [--candidates 20000]

Prints candidates a second, shapes included (`KernelGraph.instantiate`), and the dense network's
counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from resnet_cifar import resnet56

from autoprune.cost.analytic import AnalyticCost
from autoprune.graph import trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=20_000)
    count = parser.parse_args().candidates
    torch.set_num_threads(1)
    graph = trace(resnet56(pretrained=False).eval(), (torch.zeros(1, 3, 32, 32),)).kernels
    cost = AnalyticCost()
    dense = cost.predict(graph.workloads([graph.dense]))
    kept = np.random.default_rng(0).integers(1, graph.units + 1, (count, len(graph.units)))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        cost.predict(graph.instantiate(kept))
        best = min(best, time.perf_counter() - start)
    print("dense ResNet-56:", ", ".join(f"{m} {v[0]:,.0f}" for m, v in dense.mean.items()))
    print(f"{count / best:,.0f} candidates a second ({count:,} at once, best of 5, goal 10,000)")


if __name__ == "__main__":
    main()
