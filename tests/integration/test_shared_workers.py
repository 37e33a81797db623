"""Drivers of one study on PostgreSQL, one with Ray workers, while the database restarts."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")
pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'autoprune[postgres]'")

from postgres_server import server_or_skip

from autoprune.study.store import Store

TESTS = Path(__file__).parents[1]

#: Notes every network that it begins to evaluate, and by whom. Nobody goes on with a candidate
#: until every driver has begun one; no driver goes far before the database has stopped.
TOGETHER = """
import os, time
from pathlib import Path
import tiny_task

def evaluate(model):
    widths = [module.out_channels for module in model.modules() if hasattr(module, "out_channels")]
    name = "-".join(map(str, widths))
    calls = Path(os.environ["CALLS"])
    with calls.open("a") as file:
        file.write(f"{os.getpid()} {name}\\n")
    if name != "16-32-16-32-16":
        folder = calls.parent
        (folder / f"began-{os.environ['DRIVER']}").touch()
        while len(list(folder.glob("began-*"))) < 2:
            time.sleep(0.05)
        while len(calls.read_text().splitlines()) > 3 and not (folder / "stopped").exists():
            time.sleep(0.05)
    return tiny_task.evaluate(model)
"""
TRIALS = 14
CONFIG = """
python_path: [{tests}, {folder}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: together:evaluate
calibration: tiny_task:calibration
device: null
budget: macs=0.6x
searcher: random
trials: {trials}
verify: {{top: 1}}
storage: {url}
study: shared
"""


@pytest.fixture
def server():
    with server_or_skip() as made:
        yield made


def drive(folder, name, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", "search", "config.yaml", "--out", name, *options],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CALLS": str(folder / f"calls-{name}"),
            "DRIVER": name,
            "RAY_worker_niceness": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def calls(folder, name):
    """(process, network) of each evaluation that a driver began."""
    path = folder / f"calls-{name}"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_database_that_restarts_costs_a_shared_study_nothing(server, tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    (tmp_path / "config.yaml").write_text(
        CONFIG.format(tests=TESTS, folder=tmp_path, trials=TRIALS, url=server.url)
    )
    running = {
        "here": drive(tmp_path, "here"),
        "workers": drive(tmp_path, "workers", "--workers=2"),
    }
    told = {}
    try:
        until = time.monotonic() + 900
        while min(len(calls(tmp_path, name)) for name in running) < 3:
            for process in running.values():
                assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        server.stop()
        begun = sum(len(calls(tmp_path, name)) for name in running)
        (tmp_path / "stopped").touch()
        time.sleep(5)
        server.start()
        for name, process in running.items():
            told[name] = process.communicate(timeout=900)[0]
            assert process.returncode == 0, told[name]
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert begun < TRIALS
    results = {n: json.loads((tmp_path / n / "result.json").read_text()) for n in running}
    assert all(result["held"] for result in results.values())
    assert all(result["trials"] == {"finished": TRIALS, "failed": 0} for result in results.values())
    kept = results["here"]["winner"]["kept"]
    assert results["workers"]["winner"]["kept"] == kept
    trials = Store(server.url, "shared", {n: k["of"] for n, k in kept.items()}).trials()
    assert len(trials) == len({stored.trial.candidate for stored in trials}) == TRIALS
    # The dense network, every candidate, and what each driver ships, once it is refitted.
    every = Counter(name for driver in running for _, name in calls(tmp_path, driver))
    assert every.total() == 1 + TRIALS + len(running)
    assert sorted(every.values())[-2:] == [1, 1 + len(running)]
    # The driver, and a worker or both: where one begins late, the others may have done all by then.
    assert len({process for process, _ in calls(tmp_path, "workers")}) in (2, 3)
