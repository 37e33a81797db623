"""Drivers that search one study together: in one process, and as processes on PostgreSQL."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_task
import torch

import autoprune
from autoprune.cli import main
from autoprune.core.errors import ConfigError, RunError
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.fake_profiler import FakeProfiler

TESTS = Path(__file__).parents[1]


class Told(Progress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def search(url, out, calls=None, progress=None, **settings):
    def evaluate(model):
        if calls is not None:
            calls.append(out.name)
        return tiny_task.evaluate(model)

    given = {
        "budget": "latency=0.75x",
        "device": FakeProfiler(block=8, gmacs_per_s=2.0),
        "searcher": "random",
        "trials": 6,
        "verify": {"top": 1},
        "profile": {"candidates": 8, "timeout_s": 3600},
        "study": "tiny",
        "storage": url,
        **settings,
    }
    model = given.pop("model", None) or tiny_task.build()
    inputs = given.pop("inputs", None)
    return autoprune.search(
        model,
        tiny_task.inputs() if inputs is None else inputs,
        evaluate=evaluate,
        calibration=tiny_task.calibration(),
        out=out,
        progress=progress,
        **given,
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A study that one driver has searched to its end."""
    folder = tmp_path_factory.mktemp("study")
    url = f"sqlite:///{folder / 'trials.db'}"
    calls = []
    return url, search(url, folder / "a", calls), calls


def test_who_joins_a_finished_study_evaluates_nothing_of_it_again(begun, tmp_path):
    url, first, calls = begun
    again, told = [], Told()
    second = search(url, tmp_path / "b", again, told, seed=7)
    assert len(second.trials) == len(first.trials)
    assert second.held
    assert second.candidate == first.candidate
    assert any(line.startswith("joined the study tiny: ") for line in told.lines)
    assert not any("measuring the 1 best" in line for line in told.lines)
    # Six trials, the dense network, and what is shipped is refitted by each.
    assert calls.count("a") - 7 == again.count("b") == 1
    assert (tmp_path / "b" / "table.jsonl").read_text() == (
        first.folder / "table.jsonl"
    ).read_text()
    given = {
        "model": tiny_task.build(),
        "example_inputs": tiny_task.inputs(),
        "evaluate": tiny_task.evaluate,
        "calibration": tiny_task.calibration(),
        "device": FakeProfiler(block=8, gmacs_per_s=2.0),
    }
    assert autoprune.resume(tmp_path / "b", **given).candidate == first.candidate
    assert autoprune.pick(tmp_path / "b", "latency=0.8x", **given).held


def another():
    model = tiny_task.build()
    with torch.no_grad():
        model.head.bias += 1.0
    return model


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": another()}, r"network: .* there, .* here"),
        ({"inputs": tiny_task.inputs(4)}, r"inputs: \[\[2, 3, 8, 8, .*\[\[4, 3, 8, 8"),
        ({"budget": "latency=0.5x"}, r"setting budget: .*0\.75x.* there, .*0\.5x.* here"),
        ({"searcher": "uniform"}, r"setting searcher: .*random.* there, .*uniform"),
        ({"trials": 9}, "setting trials: 6 there, 9 here"),
        (
            {"device": FakeProfiler(name="another", block=8, gmacs_per_s=2.0)},
            r"device: .* there, .*another.* here",
        ),
        ({"budget": "macs=0.75x"}, "setting budget"),
    ],
)
def test_another_search_can_not_join(begun, tmp_path, settings, named):
    url, _, _ = begun
    calls = []
    with pytest.raises(RunError, match=named) as caught:
        search(url, tmp_path / "b", calls, **settings)
    assert "can't be joined" in str(caught.value)
    assert not calls
    assert not (tmp_path / "b" / "config.yaml").exists()
    assert not (tmp_path / "b" / "table.jsonl").exists()


def test_another_space_can_not_join(begun, tmp_path):
    url, _, _ = begun
    space = tmp_path / "space.yaml"
    space.write_text("version: 1\nmin_keep: 0.6\n")
    with pytest.raises(RunError, match=r"space: \"\w+\" there, \"\w+\" here"):
        search(url, tmp_path / "b", space=space)
    assert not (tmp_path / "b" / "table.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"storage": None}, "give its URL by `storage`"),
        ({"budget": {"latency": ["0.9x", "0.7x"]}}, "a single budget"),
        ({"objectives": ["accuracy", "latency"]}, "no objectives"),
        ({"study": ""}, "study"),
        ({"out": None}, "needs a run folder"),
    ],
)
def test_a_study_that_can_not_be_shared_is_refused(begun, tmp_path, settings, named):
    given = {"evaluate": tiny_task.evaluate, "out": tmp_path / "b", **settings}
    given = {"budget": "macs=0.5x", "storage": begun[0], "study": "x", "trials": 2, **given}
    with pytest.raises(ConfigError, match=named):
        autoprune.search(tiny_task.build(), tiny_task.inputs(), **given)


def test_the_command_line_says_so_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["autoprune", "search", "--budget", "macs=0.5x", "--study", "x"]
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "give its URL by `storage`" in capsys.readouterr().err


def test_a_run_that_failed_with_its_trials_in_a_database_can_be_resumed(tmp_path):
    from autoprune.core.errors import EvaluationError

    calls = []

    def evaluate(model):
        calls.append(model)
        if 3 < len(calls) < 6:
            raise ValueError("the disk is away")
        return tiny_task.evaluate(model)

    given = {"model": tiny_task.build(), "example_inputs": tiny_task.inputs()}
    with pytest.raises(EvaluationError, match="the disk is away"):
        autoprune.search(
            **given,
            evaluate=evaluate,
            budget="macs=0.75x",
            device=None,
            searcher="random",
            trials=6,
            max_failures=2,
            storage=f"sqlite:///{tmp_path / 'trials.db'}",
            out=tmp_path / "run",
        )
    assert len(autoprune.resume(tmp_path / "run", **given, evaluate=evaluate).trials) == 6


DRIVER = """
import sys
from autoprune.cli import main
from autoprune.study import shared_study
shared_study.HEARTBEAT_S, shared_study.GRACE_S = 1, 10
main()
"""

#: Notes the widths of every network that it begins to evaluate; the fourth waits for a file.
NOTING = """
import os, time
from pathlib import Path
import tiny_task

def evaluate(model):
    widths = [module.out_channels for module in model.modules() if hasattr(module, "out_channels")]
    calls = Path(os.environ["CALLS"])
    with calls.open("a") as file:
        file.write("-".join(map(str, widths)) + "\\n")
    while len(calls.read_text().splitlines()) == 4 and not calls.with_name("go").exists():
        time.sleep(0.02)
    return tiny_task.evaluate(model)
"""
DENSE = "16-32-16-32-16"
TRIALS = 10
CONFIG = """
python_path: [{tests}, {folder}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: noting:evaluate
calibration: tiny_task:calibration
device: null
budget: macs=0.6x
searcher: random
trials: {trials}
verify: {{top: 1}}
storage: {url}
"""


def drive(folder, name, *arguments):
    """A driver, whose heartbeats are quick."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CALLS": str(folder / f"calls-{name}")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def calls(folder, name):
    path = folder / f"calls-{name}"
    return path.read_text().split() if path.exists() else []


def until(true, running, timeout_s=900.0):
    end = time.monotonic() + timeout_s
    while not true():
        for process in running:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_processes_search_one_study_and_one_is_killed(tmp_path):
    pytest.importorskip("psycopg")
    from postgres_server import server_or_skip

    with server_or_skip() as server:
        two_processes(tmp_path, server.url)


def two_processes(folder, url):
    (folder / "noting.py").write_text(NOTING)
    (folder / "config.yaml").write_text(
        CONFIG.format(tests=TESTS, folder=folder, trials=TRIALS, url=url)
    )
    running = {}
    try:
        for name in "ab":
            running[name] = drive(
                folder, name, "search", "config.yaml", "--study", "shared", "--out", name
            )
        # Both evaluate; then one dies in the middle of that.
        until(lambda: min(len(calls(folder, name)) for name in "ab") == 4, running.values())
        os.kill(running["b"].pid, signal.SIGKILL)
        running["b"].communicate()
        (folder / "go").touch()
        told = running["a"].communicate(timeout=900)[0]
        assert running["a"].returncode == 0, told
        running["b"] = drive(folder, "b", "resume", "b")
        told = running["b"].communicate(timeout=900)[0]
        assert running["b"].returncode == 0, told
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    results = [json.loads((folder / name / "result.json").read_text()) for name in "ab"]
    assert all(result["held"] for result in results)
    assert results[0]["winner"]["kept"] == results[1]["winner"]["kept"]
    units = {name: kept["of"] for name, kept in results[0]["winner"]["kept"].items()}
    trials = [stored.trial for stored in Store(url, "shared", units).trials()]
    assert len(trials) >= TRIALS
    assert len({t.number for t in trials}) == len({t.candidate for t in trials}) == len(trials)
    every = calls(folder, "a") + calls(folder, "b")
    assert every.count(DENSE) == 1
    # The dense one; each driver refits the network that it ships, and evaluates that; nothing else
    # is evaluated twice but the one candidate that was under way when its driver died.
    assert len(every) == len(trials) + 4
