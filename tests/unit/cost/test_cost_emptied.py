"""Groups that are removed whole, as a latency table knows them."""

from __future__ import annotations

import branches
import numpy as np
import pytest
from cost_devices import DEVICE, FakeDevice

from autoprune.core import Candidate, Kernel, KernelGraph
from autoprune.cost.build import build_table
from autoprune.cost.cover import covering
from autoprune.cost.layout import Layout
from autoprune.cost.table import LatencyTable
from autoprune.graph import trace


class Fusing(FakeDevice):
    """Fuses light ops into the convolution before them; without that they take time themselves."""

    def kernel_times(self, candidate: Candidate) -> list[tuple[Kernel, float]]:
        sizes = self.graph.workloads([candidate]).sizes[0]
        emptied = Layout.of(self.graph).emptied(self.graph.kept([candidate]))[0]
        result = []
        for index, kernel in enumerate(self.graph.kernels):
            heavy = kernel.op in ("conv2d", "linear")
            out = sizes[list(kernel.output)]
            if heavy and not emptied[index]:
                read = int(sizes[kernel.inputs[0][1]])
                work = float(np.prod(out) * read) + 8000.0  # every launch costs something
                result.append((kernel, 1e-6 * work))
            elif not heavy and emptied[index] and kernel.op in ("add", "relu") and np.prod(out):
                result.append((kernel, 1e-6 * (800.0 + float(np.prod(out)))))
        return result


_OPS = {"conv2d": "Conv", "linear": "Gemm", "add": "Add", "relu": "Relu"}


@pytest.fixture(scope="module", autouse=True)
def _names():
    """The runtime's names of ops, light ones too."""
    import cost_devices

    before = dict(cost_devices._OPS)
    cost_devices._OPS.update(_OPS)
    yield
    cost_devices._OPS.clear()
    cost_devices._OPS.update(before)


@pytest.fixture(scope="module")
def graph() -> KernelGraph:
    model, inputs = branches.residual()
    return trace(model, inputs).kernels


@pytest.fixture(scope="module")
def built(graph: KernelGraph) -> tuple[Fusing, LatencyTable]:
    device = Fusing(graph, noise=0.002)
    return device, build_table(graph, device.measure, DEVICE, candidates=40, target_error=0.0)


def test_what_has_no_channels_and_what_followed_it_is_told_apart(graph: KernelGraph) -> None:
    layout = Layout.of(graph)
    column = graph.groups.index("1.conv1")
    kept = np.repeat(graph.units[None], 2, axis=0)
    kept[0, column] = 0
    gone = {k.name for k, e in zip(layout.kernels, layout.emptied(kept)[0], strict=True) if e}
    layers = {k.layer for k in layout.kernels if k.name in gone}
    assert {"1.conv1", "1.bn1", "1.conv2", "1.bn2"} <= layers
    assert {k.op for k in layout.kernels if k.name in gone} >= {"add", "relu"}
    assert not any(layer.startswith("2.") for layer in layers)
    assert not layout.emptied(kept)[1].any()


def test_candidates_to_measure_lack_groups_now_and_then(graph: KernelGraph) -> None:
    kept = covering(graph, 60, np.random.default_rng(0))
    removable = [group in graph.removable for group in graph.groups]
    gone = (kept == 0).mean(axis=0)
    assert (gone[np.array(removable)] > 0.05).all()
    assert (gone < 0.5).all()
    assert not gone[~np.array(removable)].any()


def test_a_removed_branch_is_predicted(graph: KernelGraph, built) -> None:
    device, table = built
    kept = covering(graph, 60, np.random.default_rng(7))
    kept = kept[(kept == 0).any(axis=1)]
    truth = np.array([device.ratio(c) for c in graph.instantiate(kept).candidates()])
    mean, std, _ = table.predict_ratio(table.layout(graph), kept)
    assert np.median(np.abs(mean / truth - 1)) < 0.02
    assert (np.abs(mean - truth) <= 1.645 * std + 0.004).mean() > 0.8


def test_it_is_offered_where_it_saves_time(graph: KernelGraph, built) -> None:
    _, table = built
    assert table.plateau_edges(graph, "1.conv1")[:2] == [0, 1]
    assert table.plateau_edges(graph, "1.conv1", minimum=2)[0] == 2
    assert 0 not in table.plateau_edges(graph, "0")


def test_a_table_that_never_saw_it_does_not_offer_it(graph: KernelGraph) -> None:
    device = Fusing(graph)
    choices = {g: range(1, u + 1) for g, u in zip(graph.groups, graph.units.tolist(), strict=True)}
    table = build_table(
        graph, device.measure, DEVICE, candidates=16, target_error=0.0, choices=choices
    )
    assert table.plateau_edges(graph, "1.conv1")[0] == 1
    kept = graph.units[None].copy()
    kept[0, graph.groups.index("1.conv1")] = 0
    cost = table.predict(graph.instantiate(kept))
    assert cost.source["latency_ms"][0] == "extrapolated"


def test_it_is_read_back(graph: KernelGraph, built, tmp_path) -> None:
    _, table = built
    again = LatencyTable.load(table.save(tmp_path / "t.jsonl"), DEVICE)
    kept = covering(graph, 20, np.random.default_rng(3))
    one = table.predict_ratio(table.layout(graph), kept)[0]
    assert np.allclose(again.predict_ratio(again.layout(graph), kept)[0], one)
