from pathlib import Path

import pytest
import yaml

from autoprune.core.errors import ConfigError
from autoprune.study.batch_config import plan, read_sweep, validate_sweep, write_sweep

TINY = {"name": "tiny", "model": "tiny_task:build", "inputs": "2x3x8x8"}
SWEEP = {
    "out": "runs/x",
    "models": [{**TINY, "evaluate": "tiny_task:evaluate"}, {**TINY, "name": "other net"}],
    "budgets": ["latency=0.7x", {"macs": "0.5x"}],
    "devices": ["onnxruntime-cpu", {"name": "a.b:Fake", "options": {"block": 8}}],
    "searchers": ["tpe", "random"],
    "seeds": [0, 1],
    "defaults": {"trials": 7},
}


def sweep(**changes):
    return validate_sweep({**SWEEP, **changes}, "sweep.yaml")


def test_every_combination_is_a_job_with_a_name_of_its_own():
    jobs = plan(sweep(), "sweep.yaml")
    assert len(jobs) == 2 * 2 * 2 * 2 * 2 == len({job.name for job in jobs})
    first, last = jobs[0], jobs[-1]
    assert first.name == "tiny--latency_ms=0.7x--onnxruntime-cpu--tpe--seed0"
    assert (first.config.seed, first.config.trials) == (0, 7)
    assert first.config.device.name == "onnxruntime-cpu"
    assert first.config.evaluate.name == "tiny_task:evaluate"
    assert last.name == "other-net--macs=0.5x--Fake--random--seed1"
    assert last.config.device.options == {"block": 8}


def test_searches_of_a_model_on_a_device_share_a_table_where_latency_is_bounded():
    tables = {job.name: job.table for job in plan(sweep(), "sweep.yaml")}
    assert {table for name, table in tables.items() if "latency" in name} == {
        "tiny--onnxruntime-cpu",
        "tiny--Fake",
        "other-net--onnxruntime-cpu",
        "other-net--Fake",
    }
    assert {table for name, table in tables.items() if "macs" in name} == {None}


def test_two_devices_of_one_kind_differ_by_their_options():
    devices = [{"name": "cpu", "options": {"threads": n}} for n in (1, 2)]
    names = {job.device for job in plan(sweep(devices=devices), "s")}
    assert names == {"cpu(threads=1)", "cpu(threads=2)"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": [SWEEP["models"][0]] * 2}, "each model must stand once.*: tiny"),
        ({"models": [{"model": "a:b"}]}, "every entry of models must have a name"),
        ({"models": []}, "models: .*at least 1"),
        ({"budgets": ["macs=0.5x", {"macs": "0.5x"}]}, "each budget must stand once"),
        ({"budgets": [{"macs": "lots"}]}, "lots"),
        ({"devices": ["onnxruntime-cpu"] * 2}, "each device must stand once"),
        ({"devices": []}, "latency_ms=0.7x needs a device"),
        ({"searchers": ["tpe", "tpe"]}, "each searcher must stand once"),
        ({"seeds": [1, 1]}, "each seed must stand once"),
        ({"seed": 3}, "unknown setting 'seed'; did you mean 'seeds'"),
        ({"defaults": {"seed": 3}}, "'seed' can't be set in a model or in the defaults"),
        ({"defaults": {"trails": 3}}, "model 'tiny': unknown setting 'trails'; did you mean"),
        ({"jobs": {"parallel": 0}}, "jobs.parallel"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, message):
    with pytest.raises(ConfigError, match=message):
        sweep(**changes)


def test_it_can_be_written_and_read_again():
    first = sweep()
    again = validate_sweep(yaml.safe_load(write_sweep(first)), "batch.yaml")
    assert again == first


def test_the_sweep_that_is_shipped_can_be_read():
    path = Path(__file__).parents[3] / "configs" / "sweep.yaml"
    names = [job.name for job in plan(read_sweep(path), str(path))]
    assert len(names) == 4
    assert names[0].startswith("resnet56--latency")


def test_settings_override_it(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    found = read_sweep(path, ["jobs.parallel=3", "defaults.trials=9", "jobs.address=auto"])
    assert (found.jobs.parallel, found.jobs.address) == (3, "auto")
    assert plan(found, "x")[0].config.trials == 9
