from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from cost_devices import DEVICE, FakeDevice, chain
from test_cost_format import seal

from autoprune.core import Candidate, Measurement
from autoprune.core.cost import Costs
from autoprune.core.errors import TableFormatError
from autoprune.cost.analytic import AnalyticCost
from autoprune.cost.base import Combined
from autoprune.cost.build import build_table
from autoprune.cost.energy import LatencyAlone, ReferenceEnergy
from autoprune.cost.table import LatencyTable

GOLDEN = Path(__file__).parent / "golden" / "schema-1-energy.jsonl"


class MeteredDevice(FakeDevice):
    """Draws power when idle, and energy for each multiply-accumulate, blocks not rounded up."""

    source = "measured"

    def energy(self, candidate: Candidate) -> float:
        macs = AnalyticCost().predict(self.graph.workloads([candidate])).mean["macs"][0]
        return 2.0 * self.latency(candidate) + 1.2e-7 * float(macs)

    def energy_ratio(self, candidate: Candidate) -> float:
        return self.energy(candidate) / self.energy(self.graph.dense)

    def _one(self, index: int, candidate: Candidate, kernels: bool) -> Measurement:
        found = super()._one(index, candidate, kernels)
        if not found.ok:
            return found
        noise = float(np.exp(self.rng.normal(0, self.noise / 3))) if index else 1.0
        ratio = self.energy_ratio(candidate) * noise
        half = 2 * max(self.noise, 1e-4) / 3 * ratio
        return replace(
            found,
            energy_mj=ratio * self.energy(self.graph.dense),
            energy_ratio=ratio,
            energy_ratio_interval=(ratio - half, ratio + half),
            energy_source=self.source,
        )


GRAPH = chain((16, 32, 48, 32))


def build(device: FakeDevice, candidates: int = 24) -> LatencyTable:
    return build_table(device.graph, device.measure, DEVICE, candidates=candidates)


@pytest.fixture(scope="module")
def device() -> MeteredDevice:
    return MeteredDevice(GRAPH, noise=0.01)


@pytest.fixture(scope="module")
def table(device: MeteredDevice) -> LatencyTable:
    return build(device)


def fresh(count: int = 60) -> np.ndarray:
    return np.random.default_rng(5).integers(1, GRAPH.units + 1, (count, len(GRAPH.units)))


def truths(device: MeteredDevice, rows: np.ndarray) -> np.ndarray:
    candidates: Sequence[Candidate] = GRAPH.instantiate(rows).candidates()
    return np.array([device.energy(c) for c in candidates])


def test_energy_is_predicted_beside_latency_and_is_another_figure(
    device: MeteredDevice, table: LatencyTable
) -> None:
    assert table.metrics == ("latency_ms", "energy_mj")
    costs = table.predict(GRAPH.instantiate(fresh()))
    truth = truths(device, fresh())
    error = np.abs(costs.mean["energy_mj"] / truth - 1)
    assert np.median(error) < 0.01
    inside = np.abs(costs.mean["energy_mj"] - truth) <= 1.645 * costs.std["energy_mj"]
    assert inside.mean() > 0.85
    dense_mj = device.energy(GRAPH.dense)
    proportional = costs.mean["latency_ms"] / table.reference_ms * dense_mj
    assert np.median(np.abs(proportional / truth - 1)) > 3 * np.median(error)
    assert set(costs.source["energy_mj"]) <= {"table", "interpolated", "extrapolated"}


def test_the_dense_network_takes_what_was_measured(
    device: MeteredDevice, table: LatencyTable
) -> None:
    assert table.reference_energy is not None
    assert table.reference_energy.mj == pytest.approx(device.energy(GRAPH.dense))
    dense = table.predict(GRAPH.instantiate(GRAPH.units[None]))[0]
    assert dense.energy_mj == pytest.approx(table.reference_energy.mj, rel=0.01)


def test_a_measured_candidate_is_then_predicted_as_measured(device: MeteredDevice) -> None:
    table = build(MeteredDevice(GRAPH, noise=0.002), 8)
    row = np.array([[3, 7, 9, 5]])
    own = GRAPH.instantiate(row)
    before = table.predict(own)[0]
    assert before.energy_mj is not None
    off = before.energy_mj * 1.3 / table.reference_energy.mj  # type: ignore[union-attr]
    told = Measurement(
        "v", ratio=0.5, ratio_interval=(0.498, 0.502), energy_mj=1.0,
        energy_ratio=off, energy_ratio_interval=(off * 0.998, off * 1.002),
    )  # fmt: skip
    table.update(own, [told])
    after = table.predict(own)[0]
    assert after.energy_mj == pytest.approx(before.energy_mj * 1.3, rel=0.05)


def test_energy_that_is_modelled_stays_modelled() -> None:
    device = MeteredDevice(GRAPH)
    device.source = "modelled"
    costs = build(device, 8).predict(GRAPH.instantiate(fresh(5)))
    assert set(costs.source["energy_mj"]) == {"modelled"}
    assert "modelled" not in set(costs.source["latency_ms"])


def test_a_device_without_energy_predicts_none(table: LatencyTable) -> None:
    silent = build(FakeDevice(GRAPH, noise=0.01), 8)
    assert silent.metrics == ("latency_ms",)
    assert silent.reference_energy is None
    few = LatencyTable(DEVICE, 1.0)
    one = Measurement("d", ratio=1.0, energy_mj=2.0, energy_ratio=1.0)
    few.add(GRAPH.instantiate(GRAPH.units[None]), [one])
    assert few.metrics == ("latency_ms",)
    assert LatencyTable(DEVICE, 1.0).metrics == ("latency_ms",)


def test_energy_is_left_out_where_it_is_not_asked_for(table: LatencyTable) -> None:
    both = Combined(AnalyticCost(), table)
    alone = both.narrowed({"latency_ms"})
    assert alone.metrics == ("latency_ms",)
    assert isinstance(alone, Combined)
    assert isinstance(alone.models[0], LatencyAlone)
    work = GRAPH.instantiate(fresh(3))
    assert set(alone.predict(work).mean) == {"latency_ms"}
    np.testing.assert_array_equal(
        alone.predict(work).mean["latency_ms"], table.predict(work).mean["latency_ms"]
    )
    assert set(both.narrowed({"energy_mj"}).metrics) == {"latency_ms", "energy_mj"}


def test_what_is_saved_is_read_back(table: LatencyTable, tmp_path: Path) -> None:
    again = LatencyTable.load(table.save(tmp_path / "table.jsonl"))
    assert again.reference_energy == table.reference_energy
    assert again.observations == table.observations
    ours, theirs = (t.predict(GRAPH.instantiate(fresh())) for t in (table, again))
    for metric in ("latency_ms", "energy_mj"):
        # Fitted anew: linear algebra may round otherwise where arrays lie otherwise in memory.
        np.testing.assert_allclose(ours.mean[metric], theirs.mean[metric], rtol=1e-6)
        np.testing.assert_allclose(ours.std[metric], theirs.std[metric], rtol=1e-6)


def changed(path: Path, header: dict[str, object], drop: Sequence[str] = ()) -> str:
    """A table's lines with another header, and without some entries of its candidates."""
    first, *rest = path.read_text().splitlines()[:-1]
    told = {k: v for k, v in {**json.loads(first), **header}.items() if v is not None}
    lines = [{k: v for k, v in json.loads(line).items() if k not in drop} for line in rest]
    return seal([json.dumps(line) for line in (told, *lines)])


def test_a_table_that_has_millijoules_alone(
    device: MeteredDevice, table: LatencyTable, tmp_path: Path
) -> None:
    path = table.save(tmp_path / "table.jsonl")
    old = tmp_path / "old.jsonl"
    drop = ("energy_ratio", "energy_std")
    old.write_text(changed(path, {"reference_energy": None}, drop))
    found = LatencyTable.load(old)
    assert table.reference_energy is not None
    assert found.reference_energy is not None
    assert found.reference_energy.mj == pytest.approx(table.reference_energy.mj)
    assert found.reference_energy.source == "measured"
    costs: Costs = found.predict(GRAPH.instantiate(fresh()))
    assert np.median(np.abs(costs.mean["energy_mj"] / truths(device, fresh()) - 1)) < 0.05
    details = {**DEVICE.details, "energy": "modelled, 15 W (power_w) times latency"}
    device_line = {"device": {**asdict(DEVICE), "details": details}, "reference_energy": None}
    old.write_text(changed(path, device_line, drop))
    modelled = LatencyTable.load(old).reference_energy
    assert modelled == ReferenceEnergy(found.reference_energy.mj, "modelled")


@pytest.mark.parametrize("wrong", [{"mj": -1, "source": "measured"}, {"mj": 1, "source": "guess"}])
def test_a_reference_that_can_not_be_one(
    table: LatencyTable, tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = table.save(tmp_path / "table.jsonl")
    path.write_text(changed(path, {"reference_energy": wrong}))
    with pytest.raises(TableFormatError, match="reference_energy of a latency table must be"):
        LatencyTable.load(path)


def test_tables_with_energy_stay_readable() -> None:
    """Written when schema 1 began to keep energy; never written again."""
    graph = chain((8, 16))
    table = LatencyTable.load(GOLDEN, DEVICE)
    rows = np.random.default_rng(0).integers(1, graph.units + 1, (20, len(graph.units)))
    costs = table.predict(graph.instantiate(rows))
    device = MeteredDevice(graph, block=4)
    truth = [device.energy(c) for c in graph.instantiate(rows).candidates()]
    np.testing.assert_allclose(costs.mean["energy_mj"], truth, rtol=0.1)
    expected = json.loads((GOLDEN.parent / "schema-1-energy.expected.json").read_text())
    np.testing.assert_allclose(costs.mean["energy_mj"], expected["energy_mj"], rtol=1e-3)
    np.testing.assert_allclose(costs.std["energy_mj"], expected["std"], rtol=0.02)
