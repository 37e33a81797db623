"""What can be pruned and how fast candidates are made as ONNX, architecture by architecture.

    python benchmarks/architectures.py               # every network and family
    python benchmarks/architectures.py vit hf:llama  # some

Prunable are the channels, of all that weights of two and more dimensions read and make, that are
in some group. "own" is a pruned network of the model's own class, "graph" one that runs the traced
graph, because its forward hard-codes a width. Each network is pruned at random; torch's output of
the result is compared with the masked network's, and that of its sliced ONNX model in onnxruntime
with torch's. The widths of the families are tiny, so their times are those of the graph's length.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from families import FAMILIES
from networks import NETWORKS
from torch import nn

import autoprune
from autoprune.core.errors import AutopruneError
from autoprune.export import OnnxSlicer
from autoprune.export.onnx import TOLERANCE, compare
from autoprune.graph import Network
from autoprune.pruning.surgery import apply, verify


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as the table has them")
    parser.add_argument("--slices", type=int, default=5, help="candidates of each (default 5)")
    parser.add_argument("--no-slicing", action="store_true", help="only what can be pruned")
    options = parser.parse_args()
    known = [*NETWORKS, *(f"hf:{name}" for name in FAMILIES)]
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"unknown: {unknown}; known: {', '.join(known)}")
    torch.set_num_threads(1)
    logging.getLogger("autoprune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    slicing = "" if options.no_slicing else " ONNX | ms | start s |"
    print(f"| network | groups | channels | form | kept whole, beside outputs |{slicing}")
    print("|---|---|---|---|---|" + "---|" * slicing.count("|"))
    for name in options.names or known:
        cells = _row(name, 0 if options.no_slicing else options.slices)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _row(name: str, slices: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    model, inputs = _built(name)
    try:
        network = autoprune.trace(model, inputs)
        selection = _selection(network, rng)
        pruned = apply(network, selection)
        verify(network, selection, pruned)
    except AutopruneError as error:
        said = str(error).partition(";")[0][:120]
        yield from ("–", "–", "–", said, *["–"] * (3 if slices else 0))
        return
    yield str(len(network.groups))
    yield f"{_prunable(network):.0%}"
    yield "graph" if getattr(pruned, "autoprune_note", "") else "own"
    reasons = {r for r in network.frozen.values() if "output" not in r and "vocabulary" not in r}
    yield "; ".join(sorted({_short(reason) for reason in reasons})) or "–"
    if not slices:
        return
    start = time.perf_counter()
    try:
        slicer = OnnxSlicer(network, apply)
    except AutopruneError as error:
        yield from (f"not exported: {str(error)[:80]}", "–", "–")
        return
    start = time.perf_counter() - start
    times, worst = [], 0.0
    for _ in range(slices):
        selection = _selection(network, rng)
        begun = time.perf_counter()
        data = slicer.slice(selection)
        times.append(1e3 * (time.perf_counter() - begun))
        worst = max(worst, compare(apply(network, selection).eval(), data, inputs))
    if worst > TOLERANCE:
        yield f"WRONG by {worst:.1g}"
    else:
        yield f"exported each: {slicer.reason}" if slicer.reason else "sliced"
    yield f"{np.median(times):.1f}"
    yield f"{start:.1f}"


def _built(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    if name.startswith("hf:"):
        model, inputs = FAMILIES[name.removeprefix("hf:")]()
    else:
        make, batch = NETWORKS[name]
        model, inputs = make(), (torch.randn(batch, 3, 32, 32),)
    return model.eval(), inputs


def _selection(network: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each group loses a unit at least."""
    result = {}
    for group in network.groups:
        mask = np.zeros(group.units, dtype=bool)
        mask[rng.permutation(group.units)[: rng.integers(1, group.units)]] = True
        result[group.name] = mask
    return result


def _prunable(network: Network) -> float:
    """Share of the channels that weights read and make which are in a group."""
    total = free = 0
    for name, parameter in network.model.named_parameters():
        for dim in (0, 1) if parameter.ndim > 1 else ():
            label = network.parameters[name][dim]
            total += parameter.shape[dim]
            free += 0 if label is None else int((label >= 0).sum())
    return free / total


def _short(reason: str) -> str:
    """A reason without its place."""
    return reason.split(" (")[0].split(" in '")[0]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    main()
