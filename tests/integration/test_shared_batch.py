"""Two folders of one sweep with a `study`, as on two clusters: what their workers run."""

from pathlib import Path

import pytest
import tiny_task

from autoprune.core.errors import ConfigError, ProfilerError, RunError
from autoprune.study.batch_config import plan, validate_sweep
from autoprune.study.batch_folder import BatchFolder
from autoprune.study.batch_job import Ended, run_search, run_table
from autoprune.study.shared_table import SharedTable

TESTS = Path(__file__).parents[1]


def settings(folder, name, **changes):
    return {
        "out": str(folder / name),
        "models": [{**tiny_task.MODEL, "calibration": "tiny_task:calibration"}],
        "budgets": ["latency=0.75x"],
        "devices": [
            {
                "name": "autoprune.testing.fake_profiler:FakeProfiler",
                "options": {"block": 8, "gmacs_per_s": 2.0, "noise": 0.01},
            }
        ],
        "searchers": ["random"],
        "defaults": {
            "trials": 6,
            "verify": {"top": 1},
            "profile": {"candidates": 8},
            "storage": f"sqlite:///{folder / 'trials.db'}",
        },
        "study": "night",
        **changes,
    }


def made(folder, name):
    sweep = validate_sweep(settings(folder, name), "sweep.yaml")
    made = BatchFolder.create(sweep, folder, "sweep.yaml")
    assert BatchFolder.open(made.path).driver == made.driver
    return made


def test_searches_and_tables_of_two_folders_are_each_made_once(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    monkeypatch.setenv("TINY_CALLS", str(calls))
    results, counts = [], []
    for name in "ab":
        folder = made(tmp_path, name)
        (job,) = folder.jobs
        assert job.config.study == f"night/{job.name}"
        assert run_table(str(folder.path), job.table, 0) == Ended()
        assert run_search(str(folder.path), 0, 0) == Ended()
        results.append(folder.result(job))
        counts.append(len(calls.read_text().splitlines()))
    # The dense network, six trials, and what is shipped; the second one ships only.
    assert counts == [8, 9]
    assert results[0]["winner"]["kept"] == results[1]["winner"]["kept"]
    assert results[0]["trials"] == results[1]["trials"] == {"finished": 6, "failed": 0}
    tables = [(tmp_path / name / "tables" / f"{job.table}.jsonl").read_text() for name in "ab"]
    assert tables[0] == tables[1]  # the noise of the device is another one each time
    assert not list(tmp_path.glob("*/tables/*.measured"))


def test_a_table_that_can_not_be_measured_is_nobodys(tmp_path):
    url = f"sqlite:///{tmp_path / 'trials.db'}"

    def broken():
        raise ProfilerError("the device is away")

    with pytest.raises(ProfilerError), SharedTable(url, "night/table/x", {}, "a") as first:
        first.take(broken, print)
    for driver, text in (("b", "rows"), ("a", "others"), ("b", "others")):
        with SharedTable(url, "night/table/x", {}, driver) as table:
            assert table.take(lambda text=text: text, print) == "rows"


def test_who_waits_for_a_table_is_told_that_it_was_given_up(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    told = []
    with SharedTable(url, "night/table/x", {}, "b") as waiting:
        assert waiting.first
    first = SharedTable(url, "night/table/x", {}, "a")

    def gives_up(text):
        told.append(text)
        first.__exit__(None, None, None)

    second = SharedTable(url, "night/table/x", {}, "b")
    with second, pytest.raises(RunError, match="failed before"):
        second.take(lambda: "rows", gives_up)
    assert told == ["waiting for the driver a, which prepares the study"]


def test_a_shared_sweep_needs_a_database(tmp_path):
    given = settings(tmp_path, "a", defaults={"trials": 6})
    with pytest.raises(ConfigError, match="give its URL by `storage`"):
        validate_sweep(given, "sweep.yaml")
    given = settings(tmp_path, "a", study=None)
    assert {job.config.study for job in plan(validate_sweep(given, "s"), "s")} == {None}
