from __future__ import annotations

import gc
import weakref

import numpy as np
from cost_devices import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core import Buffer, Kernel, KernelGraph, Term
from autoprune.cost.analytic import AnalyticCost


def naive(graph: KernelGraph, kept: np.ndarray) -> dict[str, float]:
    sizes = graph.base + graph.weight @ kept

    def volume(shape: tuple[int, ...]) -> int:
        product = 1
        for size in shape:
            product *= int(sizes[size])
        return product

    macs = sum(t.coefficient * volume(t.sizes) for k in graph.kernels for t in k.macs)
    weights = sum(b.itemsize * volume(b.shape) for b in graph.parameters)
    peak = max(
        (
            sum(
                b.itemsize * volume(b.shape)
                for b in graph.activations
                if b.first <= step <= max(b.first, b.last)
            )
            for step in range(-1, len(graph.kernels))
        ),
        default=0,
    )
    return {
        "macs": macs / graph.batch,
        "params": sum(volume(b.shape) for b in graph.parameters if b.trainable),
        "weight_bytes": weights,
        "activation_bytes": peak,
        "memory_bytes": weights + peak,
    }


@st.composite
def graphs(draw: st.DrawFn) -> KernelGraph:
    groups = draw(st.integers(1, 3))
    sizes = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(1, 5))
    shape = st.lists(st.integers(0, sizes - 1), min_size=0, max_size=4).map(tuple)
    kernels = tuple(
        Kernel(
            f"k{i}",
            "",
            "op",
            (draw(shape),),
            draw(shape),
            macs=tuple(Term(float(draw(st.integers(1, 9))), draw(shape)) for _ in range(2)),
        )
        for i in range(count)
    )
    buffers = []
    for i in range(draw(st.integers(0, 7))):
        first = draw(st.integers(-1, count - 1))
        buffers.append(
            Buffer(f"b{i}", draw(shape), draw(st.sampled_from([1, 2, 4])), first,
                   draw(st.integers(-1, count - 1)))
        )  # fmt: skip
    parameters = tuple(
        Buffer(f"p{i}", draw(shape), 4, trainable=draw(st.booleans())) for i in range(3)
    )
    return KernelGraph(
        tuple(f"g{i}" for i in range(groups)),
        rng.integers(2, 9, groups),
        rng.integers(0, 4, sizes),
        rng.integers(0, 2, (sizes, groups)),
        kernels,
        tuple(buffers),
        parameters,
        draw(st.integers(1, 4)),
    )


@settings(max_examples=50, deadline=None)
@given(graphs(), st.integers(0, 1000))
def test_counts_are_those_of_a_naive_loop(graph: KernelGraph, seed: int) -> None:
    kept = np.random.default_rng(seed).integers(1, graph.units + 1, (3, len(graph.units)))
    costs = AnalyticCost().predict(graph.instantiate(kept))
    for row in range(3):
        for metric, value in naive(graph, kept[row]).items():
            assert costs.mean[metric][row] == value, metric


def test_counts_of_a_chain_by_hand() -> None:
    graph = chain((4, 8), size=2, batch=3, light=False)
    cost = AnalyticCost().predict(graph.workloads([graph.dense]))[0]
    assert cost.macs == 9 * 4 * (3 * 4 + 4 * 8) + 8 * 10
    assert cost.params == 9 * (3 * 4 + 4 * 8) + 80
    assert cost.get("weight_bytes") == 4 * (cost.params + 4 + 8)
    # The largest step: conv0's output and conv1's are alive together.
    assert cost.get("activation_bytes") == 4 * 3 * 4 * (4 + 8)
    assert cost.memory_bytes == cost.get("weight_bytes") + cost.get("activation_bytes")
    assert cost.estimates["macs"].std == 0
    assert cost.estimates["macs"].source == "exact"


def test_no_candidates_give_empty_arrays() -> None:
    graph = chain()
    costs = AnalyticCost().predict(graph.instantiate(np.zeros((0, 3), dtype=np.int64)))
    assert {m: v.shape for m, v in costs.mean.items()} == dict.fromkeys(
        AnalyticCost().metrics, (0,)
    )


def test_graphs_are_not_kept_alive() -> None:
    model, graph = AnalyticCost(), chain()
    model.predict(graph.workloads([graph.dense]))
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None
