from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cost_devices import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core import KernelTime
from autoprune.cost.align import charge
from autoprune.cost.layout import Layout, work


def times(*nodes: tuple[str, tuple[str, ...], str, float]) -> list[KernelTime]:
    return [KernelTime(name, layers, op, ms) for name, layers, op, ms in nodes]


def by_name(layout: Layout, charged: np.ndarray) -> dict[str, float]:
    return {k.name: float(c) for k, c in zip(layout.kernels, charged, strict=True) if c}


def test_nodes_are_charged_to_the_layers_they_name() -> None:
    graph = chain((8, 16))
    nodes = times(
        ("a_nchwc", ("layer0", "relu0"), "Conv", 1.0),
        ("b_nchwc", ("layer1",), "Conv", 2.0),
        ("node_relu1", ("relu1",), "Relu", 0.5),
        ("c", ("head",), "Gemm", 0.25),
    )
    layout = Layout.of(graph)
    charged = charge(layout, graph.units, nodes)
    assert by_name(layout, charged) == {"conv0": 1.0, "conv1": 2.0, "relu1": 0.5, "linear": 0.25}


def test_inserted_nodes_are_charged_to_what_comes_next_and_trailing_ones_to_the_last() -> None:
    graph = chain((8, 16))
    nodes = times(
        ("ReorderInput", (), "ReorderInput", 0.1),
        ("x", ("layer0",), "Conv", 1.0),
        ("ReorderOutput_token_1", (), "ReorderOutput", 0.2),
        ("y", ("layer1",), "Conv", 2.0),
        ("z", ("head",), "Gemm", 3.0),
        ("Cast", (), "Cast", 0.4),
    )
    layout = Layout.of(graph)
    assert by_name(layout, charge(layout, graph.units, nodes)) == pytest.approx(
        {"conv0": 1.1, "conv1": 2.2, "linear": 3.4}
    )


def test_heavy_nodes_without_names_go_by_order_and_shape() -> None:
    graph = chain((8, 16))
    kept = np.array([5, 7])

    def conv(name: str, ins: int, outs: int, ms: float) -> KernelTime:
        shapes = ((2, ins, 8, 8), (outs, ins, 3, 3))
        return KernelTime(name, (), "Conv", ms, shapes, ((2, outs, 8, 8),))

    layout = Layout.of(graph)
    nodes = [conv("p", 5, 16, 2.0), conv("q", 3, 8, 1.0), *times(("r", (), "Gemm", 3.0))]
    # Padded to 16 output channels, and reported out of order.
    charged = by_name(layout, charge(layout, kept, nodes))
    assert charged == {"conv1": 2.0, "conv0": 1.0, "linear": 3.0}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["relu0", "node_x", "layer0", "conv1_nchwc", "?", "layer1.weight"]),
            st.sampled_from(["Conv", "Relu", "Gemm", "ReorderInput", "MatMul"]),
            st.floats(0, 10),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_charges_add_up_to_the_whole_run(nodes: list[tuple[str, str, float]]) -> None:
    graph = chain((8, 16))
    given_times = [KernelTime(n, (n,), op, ms) for n, op, ms in nodes]
    charged = charge(Layout.of(graph), graph.units, given_times)
    assert charged.sum() == pytest.approx(sum(ms for *_, ms in nodes))
    assert (charged >= 0).all()


def test_a_layout_pools_like_kernels_and_fills_in_channels() -> None:
    graph = chain((8, 16, 32))
    layout = Layout.of(graph)
    pools = [[layout.kernels[i].name for i in i_] for i_ in layout.by_signature.values()]
    # At the network's input a convolution may run otherwise; all others are alike.
    assert [p for p in pools if p[0].startswith("conv")] == [["conv0"], ["conv1", "conv2"]]
    convolutions = next(i for i in layout.by_signature.values() if len(i) == 2)
    kept = np.array([[8, 16, 32], [1, 2, 3]])
    x = layout.channels(convolutions, kept)
    assert x.tolist() == [[[8, 16], [16, 32]], [[1, 2], [2, 3]]]
    done = work([layout.kernels[i] for i in convolutions], x)
    assert done[0, :, 0].tolist() == [9 * 2 * 64 * a * b for a, b in x[0]]
    blocked = work([layout.kernels[i] for i in convolutions], x, (1, 16))
    assert blocked[1, :, 0].tolist() == [9 * 2 * 64 * a * 16 for a, _ in x[1]]


def shapes_of(layout: Layout, indices: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(N, K, D + FLAGS) of some kernels, as they are told by signature."""
    found, by_kernel = layout.shapes(kept).of, {}
    for signature, own in layout.by_signature.items():
        by_kernel.update({int(i): found[signature][:, at] for at, i in enumerate(own)})
    return np.stack([by_kernel[int(i)] for i in indices], axis=1)


def test_a_kernel_knows_whether_what_feeds_it_works_on_plain_tensors() -> None:
    layout = Layout.of(chain((32, 64, 64, 32)))
    index = {k.name: i for i, k in enumerate(layout.kernels)}
    heavy = np.array([index[f"conv{i}"] for i in range(4)])
    kept = np.array([[32, 64, 64, 32], [17, 64, 64, 32], [13, 64, 18, 32], [32, 20, 64, 32]])
    x = shapes_of(layout, heavy, kept)
    np.testing.assert_array_equal(x[:, :, :2], layout.channels(heavy, kept))
    # conv1 reads 17 channels, no multiple of 4: what it writes comes plain to conv2. 13 is less
    # than a block, which may be read as it is.
    assert x[:, :, 2].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert not x[:, :, 3].any()
    assert shapes_of(layout, heavy, np.array([[32, 64, 18, 32]]))[0, :, 2].tolist() == [0, 0, 0, 0]
    # Of a runtime that works in blocks of 8, 13 is more than one.
    short = shapes_of(Layout.of(chain((32, 64, 64, 32)), 8), heavy, kept)
    assert short[:, :, 2].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_sum_knows_what_made_the_tensor_that_is_added() -> None:
    from autoprune.cost.context import makers

    layout = Layout.of(chain((32, 64, 64)))
    index = {k.name: i for i, k in enumerate(layout.kernels)}
    kernels = list(layout.kernels)
    # As in a residual block: the last convolution adds to what an earlier one wrote.
    last = kernels[index["conv2"]]
    alone, _, _ = last.signature.partition(" then ")
    kernels[index["conv2"]] = replace(
        last, signature=f"{alone} then add>relu", weight=(last.weight[0], {1: 1})
    )
    found = makers(kernels, ("conv2d", "linear"))
    assert found[index["conv2"]].tolist() == [index["conv1"], index["conv1"]]
    assert found[index["conv0"]].tolist() == [-1, -1]


def test_a_layout_survives_json() -> None:
    import json

    layout = Layout.of(chain((8, 16)))
    again = Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again.fingerprint == layout.fingerprint
    assert again.fingerprint != Layout.of(chain((8, 17))).fingerprint
    assert again.fingerprint != Layout.of(chain((8, 16), batch=1)).fingerprint


def test_a_heavy_node_named_after_what_was_fused_into_it() -> None:
    graph = chain((8, 16))
    nodes = times(
        ("relu0_nchwc", ("_native_relu0_legit_no_training",), "Conv", 1.0),
        ("relu1_nchwc", ("relu1",), "Conv", 2.0),
        ("node_linear", ("linear",), "Gemm", 3.0),
    )
    layout = Layout.of(graph)
    charged = by_name(layout, charge(layout, graph.units, nodes))
    assert charged == {"conv0": 1.0, "conv1": 2.0, "linear": 3.0}


def test_elements_written_are_those_of_all_kernels() -> None:
    layout = Layout.of(chain((32, 64, 64)))
    kept = np.array([layout.units, [8, 40, 1][: len(layout.units)]])
    writing = [i for i, k in enumerate(layout.kernels) if k.base]
    expected = sum(
        layout.channels([i], kept)[:, 0, -1] * layout.kernels[i].elements[1] for i in writing
    )
    np.testing.assert_allclose(layout.written(kept), expected)
