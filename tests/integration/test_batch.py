"""A batch from the command line: its driver killed, gone on with, one search that always fails."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

import tiny_task
import yaml

from autoprune.study.batch import drive
from autoprune.study.batch_config import validate_sweep
from autoprune.study.batch_folder import BatchFolder

TESTS = Path(__file__).parents[1]
TRIALS = 4
TINY = tiny_task.MODEL


def environment(tmp_path):
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TINY_CALLS": str(tmp_path / "calls"),
        "AUTOPRUNE_LOCKS": str(tmp_path / "locks"),
    }


def start(tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", "batch", *map(str, arguments)],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(run):
    return len(list((run / "cache").glob("*/*.json")))


def test_a_killed_batch_is_gone_on_with_and_nothing_finished_is_done_again(tmp_path):
    run = tmp_path / "run"
    sweep = {
        "out": str(run),
        "models": [TINY, {**TINY, "name": "broken", "evaluate": "tiny_task:fails"}],
        "budgets": ["macs=0.5x"],
        # Uniform pruning does not depend on the seed: its second search evaluates nothing.
        "searchers": ["uniform"],
        "seeds": [0, 1],
        "defaults": {"trials": TRIALS, "device": None},
        "jobs": {"parallel": 2, "retries": 1},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))

    calls = tmp_path / "calls"
    with tiny_task.hold(calls, 3):
        first = start(tmp_path, "sweep.yaml")
        # The dense network and two others; then one more is under way.
        tiny_task.kill_when(first, lambda: tiny_task.called(calls) >= 4 and finished(run) >= 3)

    again = start(tmp_path, "resume", run, "--json")
    out, err = again.communicate(timeout=900)
    assert again.returncode == 1, err
    summary = json.loads(out)
    assert summary["states"] == {"held": 2, "failed": 2}
    assert summary["evaluations"] == finished(run) == 1 + TRIALS
    # What was in flight when the driver was killed: one evaluation in each of two processes, which
    # end with the driver, or just after what they are at.
    assert 1 + TRIALS <= tiny_task.called(calls) <= 1 + TRIALS + 2
    held = [job for job in summary["jobs"] if job["state"] == "held"]
    assert len({(job["value"], job["macs"]) for job in held}) == 1
    assert {job["trials"] for job in held} == {TRIALS}
    for job in summary["jobs"]:
        if job["state"] == "failed":
            assert "on the dense network: evaluate raised KeyError" in job["error"]
            folder = BatchFolder.open(run)
            assert folder.failure(Path(job["folder"]).name)["attempts"] == 2
    best = {entry["model"]: entry["folder"] for entry in summary["best"]}
    assert best["broken"] is None
    assert (run / best["tiny"] / "pruned.onnx").is_file()
    assert (run / "summary.csv").is_file()
    assert (run / "summary.png").is_file()

    status = start(tmp_path, "status", run, "--json")
    out, _ = status.communicate(timeout=900)
    assert status.returncode == 1
    assert [job["state"] for job in json.loads(out)["jobs"]] == ["held"] * 2 + ["failed"] * 2


def test_a_cancelled_batch_ends_its_searches_at_once(tmp_path):
    sweep = validate_sweep(
        {
            "out": str(tmp_path / "run"),
            "models": [{**TINY, "evaluate": {"name": "tiny_task:waits", "options": {"s": 1200}}}],
            "budgets": ["macs=0.5x"],
            "searchers": ["uniform"],
            "defaults": {"trials": 2, "device": None},
            "jobs": {"parallel": 1},
        },
        "sweep.yaml",
    )
    folder = BatchFolder.create(sweep, tmp_path, "sweep.yaml")

    def cancel(states):
        if states[0].note == "evaluating the dense network":
            folder.cancelled.touch()

    start_s = time.monotonic()
    with folder:
        drive(folder, cancel)
    assert time.monotonic() - start_s < 900
    assert [state.state for state in folder.states()] == ["stopped"]
    assert not folder.failure(folder.jobs[0].name)
