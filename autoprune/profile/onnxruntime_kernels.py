"""onnxruntime's own profile of its (fused) nodes, with the machine's drift taken out."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.device import Artifact, KernelTime, MeasuringProtocol
from autoprune.profile.onnx_layers import FusedLayers

#: Rounds of profiled runs, each network in turn with the reference before and after it.
ROUNDS = 5

#: Profiled runs in a row at least, each round.
RUNS = 2

#: A block of profiled runs lasts about this long, of at most so many runs: reading the profile of
#: more takes longer than they do.
BLOCK_MS, MOST_RUNS = 10.0, 100

_SUFFIX = "_kernel_time"

Floats = npt.NDArray[np.float64]
#: A node's name, and its index in the optimised graph.
Node = tuple[str, str]


def parse_profile(text: str) -> tuple[list[dict[Node, float]], dict[Node, Mapping[str, Any]]]:
    """Read onnxruntime's profile, a list of trace events in JSON.

    Returns:
        For each run of the session, microseconds of every node; and each node's arguments.
    """
    runs: list[dict[Node, float]] = []
    current: dict[Node, float] = {}
    arguments: dict[Node, Mapping[str, Any]] = {}
    for event in json.loads(text):
        name, args = event["name"], event.get("args", {})
        if event["cat"] == "Node" and name.endswith(_SUFFIX):
            node = (name.removesuffix(_SUFFIX), str(args.get("node_index", "")))
            current[node] = current.get(node, 0.0) + event["dur"]
            arguments.setdefault(node, args)
        elif event["cat"] == "Session" and name == "model_run":
            runs.append(current)
            current = {}
    return runs, arguments


def _shapes(described: object) -> tuple[tuple[int, ...], ...]:
    """Shapes out of [{"float": [8, 3, 32, 32]}, ...]."""
    if not isinstance(described, list):
        return ()
    return tuple(
        tuple(int(size) for size in shape)
        for tensor in described
        for shape in (tensor.values() if isinstance(tensor, dict) else ())
    )


def _middle_mean(values: Floats) -> Floats:
    """The interquartile mean over the first axis: the profile counts whole microseconds."""
    ordered = np.sort(values, axis=0)
    cut = len(ordered) // 4
    middle: Floats = ordered[cut : len(ordered) - cut].mean(axis=0)
    return middle


class _Profiled:
    """A profiling session and which of its runs belong to which block."""

    def __init__(self, artifact: Artifact, session: Any, run: Callable[[], object]) -> None:
        self.artifact = artifact
        self.session = session
        self.run = run
        self.blocks: list[tuple[int, int]] = []
        self.count = 0
        self.error = ""

    def block(self, runs: int, *, counted: bool = True) -> None:
        if self.error:
            return
        try:
            for _ in range(runs):
                self.run()
        except Exception as error:  # whatever the runtime raises belongs to this artifact
            self.error = f"a profiled run failed: {type(error).__name__}: {error}"
            return
        if counted:
            self.blocks.append((self.count, self.count + runs))
        self.count += runs

    def read(self) -> tuple[list[Node], list[Floats], dict[Node, Mapping[str, Any]]]:
        """Nodes, and for each block a (runs, nodes) array of microseconds."""
        path = Path(self.session.end_profiling())
        try:
            runs, arguments = parse_profile(path.read_text(encoding="utf-8"))
        finally:
            path.unlink(missing_ok=True)
        nodes = list(arguments)
        table = np.array([[run.get(node, 0.0) for node in nodes] for run in runs])
        if len(table) != self.count or not nodes:
            raise ValueError(f"{self.count} runs were profiled, the profile tells {len(table)}")
        return nodes, [table[start:stop] for start, stop in self.blocks], arguments


def profile_kernels(
    options: Callable[[], Any],
    make: Callable[[Artifact, Any], tuple[Any, Callable[[], object]]],
    artifacts: Sequence[Artifact],
    latencies_ms: Sequence[float],
    protocol: MeasuringProtocol,
    *,
    optimised_graph: bool = True,
) -> list[tuple[KernelTime, ...] | str]:
    """Profile networks' nodes, the first one before and after each of the others.

    Args:
        options: makes session options.
        make: makes a session, and a function that runs it once, of an artifact and options.
        artifacts: the first is the reference.
        latencies_ms: of each, measured without profiling; the first one is what the reference's
            kernels are scaled to, and with it all others.
        protocol: `warmup` and `seed` count.
        optimised_graph: whether the provider lets onnxruntime write down the graph it runs, from
            which a node's layers are known.

    Returns:
        For each, its kernels in the order of execution, or why there are none.
    """
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        profiled, layers = [], []
        for number, artifact in enumerate(artifacts):
            settings = options()
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / f"profile-{number}")
            optimised = Path(folder) / f"optimised-{number}.onnx"
            if optimised_graph:
                settings.optimized_model_filepath = str(optimised)
            profiled.append(_Profiled(artifact, *make(artifact, settings)))
            known = FusedLayers.of(artifact.onnx, optimised) if optimised_graph else FusedLayers({})
            layers.append(known)
            optimised.unlink(missing_ok=True)
        visits = _run_rounds(profiled, latencies_ms, protocol)
        try:
            nodes, blocks, arguments = profiled[0].read()
        except (OSError, ValueError, KeyError) as error:
            reason = f"onnxruntime's profile of the reference can't be read: {error}"
            return [reason] * len(artifacts)
        # How slow the machine was in each of the reference's blocks, 1 on average: the
        # time-weighted median over its nodes, so that an interrupted node does not count.
        levels = np.array([np.median(block, axis=0) for block in blocks])
        usual = np.median(levels, axis=0)
        slow = np.array([_weighted_median(level / np.maximum(usual, 1e-9), usual)
                         for level in levels])  # fmt: skip
        mean = _middle_mean(np.concatenate(
            [block / factor for block, factor in zip(blocks, slow, strict=True)]))  # fmt: skip
        scale = latencies_ms[0] / float(mean.sum())
        results: list[tuple[KernelTime, ...] | str] = [
            _kernels(nodes, mean * scale, arguments, layers[0])
        ]
        for own, beside, fused in zip(profiled[1:], visits[1:], layers[1:], strict=True):
            if own.error:
                results.append(own.error)
                continue
            try:
                nodes, blocks, arguments = own.read()
            except (OSError, ValueError, KeyError) as error:
                results.append(f"onnxruntime's profile can't be read: {error}")
                continue
            mean = _middle_mean(np.concatenate(
                [block / math.sqrt(slow[at] * slow[at + 1])
                 for block, at in zip(blocks, beside, strict=True)]))  # fmt: skip
            results.append(_kernels(nodes, mean * scale, arguments, fused))
        return results


def _run_rounds(
    profiled: list[_Profiled], latencies_ms: Sequence[float], protocol: MeasuringProtocol
) -> list[list[int]]:
    """Run all; for each one and round, which of the reference's blocks came before it."""
    rng = np.random.default_rng(protocol.seed)
    reference, others = profiled[0], profiled[1:]
    wanted = min(BLOCK_MS / min(latencies_ms), 4 * BLOCK_MS / latencies_ms[0], MOST_RUNS)
    runs = max(RUNS, math.ceil(wanted))
    visits: list[list[int]] = [[] for _ in profiled]
    for each in profiled:
        each.block(max(1, protocol.warmup), counted=False)
    for _ in range(ROUNDS):
        reference.block(runs)
        for index in rng.permutation(len(others)).tolist():
            others[index].block(runs)
            visits[index + 1].append(len(reference.blocks) - 1)
            reference.block(runs)
    return visits


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def _kernels(
    nodes: list[Node],
    times_ms: Floats,
    arguments: dict[Node, Mapping[str, Any]],
    fused: FusedLayers,
) -> tuple[KernelTime, ...]:
    return tuple(
        KernelTime(
            name=node[0],
            layers=fused.layers(node[0]),
            op=str(arguments[node].get("op_name", "")),
            latency_ms=float(time),
            input_shapes=_shapes(arguments[node].get("input_type_shape")),
            output_shapes=_shapes(arguments[node].get("output_type_shape")),
        )
        for node, time in zip(nodes, times_ms, strict=True)
    )


def nodes_run(
    make: Callable[[Any], tuple[Any, Callable[[], object]]], options: Any
) -> dict[Node, Mapping[str, Any]]:
    """The nodes of one run and their arguments, as onnxruntime's profile tells them.

    Args:
        make: makes a session, and a function that runs it once, of options.
        options: session options.

    Raises:
        OSError: the profile can't be read.
        ValueError: likewise.
    """
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "nodes")
        session, run = make(options)
        run()
        return parse_profile(Path(session.end_profiling()).read_text(encoding="utf-8"))[1]
