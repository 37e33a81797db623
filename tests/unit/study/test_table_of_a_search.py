import dataclasses
import sys
from types import SimpleNamespace

import pytest
import tiny_task
from torch import nn

from autoprune.core.errors import BudgetError, ConfigError, ProfilerError, TableMismatchError
from autoprune.cost.pace import Care
from autoprune.cost.table import LatencyTable
from autoprune.graph import trace
from autoprune.study.conduct import prepare
from autoprune.study.config import validate
from autoprune.study.device import DeviceMeasure
from autoprune.study.folder import RunFolder
from autoprune.study.profiling import profile_config
from autoprune.study.progress import Progress
from autoprune.study.table import (
    bounds_latency,
    check_metrics,
    check_table,
    find_table,
    make_profiler,
    prepare_table,
    table_edges,
)
from autoprune.study.task import Task
from autoprune.testing.fake_profiler import FakeProfiler


def task(budget="latency=0.7x", **settings):
    config = validate(
        {"budget": budget, "profile": {"candidates": 8, "timeout_s": 3600}, **settings}, "test"
    )
    return Task(config, tiny_task.build(), (tiny_task.inputs(),), tiny_task.evaluate)


@pytest.fixture(scope="module")
def network():
    return trace(tiny_task.build(), tiny_task.inputs())


@pytest.fixture(scope="module")
def device(network):
    from autoprune.pruning.selection import select

    config = task().config
    return DeviceMeasure(
        network, FakeProfiler(block=8), lambda c: select(network, c), config.verify
    )


@pytest.fixture(scope="module")
def table(network, device, tmp_path_factory):
    folder = RunFolder.create(tmp_path_factory.mktemp("run"))
    return prepare_table(task(), network, device, folder, Progress()), folder


def test_a_measured_table_is_kept_and_taken_again(network, device, table):
    made, folder = table
    assert folder.table.is_file()

    class NeverAgain(FakeProfiler):
        def measure(self, artifacts, protocol):
            raise RuntimeError("measured again")

    again = DeviceMeasure(network, NeverAgain(block=8), None, task().config.verify)
    read = prepare_table(task(), network, again, folder, Progress())
    assert read.reference_ms == made.reference_ms
    assert len(read.observations) == len(made.observations)


def test_a_table_of_another_device_is_refused(network, table):
    other = DeviceMeasure(network, FakeProfiler(name="another"), None, task().config.verify)
    with pytest.raises(TableMismatchError, match="another"):
        prepare_table(task(), network, other, table[1], Progress())


def test_a_table_of_another_batch_size_is_refused(table, tmp_path):
    other = trace(tiny_task.build(), tiny_task.inputs(batch=5))
    with pytest.raises(TableMismatchError, match="another network or batch size"):
        check_table(LatencyTable.load(table[1].table), other, tmp_path)


def test_the_space_offers_plateau_edges(network, table):
    edges = table_edges(table[0], network)
    offered = list(edges("block1.conv1"))
    assert offered[-1] == 32
    assert set(offered) & {8, 16, 24}
    assert table_edges(None, network) is None


def test_a_counted_budget_needs_no_table(network):
    assert prepare_table(task("macs=0.5x"), network, None, None, Progress()) is None


def test_latency_needs_a_device(network):
    with pytest.raises(ConfigError, match="needs a device"):
        prepare_table(task(), network, None, None, Progress())


def test_tables_are_found_from_the_config_and_among_the_data(tmp_path, monkeypatch):
    (tmp_path / "beside.jsonl").write_text("")
    assert find_table("beside.jsonl", tmp_path) == tmp_path / "beside.jsonl"
    monkeypatch.setenv("AUTOPRUNE_DATA", str(tmp_path))
    (tmp_path / "latency_models").mkdir()
    (tmp_path / "latency_models" / "own.jsonl").write_text("")
    assert find_table("own.jsonl", tmp_path / "x") == tmp_path / "latency_models" / "own.jsonl"
    with pytest.raises(ConfigError, match=r"no latency table 'nowhere.jsonl'"):
        find_table("nowhere.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("budget", "latency"),
    [("macs=1M", False), ("latency=2ms", True), ("macs=1M,energy=0.5x", True)],
)
def test_which_budgets_need_a_device(budget, latency):
    assert bounds_latency(budget) is latency


@pytest.mark.parametrize("budget", ["latencyy=0.5x", "speed=3"])
def test_a_budget_on_what_nothing_predicts(budget):
    with pytest.raises(BudgetError, match="can't be predicted here"):
        check_metrics(task(budget))


def test_a_budget_on_energy_needs_a_device_that_tells_it(network, device, table, tmp_path):
    check_metrics(task("energy=0.5x"))
    with pytest.raises(BudgetError, match="can't be predicted here"):
        check_metrics(task("energy=0.5x", device=None))
    with pytest.raises(BudgetError, match=r"can't be held on fake device .*: it tells none\. Read"):
        prepare_table(task("energy=0.5x"), network, device, None, Progress())
    table[0].save(tmp_path / "silent.jsonl")
    silent = dataclasses.replace(task("energy=0.5x", table="silent.jsonl"), base=tmp_path)
    with pytest.raises(BudgetError, match="candidates' energy was measured"):
        prepare_table(silent, network, device, None, Progress())


def test_energy_is_told_against_the_tables_reference(network, tmp_path):
    from autoprune.pruning.selection import select

    profiler = FakeProfiler(block=8, idle_w=2.0, pj_per_mac=300.0)
    config = task("energy=0.5x").config
    metered = DeviceMeasure(network, profiler, lambda c: select(network, c), config.verify)
    made = prepare_table(task("energy=0.5x"), network, metered, None, Progress())
    assert made.metrics == ("latency_ms", "energy_mj")
    assert metered.reference_energy_mj == made.reference_energy.mj
    metered.reference_energy_mj *= 2  # as if the device had warmed up since
    (half,) = metered.candidates([network.dense], 1.0)
    assert half.energy_ratio == pytest.approx(1.0, abs=1e-6)
    assert half.energy_mj == pytest.approx(2 * made.reference_energy.mj, rel=1e-5)


def test_a_cost_model_of_ones_own_may_predict_it():
    class Watts(LatencyTable):
        metrics = ("energy_mj",)

    given = dataclasses.replace(task("energy=0.5x"), table=Watts(FakeProfiler().device, 1.0))
    check_metrics(given)


@pytest.mark.parametrize(
    ("name", "told"),
    [("onnxruntime-cpu?precision=int8", "batches that were given"), ("onnxruntime-cpu", None)],
)
def test_a_device_that_quantises_gets_the_calibration_batches(name, told):
    config = task(device=name).config
    profiler = make_profiler(config, [tiny_task.inputs()])
    assert profiler.device.details.get("calibrated_on") == told


class Lucky(FakeProfiler):
    """The reference's own session is slower than other sessions of the same network, by 6 %."""

    def measure(self, artifacts, protocol):
        first, *others = super().measure(artifacts, protocol)
        found = [first]
        for m in others:
            low, high = m.ratio_interval
            found.append(
                dataclasses.replace(
                    m,
                    ratio=m.ratio / 1.06,
                    ratio_interval=(low / 1.06, high / 1.06),
                    reference_ms=tuple(r * 1.06 for r in m.reference_ms),
                )
            )
        return found


def test_ratios_of_a_table_are_to_several_sessions_of_the_dense_network(network):
    from autoprune.pruning.selection import select

    def measured(profiler):
        device = DeviceMeasure(
            network, profiler, lambda c: select(network, c), task().config.verify
        )
        half = network.kernels.instantiate(network.kernels.units[None] // 2).candidates()
        return device.for_table([network.dense, *half], kernels=True)

    fair, unfair = measured(FakeProfiler()), measured(Lucky())
    assert len(unfair) == 2
    assert unfair[0].ratio == 1.0
    assert unfair[1].ratio == pytest.approx(fair[1].ratio * 1.06 ** (-1 / 3), rel=1e-6)
    for one in unfair:
        assert one.ratio == pytest.approx(one.samples_ms[0] / one.reference_ms[0], rel=1e-3)
    assert unfair[0].latency_ms == pytest.approx(fair[0].latency_ms * 1.06 ** (-2 / 3), rel=1e-6)


def test_candidates_to_learn_from_are_measured_briefly_and_to_check_on_closely(network):
    from autoprune.pruning.selection import select

    asked = []

    class Asked(FakeProfiler):
        def measure(self, artifacts, protocol):
            asked.append(protocol)
            return super().measure(artifacts, protocol)

    device = DeviceMeasure(network, Asked(), lambda c: select(network, c), task().config.verify)
    asks: list[tuple[bool, Care]] = [
        (True, "usual"),
        (False, "usual"),
        (False, "rough"),
        (False, "close"),
    ]
    for kernels, care in asks:
        device.for_table([network.dense, network.dense], kernels=kernels, care=care)
    learn, further, rough, check = asked
    assert learn.kernels
    assert not check.kernels
    assert further == dataclasses.replace(learn, kernels=False)
    assert rough == dataclasses.replace(further, max_rounds=rough.max_rounds)
    assert rough.min_rounds <= rough.max_rounds < learn.max_rounds
    assert learn.between > check.between
    assert learn.width > check.width
    assert learn.min_rounds < check.min_rounds


def test_what_was_measured_is_reused_for_the_next_network(network, tmp_path, monkeypatch):
    from autoprune.pruning.selection import select

    monkeypatch.setenv("AUTOPRUNE_TABLES", str(tmp_path / "kept"))
    told = []

    class Listening(Progress):
        def message(self, text):
            told.append(text)

    def measure(traced, **profile):
        job = task(profile={"candidates": 8, "timeout_s": 3600, **profile})
        device = DeviceMeasure(
            traced, FakeProfiler(), lambda c: select(traced, c), job.config.verify
        )
        return prepare_table(job, traced, device, None, Listening())

    assert not measure(network).borrowed
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1
    second = measure(network)
    assert second.borrowed
    assert second.info["build"]["reused_share"] > 0.9
    assert any("kernel times reused of 1 table of this device" in text for text in told)
    told.clear()
    assert not measure(network, reuse=False).borrowed
    assert not any("reused" in text for text in told)


@pytest.mark.parametrize("gmacs_per_s", [0.0003, 0.003])
def test_a_network_of_seconds_gets_the_time_that_it_needs(network, gmacs_per_s):
    from autoprune.pruning.selection import select

    profiler = FakeProfiler(gmacs_per_s=gmacs_per_s, block=8)
    slow = DeviceMeasure(network, profiler, lambda c: select(network, c), task().config.verify)
    made = prepare_table(task(), network, slow, None, Progress())
    assert made.reference_ms > 300
    assert made.info["build"]["failed"] == 0
    assert min(len(o.samples_ms) for o in made.observations) >= 2


def test_a_network_with_nothing_to_prune_gets_no_table(monkeypatch):
    monkeypatch.setitem(sys.modules, "a_user", SimpleNamespace(build=lambda: nn.ReLU()))
    options = {"model": "a_user:build", "inputs": "1x4", "device": "onnxruntime-cpu"}
    with pytest.raises(ConfigError, match="no channel group"):
        profile_config(None, options, (), Progress())


def test_a_device_that_can_not_be_is_told_before_the_network_is_traced():
    class Slow(nn.Module):
        def forward(self, x):
            raise AssertionError("traced already")

    asked = dataclasses.replace(task(device="onnxruntime-cpu?treads=2"), model=Slow())
    with pytest.raises(ProfilerError, match="has no option 'treads'"):
        prepare(asked, Progress())
