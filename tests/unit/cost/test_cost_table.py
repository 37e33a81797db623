from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cost_devices import DEVICE, FakeDevice, chain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.core import Candidate, KernelGraph, KernelTime, Measurement
from autoprune.core.errors import CandidateError, ProfilerError, TableError
from autoprune.cost.build import _median_bound, accuracy, build_table
from autoprune.cost.cover import covering
from autoprune.cost.layout import Layout
from autoprune.cost.pace import Care
from autoprune.cost.table import LatencyTable
from autoprune.graph import trace


def random_kept(graph: KernelGraph, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, graph.units + 1, (count, len(graph.units)))


def errors(table: LatencyTable, device: FakeDevice, kept: np.ndarray) -> tuple[np.ndarray, ...]:
    truth = np.array([device.ratio(c) for c in device.graph.instantiate(kept).candidates()])
    mean, std, source = table.predict_ratio(table.layout(device.graph), kept)
    return np.abs(mean / truth - 1), np.abs(mean - truth) <= 1.645 * std, source


@pytest.fixture(scope="module")
def built() -> tuple[KernelGraph, FakeDevice, LatencyTable]:
    graph = chain((32, 32, 48, 64))
    device = FakeDevice(graph, noise=0.02)
    table = build_table(
        graph, device.measure, DEVICE, candidates=32, target_error=0.0, budget_s=1e9
    )
    return graph, device, table


def test_predictions_come_close_to_the_noise(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, device, table = built
    error, inside, source = errors(table, device, random_kept(graph, 200, 5))
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.9) < 0.06
    assert np.mean(inside) >= 0.8
    assert set(source) <= {0, 1, 2}


def test_it_tells_its_own_error(built: tuple[KernelGraph, FakeDevice, LatencyTable]) -> None:
    _, device, table = built
    told = table.info["accuracy"]
    assert told["candidates"] == 8
    assert 0 < told["median_error"] < 0.05
    assert told["median_error"] <= told["p90_error"]
    assert told["spearman"] > 0.95
    assert 0.005 < told["noise"] < 0.05
    assert table.info["build"]["candidates"] == 32
    assert device.calls == [3, 7, 17, 9]


def test_the_dense_network_costs_the_reference(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, device, table = built
    cost = table.predict(graph.workloads([graph.dense]))[0]
    assert cost.latency_ms == pytest.approx(table.reference_ms, rel=0.005)
    assert table.reference_ms == pytest.approx(device.dense)
    assert table.metrics == ("latency_ms",)


def test_edges_are_those_of_the_device(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, _, table = built
    # The last group's output goes to the cheap linear layer alone: a plain staircase.
    edges3 = table.plateau_edges(graph, "layer3")
    assert {1, 16, 32, 48, 64} <= set(edges3)
    assert len(edges3) <= 6  # one may be of noise
    # Where the count also feeds another convolution it slopes; the steps are still offered.
    edges = table.plateau_edges(graph, "layer2")
    assert {1, 16, 32, 48} <= set(edges)
    assert len(table.plateau_edges(graph, "layer2", choices=4)) == 4
    assert table.plateau_edges(graph, "layer3", minimum=16) == [e for e in edges3 if e >= 16]


def test_edges_refuse_what_is_not_there(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, _, table = built
    with pytest.raises(CandidateError, match="'nothing'"):
        table.plateau_edges(graph, "nothing")
    with pytest.raises(CandidateError, match="between 1 and 64, got 65"):
        table.plateau_edges(graph, "layer3", minimum=65)


def test_more_candidates_make_a_better_table() -> None:
    graph = chain((32, 48, 64, 64, 32))
    found = []
    for count in (8, 48):
        error = []
        for seed in range(2):
            device = FakeDevice(graph, noise=0.02, seed=seed)
            table = build_table(
                graph, device.measure, DEVICE, candidates=count, target_error=0.0, budget_s=1e9,
                seed=seed,
            )  # fmt: skip
            error.append(np.mean(errors(table, device, random_kept(graph, 100, 9))[0]))
        found.append(np.mean(error))
    assert found[1] < 0.7 * found[0]


def test_without_kernel_times_the_end_to_end_ratios_are_enough() -> None:
    graph = chain((32, 32, 48, 64))
    device = FakeDevice(graph, noise=0.01, kernels=False)
    table = build_table(
        graph, device.measure, DEVICE, candidates=48, target_error=0.0, budget_s=1e9
    )
    error, inside, _ = errors(table, device, random_kept(graph, 100, 5))
    assert np.median(error) < 0.05
    assert np.mean(inside) >= 0.75


def test_update_corrects_the_candidate_and_leans_its_neighbours(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph = built[0]
    table = build_table(
        graph, FakeDevice(graph, noise=0.02).measure, DEVICE, candidates=24, budget_s=1e9
    )
    kept = np.array([[16, 16, 32, 32]])
    near, far = np.array([[16, 16, 32, 31]]), np.array([[2, 3, 4, 5]])
    layout = table.layout(graph)
    before = [table.predict_ratio(layout, k)[0][0] for k in (kept, near, far)]
    shifted = before[0] * 1.08
    measured = Measurement(
        "x", latency_ms=1.0, ratio=shifted, ratio_interval=(shifted * 0.998, shifted * 1.002)
    )
    table.update(graph.instantiate(kept), [measured])
    after = [table.predict_ratio(layout, k)[0][0] for k in (kept, near, far)]
    assert after[0] == pytest.approx(shifted, rel=0.006)
    assert before[1] < after[1] <= shifted * 1.01
    assert abs(after[2] / before[2] - 1) < 0.06
    std = table.predict_ratio(layout, kept)[1][0]
    assert std < 0.01
    assert table.observations[-1].origin == "verified"


def test_failed_measurements_are_left_out(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, _, table = built
    count = len(table.observations)
    failed = [Measurement("x", error="no"), Measurement("y", ratio=float("nan"))]
    table.update(graph.instantiate(random_kept(graph, 2, 0)), failed)
    assert len(table.observations) == count
    with pytest.raises(CandidateError, match="got 1 for 2"):
        table.update(graph.instantiate(random_kept(graph, 2, 0)), failed[:1])


def test_another_network_on_the_same_kernels_is_predicted() -> None:
    graph, other = chain((32, 48, 64)), chain((48, 48, 64, 64))
    device = FakeDevice(graph, noise=0.01)
    table = build_table(graph, device.measure, DEVICE, candidates=40, budget_s=1e9)
    strange = FakeDevice(other)
    kept = random_kept(other, 40, 2)
    truth = np.array([strange.latency(c) for c in other.instantiate(kept).candidates()])
    mean = table.predict_ratio(table.layout(other), kept)[0]
    assert np.median(np.abs(mean * table.reference_ms / truth - 1)) < 0.1
    assert not table.knows(other)
    assert table.knows(graph)


def test_a_signature_never_measured_is_an_extrapolation_and_says_so() -> None:
    graph, larger = chain((32, 48)), chain((32, 48), size=16)
    device = FakeDevice(graph, noise=0.01)
    table = build_table(graph, device.measure, DEVICE, candidates=24, budget_s=1e9)
    costs = table.predict(larger.workloads([larger.dense]))
    truth = FakeDevice(larger).latency(larger.dense)
    assert abs(costs.mean["latency_ms"][0] / truth - 1) < 0.5
    assert costs.source["latency_ms"].tolist() == ["extrapolated"]
    own = table.predict(graph.workloads([graph.dense]))
    assert costs.std["latency_ms"][0] > 10 * own.std["latency_ms"][0]
    assert costs.mean["latency_ms"][0] > 2 * own.mean["latency_ms"][0]


def test_source_of_a_measured_candidate_is_the_table(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, _, table = built
    assert table.predict(graph.workloads([graph.dense]))[0].estimates["latency_ms"].source == (
        "table"
    )


def test_the_same_seed_gives_the_same_table() -> None:
    graph = chain((16, 32))
    tables = [
        build_table(graph, FakeDevice(graph, noise=0.02).measure, DEVICE, candidates=10)
        for _ in range(2)
    ]
    assert tables[0].observations == tables[1].observations


def test_builder_stops_at_the_error_the_noise_or_the_time() -> None:
    graph = chain((16, 32))
    device = FakeDevice(graph, noise=0.01)
    told: list[tuple[int, int, str]] = []
    table = build_table(
        graph, device.measure, DEVICE, candidates=60, target_error=0.2,
        on_progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert table.info["build"]["stopped"] == "error"
    assert table.info["build"]["candidates"] == 24
    assert table.info["accuracy"]["median_bound"] <= 0.2
    assert told[0][:2] == (0, 60)
    table = build_table(
        graph, FakeDevice(graph, noise=0.2).measure, DEVICE, candidates=600, target_error=1e-4
    )
    assert table.info["build"]["stopped"] == "noise"
    assert 1e-4 < table.info["accuracy"]["median_bound"] <= 0.8 * table.info["accuracy"]["noise"]


def test_builder_measures_roughly_while_the_table_is_further_off_than_that() -> None:
    class Careful(FakeDevice):
        """Measured roughly, even and odd rounds differ by a tenth; the ratio is right."""

        def measure(
            self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
        ) -> list[Measurement]:
            found = super().measure(candidates, kernels=kernels, care=care)
            if care == "usual":
                return found
            apart = np.tile([0.95, 1.05], 4)
            return [replace(m, samples_ms=tuple(apart * m.samples_ms)) for m in found]

    device = Careful(chain((16, 32, 48)))
    table = build_table(
        device.graph, device.measure, DEVICE, candidates=200, target_error=0.0, budget_s=1e9
    )
    assert set(device.cares) == {"rough", "usual"}
    assert device.cares == sorted(device.cares)
    few = [n - 1 for n, care in zip(device.calls, device.cares, strict=True) if care == "rough"]
    assert sum(few) == table.info["build"]["rough"] < table.info["build"]["candidates"]
    assert table.info["build"]["stopped"] == "candidates"  # how far rough halves are is no floor
    assert len(table.observations) == table.info["build"]["candidates"] + len(device.calls)


@settings(deadline=None, max_examples=20)
@given(count=st.integers(5, 60), seed=st.integers(0, 999))
def test_bound_of_a_median_fails_in_one_case_of_twenty_at_most(count: int, seed: int) -> None:
    errors = np.random.default_rng(seed).exponential(size=(2000, count))
    below = np.mean([_median_bound(sample) < math.log(2.0) for sample in errors])
    assert below <= 0.05 + 0.02
    # No order statistic before it would do.
    before = np.sort(errors)[:, np.searchsorted(np.sort(errors[0]), _median_bound(errors[0])) - 1]
    assert np.mean(before < math.log(2.0)) > 0.05 - 0.02


def test_few_candidates_bound_no_median() -> None:
    assert math.isnan(_median_bound(np.full(4, 0.001)))
    assert _median_bound(np.full(5, 0.001)) == 0.001


class SlowDevice(FakeDevice):
    """Each candidate takes its seconds, by a clock of its own."""

    def __init__(
        self, graph: KernelGraph, patch: pytest.MonkeyPatch, seconds: float, beside: int = 0
    ) -> None:
        super().__init__(graph, noise=0.0)
        self.now, self.seconds, self.beside = 0.0, seconds, beside
        patch.setattr("autoprune.cost.build.time", SimpleNamespace(monotonic=lambda: self.now))

    def measure(
        self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
    ) -> list[Measurement]:
        self.now += self.seconds * (len(candidates) + self.beside)
        return super().measure(candidates, kernels=kernels, care=care)


@pytest.mark.parametrize("beside", [0, 2])
@pytest.mark.parametrize("budget_s", [24.0, 37.0, 43.0, 51.0])
def test_builder_keeps_to_its_time(
    monkeypatch: pytest.MonkeyPatch, beside: int, budget_s: float
) -> None:
    """A small last batch takes more for each candidate: the dense network is measured in each."""
    device = SlowDevice(chain((16, 32)), monkeypatch, seconds=1.0, beside=beside)
    table = build_table(
        device.graph, device.measure, DEVICE, candidates=60, target_error=0.0, budget_s=budget_s
    )
    assert table.info["build"]["stopped"] == "time"
    assert device.now <= budget_s
    assert table.info["build"]["candidates"] >= 0.5 * budget_s


def test_builder_keeps_to_its_time_where_profiling_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Profiling(SlowDevice):
        def measure(
            self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
        ) -> list[Measurement]:
            self.now += 3.0 * self.seconds * len(candidates) if kernels else 0.0
            return super().measure(candidates, kernels=kernels, care=care)

    for budget_s in (300.0, 400.0, 500.0, 600.0):
        device = Profiling(chain((16, 32)), monkeypatch, seconds=1.0)
        table = build_table(
            device.graph, device.measure, DEVICE, target_error=0.0, budget_s=budget_s
        )
        assert table.info["build"]["stopped"] == "time"
        assert 0.85 * budget_s < device.now <= budget_s


def test_most_candidates_of_a_large_table_are_not_profiled() -> None:
    graph = chain((32, 48, 64))
    device = FakeDevice(graph, noise=0.0)
    asked: list[tuple[bool, int]] = []

    def measure(candidates: Sequence[Candidate], *, kernels: bool, care: Care) -> list[Measurement]:
        asked.append((kernels, len(candidates) - 1))
        return device.measure(candidates, kernels=kernels, care=care)

    table = build_table(graph, measure, DEVICE, candidates=300, target_error=0.0, budget_s=1e9)
    counts = np.cumsum([count for _, count in asked])
    assert all(kernels for (kernels, _), before in zip(asked[1:], counts, strict=False)
               if before < 64)  # fmt: skip
    later = [kernels for (kernels, _), before in zip(asked[1:], counts, strict=False)
             if before >= 64]  # fmt: skip
    assert any(later)
    assert later.count(False) > later.count(True)
    profiled = [bool(o.kernel_ms) for o in table.observations]
    assert profiled.count(True) == sum(n for k, n in asked if k) + sum(k for k, _ in asked)
    error, _, _ = errors(table, device, random_kept(graph, 100, 5))
    assert np.median(error) < 0.01


def test_what_was_measured_in_one_call_is_one_batch() -> None:
    graph = chain((16, 32))
    calls: list[list[float]] = []
    device = FakeDevice(graph, noise=0.01)

    def measure(candidates: Sequence[Candidate], *, kernels: bool, care: Care) -> list[Measurement]:
        found = device.measure(candidates, kernels=kernels, care=care)
        calls.append([m.ratio for m in found])
        return found

    table = build_table(graph, measure, DEVICE, candidates=40, target_error=0.0, budget_s=1e9)
    batches = {o.batch: sorted(x.ratio for x in table.observations if x.batch == o.batch)
               for o in table.observations}  # fmt: skip
    assert sorted(batches.values()) == sorted(sorted(ratios) for ratios in calls)
    assert len(batches) > 3


def test_too_short_a_time_is_refused_and_says_how_long_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = SlowDevice(chain((16, 32)), monkeypatch, seconds=100.0)
    with pytest.raises(TableError, match=r"only 2 could be measured .*timeout_s.* to 2401 s"):
        build_table(device.graph, device.measure, DEVICE, candidates=60, budget_s=150.0)
    assert device.calls == [3]


def test_builder_refuses_what_can_not_work() -> None:
    graph = chain((16, 32))
    device = FakeDevice(graph)
    with pytest.raises(TableError, match="8 candidates or more, got 3"):
        build_table(graph, device.measure, DEVICE, candidates=3)
    device.broken.add(graph.dense.key)
    with pytest.raises(ProfilerError, match="it failed"):
        build_table(graph, device.measure, DEVICE, candidates=8)


def test_builder_refuses_a_table_of_mostly_failures() -> None:
    graph = chain((16, 32))
    device = FakeDevice(graph)
    plan = covering(graph, 8, np.random.default_rng(0))
    keys = [c.key for c in graph.instantiate(plan).candidates()]
    device.broken.update([k for k in keys if k != graph.dense.key][:6])
    with pytest.raises(TableError, match="6 of 8 failed"):
        build_table(graph, device.measure, DEVICE, candidates=8)


def test_an_empty_table_says_so() -> None:
    table = LatencyTable(DEVICE, 1.0)
    graph = chain()
    with pytest.raises(TableError, match="has none"):
        table.predict(graph.workloads([graph.dense]))
    with pytest.raises(TableError, match="above 0, got nan"):
        LatencyTable(DEVICE, float("nan"))


def test_covering_covers_sizes_and_counts() -> None:
    graph = chain((16, 64, 64))
    kept = covering(graph, 60, np.random.default_rng(0))
    assert (kept >= 1).all()
    assert (kept <= graph.units).all()
    assert len(set(kept[:, 0])) >= 12
    share = (kept / graph.units).mean(axis=1)
    assert share.min() < 0.15
    assert share.max() > 0.85
    choices = {"layer0": [4, 16], "layer1": [8, 64], "layer2": [64]}
    fixed = covering(graph, 20, np.random.default_rng(0), choices)
    assert {tuple(sorted(set(column))) for column in fixed.T} == {(4, 16), (8, 64), (64,)}
    with pytest.raises(CandidateError, match="between 1 and 16"):
        covering(graph, 5, np.random.default_rng(0), {"layer0": [17]})
    with pytest.raises(CandidateError, match="unknown: \\['other'\\]"):
        covering(graph, 5, np.random.default_rng(0), {"other": [1]})


def test_covering_leaves_groups_whole_beside_thinned_ones() -> None:
    graph = chain((16, 64, 64))
    kept = covering(graph, 120, np.random.default_rng(0))
    whole, thin = kept == graph.units, kept <= 0.75 * graph.units
    for group in range(3):
        beside = (whole[:, group] & thin[:, (group + 1) % 3]).sum()
        assert beside >= 8, "by chance alone they would be two or three"
    assert whole.all(axis=1).sum() <= 4, "the dense network is measured anyway"
    assert (covering(chain((16,)), 20, np.random.default_rng(0)) < 16).sum() > 10
    fewer = covering(graph, 60, np.random.default_rng(0), {"layer1": [8, 40]})
    assert (fewer[:, 1] == 40).sum() > 30, "whole is the most that may be kept"


def test_accuracy_needs_a_measurement(
    built: tuple[KernelGraph, FakeDevice, LatencyTable],
) -> None:
    graph, _, table = built
    with pytest.raises(TableError, match="none succeeded"):
        accuracy(table, graph, graph.units[None], [Measurement("x", error="no")])
    assert isinstance(graph.dense, Candidate)


class Tempered(nn.Module):
    """Logits over a learned temperature, and their sum: ops on scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.head(self.conv(x).relu().mean((2, 3))) * self.scale.exp()
        return y, y.sum()


@pytest.mark.parametrize("timed", [True, False])
def test_ops_on_scalars_are_kernels_too(timed: bool) -> None:
    graph = trace(Tempered(), torch.zeros(2, 3, 8, 8)).kernels
    assert any(k.base == (1,) and not any(k.weight) for k in Layout.of(graph).kernels)

    def measure(candidates: Sequence[Candidate], *, kernels: bool, care: Care) -> list[Measurement]:
        found = []
        for n, row in enumerate(graph.kept(candidates)):
            ratio = float(0.5 + 0.5 * (row / graph.units).mean())
            times = (KernelTime("conv2d", ("conv",), "Conv", 0.1 * ratio),) if timed else ()
            found.append(Measurement(str(n), ratio, (ratio, ratio), ratio, (ratio, ratio),
                                     kernels=times))  # fmt: skip
        return found

    table = build_table(graph, measure, DEVICE, candidates=8)
    assert np.isfinite(table.predict(graph.workloads([graph.dense])).mean["latency_ms"]).all()
