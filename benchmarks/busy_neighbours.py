"""What other work on the core does to latency ratios, with and without taking it out.

    python benchmarks/busy_neighbours.py [NETWORK ...] [--sessions 6] [--rounds 10] [--load]

Measures the same candidates in session after session, in turns as autoprune does (how slow the core
is beside each run is told, and taken out: `autoprune/profile/neighbours.py`) and as they are. Tells
the mean of each candidate's ratios, and by how much they differ from session to session; and beside
them the ratio of the quickest visits of all sessions, which nothing else can have disturbed much.
`--load` keeps the machine's other cores at work, for a second in every three.
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
from autoprune.profile import make_profiler, onnxruntime
from autoprune.profile.measuring import Runner
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply

#: So many are measured, from small to large.
CANDIDATES = 8
#: The quantile of all visits as they are which nothing else can have disturbed much.
QUIET = 0.05


def busy() -> None:
    """Multiply matrices for a second, rest for two, and so on."""
    torch.set_num_threads(1)
    matrix = torch.rand(512, 512)
    while True:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(2.0)


def as_it_is(runner: Runner, *, cpu_time: bool) -> Runner:
    """In place of `watched`."""
    return runner


def neighbours(name: str, device: str, sessions: int, rounds: int, seed: int) -> None:
    make, batch = NETWORKS[name]
    torch.manual_seed(0)
    network = trace(make().eval(), (torch.zeros(batch, 3, 32, 32),))
    graph = network.kernels
    kept = covering(graph, 32, np.random.default_rng(seed))
    kept = kept[np.argsort((kept / graph.units).mean(axis=1))][:: 32 // CANDIDATES]
    kept = np.vstack([graph.units[None], kept])
    keys = ["dense again", *(f"candidate {i + 1}" for i in range(len(kept) - 1))]
    selections = [select(network, c) for c in graph.instantiate(kept).candidates()]
    sliced = artifacts(OnnxSlicer(network, apply), selections, keys)
    protocol = MeasuringProtocol(
        min_rounds=rounds, max_rounds=rounds, width=1e-9, timeout_s=600.0, seed=seed, between=3
    )
    profiler = make_profiler(device)
    watch, found = onnxruntime.watched, {"told": [], "as it is": []}
    times: list[list[float]] = [[] for _ in sliced]
    for _ in range(sessions):
        for how, ratios in found.items():
            onnxruntime.watched = watch if how == "told" else as_it_is
            dense, *others = profiler.measure(sliced, protocol)
            ratios.append([dense.latency_ms, *(m.ratio for m in others)])
            if how == "as it is":
                for each, m in zip(times, [dense, *others], strict=True):
                    each += m.samples_ms
    onnxruntime.watched = watch
    print(f"{name}, batch {batch}, {profiler.device}")
    print(f"  {sessions} sessions each    {'told':>7} differs   {'as it is':>8} differs   quietest")
    told, plain = (np.log(np.array(each)) for each in found.values())
    quietest = [float(np.quantile(each, QUIET)) for each in times]
    for column, key in enumerate(["dense, ms", *keys]):
        figures = [(np.exp(each[:, column].mean()), each[:, column].std(ddof=1))
                   for each in (told, plain)]  # fmt: skip
        best = quietest[column] / (quietest[0] if column else 1.0)
        print(f"  {key:16} " + "   ".join(f"{m:9.4f} {s:7.2%}" for m, s in figures)
              + f"   {best:8.4f}", flush=True)  # fmt: skip
    usual = [np.median(each[:, 2:].std(axis=0, ddof=1)) for each in (told, plain)]
    print(f"  from session to session a candidate's ratio differs by {usual[0]:.2%} as told and by "
          f"{usual[1]:.2%} as it is (median of standard deviations)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--device", default="onnxruntime-cpu", help="of onnxruntime, one thread")
    parser.add_argument("--sessions", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
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
        neighbours(name, args.device, args.sessions, args.rounds, args.seed)
    for process in others:
        process.terminate()


if __name__ == "__main__":
    main()
