"""Predicted against measured latency on one thread of a CPU, for several architectures.

    python benchmarks/latency_error.py [NETWORK ...] [--held-out 50] [--edges] [--save FOLDER]
    python benchmarks/latency_error.py resnet56 --table TABLE      # do not build, use this table
    python benchmarks/latency_error.py resnet20 --reuse TABLE      # take its kernel times over
    python benchmarks/latency_error.py resnet56 --device openvino-cpu
    python benchmarks/latency_error.py resnet56 --again FOLDER     # what --save left, anew

For each network a latency table is built; then candidates it has never seen are measured beside
the dense network, and the error of their predicted latency ratios is printed beside the noise:
the difference between two halves of the same measuring. The halves are two sessions of each
network, for one session of a network may be quicker than the next of the same; "noise" is the
difference between them, "within a session" that between the halves of the first. Goals: median
error ≤ 5 % and ≤ 1.3 × the noise, 95 % within 10 %, Spearman ≥ 0.97; of all networks' together,
85 to 95 % inside the 90 % interval of prediction and measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from networks import NETWORKS
from scipy.stats import spearmanr

from autoprune.core.device import Measurement
from autoprune.core.workload import Ints, KernelGraph
from autoprune.cost.build import accuracy, build_table
from autoprune.cost.cover import covering
from autoprune.cost.noise import halves_apart
from autoprune.cost.records import usable
from autoprune.cost.table import LatencyTable
from autoprune.graph import trace
from autoprune.profile.registry import make_profiler
from autoprune.pruning.selection import selector
from autoprune.study.device import DeviceMeasure
from autoprune.study.settings import VerifySettings

#: Of each candidate that is held out.
SESSIONS = 2


def held_out(graph: KernelGraph, table: LatencyTable, count: int, edges: bool, seed: int) -> Ints:
    """Kept units of candidates to check: of any counts, or of the plateau edges a search offers."""
    choices = {g: table.plateau_edges(graph, g) for g in graph.groups} if edges else None
    return covering(graph, count, np.random.default_rng(seed), choices)


def both(first: Measurement, second: Measurement) -> Measurement:
    """Two sessions as one measurement: even rounds are the first's, odd ones the second's."""
    if not (usable(first) and usable(second)):
        return first if usable(first) else second
    ratio = math.sqrt(first.ratio * second.ratio)
    half = math.hypot(*(np.diff(m.ratio_interval)[0] / 2 for m in (first, second))) / 2
    mixed = [
        tuple(
            x
            for pair in zip(getattr(first, name), getattr(second, name), strict=False)
            for x in pair
        )
        for name in ("samples_ms", "reference_ms")
    ]
    return replace(
        first, ratio=ratio, ratio_interval=(ratio - half, ratio + half),
        samples_ms=mixed[0], reference_ms=mixed[1],
        common_std=math.hypot(first.common_std, second.common_std) / 2,
    )  # fmt: skip


def run(name: str, args: argparse.Namespace) -> tuple[int, int]:
    """Build a table, or read one, and check it.

    Returns:
        How many were inside the 90 % interval, of how many.
    """
    make, batch = NETWORKS[name]
    batch = args.batch or batch
    torch.manual_seed(0)
    network = trace(make().eval(), (torch.zeros(batch, 3, 32, 32),))
    graph = network.kernels
    profiler = make_profiler(args.device)
    device = DeviceMeasure(network, profiler, selector(network), VerifySettings(), args.seed)
    print(f"{name}, batch {batch}, {len(graph.groups)} groups, {profiler.device}", flush=True)
    if args.table:
        table = LatencyTable.load(args.table, profiler.device)
    else:
        table = build_table(
            graph,
            device.for_table,
            profiler.device,
            candidates=args.candidates,
            budget_s=args.timeout,
            target_error=args.error,
            seed=args.seed,
            on_progress=lambda done, total, text: print(f"  {done}/{total} {text}", flush=True),
            info={"network": name, "batch": batch},
            reuse=[LatencyTable.load(path, profiler.device) for path in args.reuse],
        )
        print(f"  table: {table.info['build']}")
        print(f"  its own held-out candidates: {table.info['accuracy']}")
        if args.save:
            print(f"  saved {table.save(args.save / f'{name}.jsonl')}")
    kept = held_out(graph, table, args.held_out, args.edges, args.seed + 1000)
    rows = np.vstack([graph.units[None], kept])
    start = time.monotonic()
    sessions = [
        device.for_table(graph.instantiate(rows).candidates(), kernels=False, care="close")[1:]
        for _ in range(SESSIONS)
    ]
    measured = [both(first, second) for first, second in zip(*sessions, strict=True)]
    print(f"  {len(kept)} held-out candidates measured in {time.monotonic() - start:.0f} s")
    found = accuracy(table, graph, kept, measured, SESSIONS)
    good = [i for i, m in enumerate(measured) if usable(m)]
    ratio = np.array([measured[i].ratio for i in good])
    mean, std, _ = table.predict_ratio(table.layout(graph), kept[good])
    error = np.abs(mean / ratio - 1)
    within = float((error <= 0.1).mean())
    within_one = {
        "within 10 %": within,
        "noise within a session": halves_apart([m for m in sessions[0] if usable(m)]),
    }
    for label, value in {**asdict(found), **within_one}.items():
        print(f"    {label:22} {value:.4f}")
    # Not a number where too few repeats fitted into the time: then no goal is reached.
    reached = found.median_error <= 0.05 and found.median_error <= 1.3 * found.noise
    reached = reached and within >= 0.95 and found.spearman >= 0.97
    print(f"  goal {'reached' if reached else 'missed'} (median / noise "
          f"{found.median_error / found.noise:.2f})", flush=True)  # fmt: skip
    if args.save and not args.table:
        lines = [
            json.dumps({"kept": kept[i].tolist(), "measured": m, "predicted": p, "std": s,
                        "samples": measured[i].samples_ms, "beside": measured[i].reference_ms,
                        "common_std": measured[i].common_std})
            for i, m, p, s in zip(good, ratio.tolist(), mean.tolist(), std.tolist(), strict=True)
        ]  # fmt: skip
        (args.save / f"{name}-held-out.txt").write_text("\n".join(lines) + "\n")
    start = time.perf_counter()
    many = np.random.default_rng(0).integers(1, graph.units + 1, (4000, len(graph.units)))
    table.predict(graph.instantiate(many))
    print(f"  {4000 / (time.perf_counter() - start):,.0f} predictions a second", flush=True)
    return round(found.coverage * found.candidates), found.candidates


def again(name: str, folder: Path) -> tuple[int, int]:
    """The error of a saved table as it is fitted today, on the candidates held out then.

    Returns:
        How many were inside the 90 % interval, of how many.
    """
    make, batch = NETWORKS[name]
    table = LatencyTable.load(folder / f"{name}.jsonl")
    graph = trace(make().eval(), (torch.zeros(batch, 3, 32, 32),)).kernels
    lines = (folder / f"{name}-held-out.txt").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    measured = [
        Measurement(str(i), ratio=row["measured"], ratio_interval=(math.nan, math.nan),
                    samples_ms=tuple(row["samples"]), reference_ms=tuple(row["beside"]),
                    common_std=row.get("common_std", 0.0))
        for i, row in enumerate(rows)
    ]  # fmt: skip
    ratio = np.array([row["measured"] for row in rows])
    kept = np.array([row["kept"] for row in rows])
    mean, _, _ = table.predict_ratio(table.layout(graph), kept)
    print(f"{name}, {table.device}, {len(table.observations)} measurements, saved in {folder}")
    for when, found in (("then", np.array([row["predicted"] for row in rows])), ("now", mean)):
        error = np.abs(found / ratio - 1)
        tail = np.quantile(error, 0.9)
        print(f"    {when:5} median {np.median(error):.2%}, 90 % below {tail:.2%}, "
              f"within 10 % {(error <= 0.1).mean():.0%}, "
              f"Spearman {spearmanr(found, ratio).statistic:.4f}")  # fmt: skip
    inside = accuracy(table, graph, kept, measured, SESSIONS).coverage
    print(f"    now   inside the 90 % interval {inside:.0%}", flush=True)
    return round(inside * len(rows)), len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--device", default="onnxruntime-cpu?threads=1")
    parser.add_argument("--batch", type=int, help="instead of the network's own")
    parser.add_argument("--candidates", type=int, default=512, help="at most, for the table")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds, for the table")
    parser.add_argument("--error", type=float, default=0.01, help="at which a table is done")
    parser.add_argument("--held-out", type=int, default=50)
    parser.add_argument("--edges", action="store_true", help="check at plateau edges only")
    parser.add_argument("--table", type=Path, help="use this table instead of building one")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], help="take kernels over")
    parser.add_argument("--save", type=Path, help="folder for the tables and what was held out")
    parser.add_argument("--again", type=Path, help="folder that --save wrote; measures nothing")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    unknown = sorted(set(args.networks) - set(NETWORKS))
    if unknown:
        parser.error(f"networks must be of {', '.join(NETWORKS)}; got {', '.join(unknown)}")
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    names = args.networks or list(NETWORKS)
    inside = [again(name, args.again) if args.again else run(name, args) for name in names]
    held, of = (sum(counts) for counts in zip(*inside, strict=True))
    print(f"inside the 90 % interval: {held} of {of} ({held / of:.0%}); goal 85 to 95 %")


if __name__ == "__main__":
    main()
