"""A budget on latency and energy at once, on a device whose energy is not its latency."""

import json

import pytest
import tiny_task

import autoprune
from autoprune.cost.table import LatencyTable
from autoprune.profile.power import StatedPower
from autoprune.report.summary import plain
from autoprune.study.reading import result_of
from autoprune.testing.fake_profiler import FakeProfiler

BUDGET = {"latency": "0.7x", "energy": "0.6x"}


def device(**settings):
    return FakeProfiler(block=8, idle_w=2.0, pj_per_mac=2000.0, noise=0.01, **settings)


def search(profiler, budget=BUDGET, **settings):
    return autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        evaluate=tiny_task.evaluate,
        budget=budget,
        device=profiler,
        calibration=tiny_task.calibration(),
        trials=6,
        searcher="random",
        profile={"candidates": 16, "timeout_s": 3600},
        verify={"top": 1, "rounds": 1},
        **settings,
    )


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "joint"
    return search(device(), out=folder), folder


def test_a_joint_budget_is_held_by_measuring_both(joint):
    result, folder = joint
    assert result.held
    assert all(over <= 0 for over in result.violations.values())
    assert set(result.violations) == {"latency_ms", "energy_mj"}
    found = result.verification
    assert found.interval_ms[1] <= result.limits.latency_ms.value
    assert found.energy_interval_mj[1] <= result.limits.energy_mj.value
    assert abs(found.measurement.energy_ratio / found.measurement.ratio - 1) > 0.05
    assert result.cost.estimates["energy_mj"].source == "measured"
    assert result.predicted.estimates["energy_mj"].source in ("table", "interpolated")
    off = result.predicted.energy_mj / result.cost.energy_mj - 1
    assert abs(off) < 0.1
    data = json.loads((folder / "result.json").read_text())
    measured = data["winner"]["measured"]
    assert measured["energy_source"] == "measured"
    assert measured["energy_interval_mj"][1] <= data["budget"]["limits"]["energy_mj"]
    assert measured["energy_ratio"] <= 0.6
    text = plain(data)
    assert "energy, measured" in text
    assert "budget held: energy_mj measured" in text
    assert "budget held: latency_ms measured" in text


def test_the_tables_energy_is_kept_and_the_run_read_back(joint):
    result, folder = joint
    table = LatencyTable.load(next(folder.glob("table*")))
    assert table.metrics == ("latency_ms", "energy_mj")
    assert result.dense_cost.energy_mj == pytest.approx(table.reference_energy.mj, rel=1e-3)
    data = json.loads((folder / "result.json").read_text())
    again = result_of(data, tiny_task.build(), (tiny_task.inputs(),), (), folder)
    assert again.verification.energy_interval_mj == pytest.approx(
        result.verification.energy_interval_mj
    )
    assert again.held


class Warming(FakeProfiler):
    """Pruned networks take more energy from the moment on that the table is built."""

    extra = 1.0

    def measure(self, artifacts, protocol):
        found = super().measure(artifacts, protocol)
        if protocol.kernels or len(artifacts) < 2:
            return found
        from dataclasses import replace

        return [
            found[0],
            *(
                replace(
                    m,
                    energy_mj=m.energy_mj * self.extra,
                    energy_ratio=m.energy_ratio * self.extra,
                    energy_ratio_interval=tuple(e * self.extra for e in m.energy_ratio_interval),
                )
                for m in found[1:]
            ),
        ]


def test_energys_measured_upper_bound_decides():
    profiler = Warming(block=8, idle_w=2.0, pj_per_mac=2000.0)
    profiler.extra = 40.0
    result = search(profiler)
    assert not result.held
    assert result.violations["latency_ms"] <= 0
    assert result.violations["energy_mj"] > 0
    assert "budget not held: energy_mj measured" in plain(result.data)


def test_energy_that_is_modelled_is_told_so_to_the_end():
    result = search(StatedPower(FakeProfiler(block=8), 7.5), {"energy": "0.7x"})
    assert result.held
    assert result.cost.estimates["energy_mj"].source == "modelled"
    assert result.predicted.estimates["energy_mj"].source == "modelled"
    assert result.data["winner"]["measured"]["energy_source"] == "modelled"
    assert result.data["device"]["details"]["energy"].startswith("modelled, 7.5 W")
    text = plain(result.data)
    assert "energy, modelled" in text
    assert "budget held: energy_mj modelled" in text
    assert "energy, measured" not in text
