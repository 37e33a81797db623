from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cost_devices import DEVICE, FakeDevice, chain

from autoprune.core import Candidate, Measurement
from autoprune.core.device import UNSTEADY
from autoprune.core.errors import TableError, TableMismatchError
from autoprune.cost.borrow import borrow_for
from autoprune.cost.build import build_table
from autoprune.cost.check import check_table
from autoprune.cost.compare import difference, merge
from autoprune.cost.layout import Layout
from autoprune.cost.locate import remember, remembered, tables_of
from autoprune.cost.table import LatencyTable

GRAPH = chain((32, 48, 64))


def measured(block: int = 16, seed: int = 0, candidates: int = 24) -> LatencyTable:
    device = FakeDevice(GRAPH, block, noise=0.01, seed=seed)
    return build_table(
        GRAPH, device.measure, DEVICE, candidates=candidates, target_error=0.0, budget_s=1e9,
        seed=seed, info={"network": "a chain"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> tuple[LatencyTable, LatencyTable]:
    return measured(seed=0), measured(seed=1)


def test_two_tables_of_a_device_agree(tables: tuple[LatencyTable, LatencyTable]) -> None:
    found = difference(*tables)
    assert found.same_network
    assert not found.beyond_noise
    assert found.forward is not None
    assert found.forward.candidates == 24
    assert found.forward.median_error < 0.05
    assert found.kernels
    assert sum(k.share for k in found.kernels) == pytest.approx(1.0)


def test_a_device_with_other_steps_differs(tables: tuple[LatencyTable, LatencyTable]) -> None:
    found = difference(tables[0], measured(block=64, seed=2))
    assert found.beyond_noise
    assert found.forward is not None
    assert found.forward.median_error > 0.05


class UnsteadyDevice(FakeDevice):
    """Under load: every session of a network is quicker or slower than the next, to its end."""

    def _one(self, index: int, candidate: Candidate, kernels: bool) -> Measurement:
        found = super()._one(index, candidate, kernels)
        luck = float(np.exp(self.rng.normal(0, 0.03))) if index else 1.0
        ratio, (low, high) = found.ratio, found.ratio_interval
        return replace(
            found,
            ratio=ratio * luck,
            ratio_interval=(low * luck, high * luck),
            samples_ms=tuple(s * luck for s in found.samples_ms),
        )


def test_tables_measured_under_load_agree_by_what_they_know_of_themselves() -> None:
    quiet, loaded = measured(seed=3), []
    for seed in (4, 5):
        device = UnsteadyDevice(GRAPH, noise=0.01, seed=seed)
        loaded.append(
            build_table(
                GRAPH,
                device.measure,
                DEVICE,
                candidates=24,
                target_error=0.0,
                budget_s=1e9,
                seed=seed,
            )
        )
    for pair in ((quiet, loaded[0]), (loaded[0], loaded[1])):
        found = difference(*pair)
        assert not found.beyond_noise
        assert found.forward is not None
        assert found.forward.limit < 0.15
    changed = difference(loaded[0], measured(block=64, seed=2))
    assert changed.beyond_noise


def test_other_devices_and_networks_differ(tables: tuple[LatencyTable, LatencyTable]) -> None:
    table = tables[0]
    other = LatencyTable(replace(DEVICE, threads=4, details={}), table.reference_ms)
    other.layouts, other.observations = table.layouts, table.observations
    found = difference(table, other)
    assert found.beyond_noise
    assert found.device == {"threads": (1, 4)}
    assert found.details == {"clocks": ("locked", None)}
    graph = chain((8, 16))
    small = build_table(graph, FakeDevice(graph).measure, DEVICE, candidates=8, budget_s=1e9)
    found = difference(table, small)
    assert not found.same_network
    assert found.forward is None
    with pytest.raises(TableMismatchError, match="same network and batch"):
        merge([table, small])
    with pytest.raises(
        TableMismatchError, match=r"number 2 to merge .* the table has 4, this is 1"
    ):
        merge([table, other])
    with pytest.raises(TableError, match="two tables or more, got 1"):
        merge([table])


def test_a_merged_table_knows_what_both_measured(
    tables: tuple[LatencyTable, LatencyTable], tmp_path: Path
) -> None:
    merged = merge([*tables, tables[0]])
    first, second = (len(t.observations) for t in tables)
    assert len(merged.observations) == first + second
    assert [part["candidates"] for part in merged.info["merged"]] == [first, second, 0]
    assert "accuracy" not in merged.info
    again = LatencyTable.load(merged.save(tmp_path / "merged.jsonl"), DEVICE)
    kept = np.random.default_rng(3).integers(1, GRAPH.units + 1, (50, 3))
    truth = [FakeDevice(GRAPH).ratio(c) for c in GRAPH.instantiate(kept).candidates()]
    mean, _, _ = again.predict_ratio(again.layout(GRAPH), kept)
    assert np.median(np.abs(mean / np.array(truth) - 1)) < 0.03


def test_a_check_holds_on_the_same_device_and_fails_on_a_changed_one(
    tables: tuple[LatencyTable, LatencyTable],
) -> None:
    calls = []
    found = check_table(
        tables[0], GRAPH, FakeDevice(GRAPH, noise=0.01, seed=5).measure, samples=8,
        on_progress=lambda done, total, text: calls.append((done, total)),
    )  # fmt: skip
    assert found.holds
    assert found.found.candidates == 8
    assert calls == [(0, 8), (4, 8)]
    assert abs(found.drift) < 0.05
    changed = check_table(tables[0], GRAPH, FakeDevice(GRAPH, 64, noise=0.01).measure, samples=8)
    assert not changed.holds
    assert changed.found.median_error > changed.limit


def test_a_check_stops_at_its_time_and_refuses_another_network(
    tables: tuple[LatencyTable, LatencyTable],
) -> None:
    device = FakeDevice(GRAPH, noise=0.01)
    found = check_table(tables[0], GRAPH, device.measure, samples=12, timeout_s=1e-9)
    assert found.stopped == "time"
    assert found.found.candidates == 4
    with pytest.raises(TableMismatchError, match="no measurement of this one"):
        check_table(tables[0], chain((8, 16)), device.measure)


def test_reused_kernels_tell_of_a_network_that_has_hardly_been_measured(tmp_path: Path) -> None:
    first = measured(candidates=40)
    first.info["model"] = {"name": "chains:small"}
    graph = chain((32, 48, 64, 64))
    errors = []
    for reuse in ((), (first,)):
        device = FakeDevice(graph, noise=0.04, seed=7)
        table = build_table(
            graph, device.measure, DEVICE, candidates=8, target_error=0.0, budget_s=1e9,
            reuse=reuse,
        )  # fmt: skip
        kept = np.random.default_rng(3).integers(1, graph.units + 1, (100, 4))
        truth = np.array([device.ratio(c) for c in graph.instantiate(kept).candidates()])
        mean, _, _ = table.predict_ratio(table.layout(graph), kept)
        errors.append(float(np.median(np.abs(mean / truth - 1))))
    assert errors[1] < errors[0]
    build = table.info["build"]
    assert build["reused_runs"] == len(first.observations)
    assert build["reused_tables"] == ["chains:small"]
    assert build["reused_share"] > 0.9
    assert not table.knows(GRAPH)
    path = table.save(tmp_path / "reused.jsonl")
    again = LatencyTable.load(path, DEVICE)
    np.testing.assert_allclose(
        again.predict_ratio(again.layout(graph), kept)[0], mean, rtol=1e-4, atol=1e-6
    )
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds.count("borrowed") == len(first.observations)
    assert kinds.count("borrowed_network") == 1
    # A third network takes the first one's runs once, however many tables hold them.
    runs, names = borrow_for(Layout.of(chain((16, 48, 64))), [table, first], DEVICE)
    assert len(runs) == len(first.observations) + len(table.observations)
    assert names == ["unnamed", "chains:small"]
    other = Layout.of(chain((16, 48), size=4))
    assert borrow_for(other, [table, first], DEVICE) == ([], [])


def test_tables_are_remembered_and_found_for_their_device_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("AUTOPRUNE_TABLES", str(tmp_path / "kept"))
    table = measured(candidates=8)
    path = remember(table)
    assert path is not None
    assert path.is_relative_to(tmp_path / "kept")
    found = [t for t in tables_of(DEVICE) if t.reference_ms == table.reference_ms]
    assert len(found) == 1
    assert found[0].observations == table.observations
    assert remember(table) == path  # the newest of each network
    for other in (replace(DEVICE, threads=2), replace(DEVICE, runtime_version="9")):
        assert tables_of(other) == []
    monkeypatch.setenv("AUTOPRUNE_TABLES", "")
    assert remember(table) is None
    assert tables_of(DEVICE) == []
    monkeypatch.delenv("AUTOPRUNE_TABLES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert remembered() == tmp_path / "autoprune" / "latency_models"


@pytest.mark.parametrize("taken_out", [False, True])
def test_times_that_hold_what_else_was_at_work_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_out: bool
) -> None:
    class Busy(FakeDevice):
        def _one(self, index: int, candidate: Candidate, kernels: bool) -> Measurement:
            found = super()._one(index, candidate, kernels)
            raw = found.samples_ms if taken_out else ()
            notes = (f"{UNSTEADY}: 90 % of 20 visits took 1 to 2 ms",) if index == 0 else ()
            return replace(found, notes=notes, raw_ms=raw, raw_reference_ms=raw)

    monkeypatch.setenv("AUTOPRUNE_TABLES", str(tmp_path))
    table = build_table(GRAPH, Busy(GRAPH).measure, DEVICE, candidates=8, budget_s=1e9)
    assert table.disturbed is not taken_out
    remember(table)
    assert (table.reference_ms in [t.reference_ms for t in tables_of(DEVICE)]) is taken_out


def test_a_folder_that_can_not_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_TABLES", str(tmp_path / "file"))
    assert remember(measured(candidates=8)) is None
    assert "not kept for other networks" in caplog.text


def test_tables_of_another_device_are_not_reused() -> None:
    table = measured(candidates=8)
    other = replace(DEVICE, threads=2)
    with pytest.raises(TableMismatchError, match="threads"):
        build_table(
            GRAPH, FakeDevice(GRAPH).measure, other, candidates=8, budget_s=1e9, reuse=[table]
        )
