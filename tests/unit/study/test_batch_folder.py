import csv
import json

import pytest

from autoprune.core.errors import RunError, RunLockedError, RunVersionError
from autoprune.report.batch import batch_picture
from autoprune.study.batch import cancel_batch
from autoprune.study.batch_config import validate_sweep
from autoprune.study.batch_folder import BatchFolder
from autoprune.study.batch_summary import write_summary

SWEEP = {
    "models": [{"name": "tiny", "model": "a:b", "inputs": "1x3", "evaluate": "a:c"}],
    "budgets": ["macs=0.5x", "macs=0.3x"],
    "searchers": ["random", "uniform"],
    "defaults": {"trials": 4, "device": None},
}


@pytest.fixture
def folder(tmp_path):
    sweep = validate_sweep({**SWEEP, "out": str(tmp_path / "run")}, "sweep.yaml")
    return BatchFolder.create(sweep, tmp_path, "sweep.yaml")


def finish(folder, index, value, *, held=True, latency=None):
    run = folder.run(folder.jobs[index])
    run.mkdir(parents=True)
    measured = None
    if latency is not None:
        interval = [latency - 0.1, latency + 0.1]
        ratio = latency / 5
        measured = {"error": None, "latency_ms": latency, "interval_ms": interval, "ratio": ratio}
    cost = {"macs": {"mean": 5e6, "std": 0.0, "source": "exact"}}
    result = {
        "held": held,
        "objective": "accuracy",
        "dense": {"metrics": {"accuracy": 0.9}},
        "winner": {
            "metrics": {"accuracy": value},
            "metrics_before_recovery": {"accuracy": value - 0.1},
            "cost": cost,
            "measured": measured,
        },
        "trials": {"finished": 4, "failed": 0},
        "seconds": {"total": 1.5},
    }
    (run / "result.json").write_text(json.dumps(result))


def names(folder):
    return [state.state for state in folder.states()]


def test_states_follow_the_files(folder):
    jobs = folder.jobs
    assert names(folder) == ["waiting"] * 4
    folder.tell(jobs[0].name, {"stage": "searching", "trials": 2, "total": 4, "best": 0.5})
    folder.fail(jobs[1].name, "no data", 2)
    finish(folder, 2, 0.8)
    finish(folder, 3, 0.7, held=False)
    assert names(folder) == ["stopped", "failed", "held", "not held"]
    with folder:
        states = BatchFolder.open(folder.path).states()
    assert [s.state for s in states] == ["running", "failed", "held", "not held"]
    assert (states[0].trials, states[0].total, states[0].best) == (2, 4, 0.5)
    assert (states[1].note, states[1].attempts) == ("no data", 2)
    folder.forget_failures()
    assert names(folder)[1] == "waiting"


def test_a_search_says_what_table_it_waits_for(tmp_path):
    sweep = {**SWEEP, "out": str(tmp_path / "run"), "budgets": ["latency=0.7x"]}
    sweep |= {"searchers": ["uniform"], "devices": ["onnxruntime-cpu"], "defaults": {}}
    folder = BatchFolder.create(validate_sweep(sweep, "sweep.yaml"), tmp_path, "sweep.yaml")
    (job,) = folder.jobs
    assert folder.state(job, driven=False).note == ""
    assert folder.state(job, driven=True).note == "for its latency table"
    folder.tell(f"table--{job.table}", {"stage": "measuring a latency table"})
    state = folder.state(job, driven=True)
    assert (state.state, state.note) == (
        "waiting",
        "for its latency table: measuring a latency table",
    )
    folder.table(job.table).parent.mkdir(parents=True)
    folder.table(job.table).touch()
    assert folder.state(job, driven=True).note == ""


def test_opened_again_it_has_the_same_jobs(folder, tmp_path):
    again = BatchFolder.open(folder.path)
    assert (again.sweep, again.base, again.jobs) == (folder.sweep, tmp_path, folder.jobs)


def test_one_process_drives_it(folder):
    assert not folder.driven
    with folder:
        other = BatchFolder.open(folder.path)
        assert other.driven
        with pytest.raises(RunLockedError, match="batch status"), other:
            pass
    assert not BatchFolder.open(folder.path).driven


def test_cancelling_leaves_a_mark(folder):
    assert not cancel_batch(folder.path)
    assert folder.cancelled.exists()


def test_a_folder_is_used_once_and_must_hold_a_batch(folder, tmp_path):
    with pytest.raises(RunError, match="batch resume"):
        BatchFolder.create(folder.sweep, tmp_path, "sweep.yaml")
    with pytest.raises(RunError, match="holds no batch"):
        BatchFolder.open(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        BatchFolder.open(tmp_path / "none")


def test_of_a_newer_version_it_is_refused(folder):
    folder.config.write_text(folder.config.read_text().replace("schema: 1", "schema: 99"))
    with pytest.raises(RunVersionError, match="newer autoprune"):
        BatchFolder.open(folder.path)


def test_the_summary_names_the_best_that_holds(folder):
    finish(folder, 0, 0.8, latency=2.0)
    finish(folder, 1, 0.85, latency=2.5)
    finish(folder, 2, 0.9, held=False)
    folder.fail(folder.jobs[3].name, "no data", 2)
    data = write_summary(folder)
    assert data["states"] == {"held": 2, "not held": 1, "failed": 1}
    assert [(b["budget"], b["value"]) for b in data["best"]] == [
        ("macs=0.5x", 0.85),
        ("macs=0.3x", None),
    ]
    assert data["best"][0]["folder"] == "jobs/tiny--macs=0.5x--uniform--seed0"
    assert json.loads((folder.path / "summary.json").read_text()) == data
    with (folder.path / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["held", "held", "not held", "failed"]
    assert rows[1]["latency_ms"] == "2.5"
    assert rows[1]["before_recovery"] == "0.75"
    assert rows[3]["error"] == "no data"


def test_the_picture_shows_latency_where_there_is_one_else_macs(folder):
    assert batch_picture(write_summary(folder), folder.path / "none.png") is None
    finish(folder, 2, 0.9, held=False)
    first = batch_picture(write_summary(folder), folder.path / "macs.png")
    finish(folder, 0, 0.8, latency=2.0)
    second = batch_picture(write_summary(folder), folder.path / "latency.png")
    assert first.read_bytes()[:4] == second.read_bytes()[:4] == b"\x89PNG"
    assert first.read_bytes() != second.read_bytes()
