"""`--workers`, `--ray-address` and `autoprune batch`, without a Ray that runs."""

import io
import json
import re
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_task
import yaml
from rich.console import Console

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

from autoprune.cli import main
from autoprune.cli.batching import _live_table, _print_all, _Shown
from autoprune.cli.commands import worker_settings
from autoprune.study.batch_config import read_sweep
from autoprune.study.batch_folder import BatchFolder, JobState
from autoprune.study.config_files import read_config

TESTS = Path(__file__).parents[2]
GOOD = (
    *("--model", "tiny_task:build", "--inputs", "2x3x8x8", "--evaluate", "tiny_task:evaluate"),
    *("--budget", "macs=0.5x", "--set", "device=null", "--workers", "2"),
)
SWEEP = {
    "models": [tiny_task.MODEL],
    "budgets": ["macs=0.5x"],
    "searchers": ["random", "uniform"],
    "defaults": {"trials": 4, "device": None},
}


def run(monkeypatch, capsys, *arguments):
    """(status, stdout, stderr) of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["autoprune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, "out": str(tmp_path / "run")}))
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("workers: 3", (3, None)),
        ("workers: {count: 3, address: auto}", (3, "auto")),
    ],
)
def test_options_override_a_part_of_what_the_config_says(tmp_path, given, expected):
    path = tmp_path / "config.yaml"
    path.write_text(f"budget: macs=0.5x\n{given}\n")
    found = read_config(path).workers
    assert (found.count, found.address) == expected
    found = read_config(path, worker_settings(5, None)).workers
    assert (found.count, found.address) == (5, expected[1])
    found = read_config(path, worker_settings(None, "host:6379")).workers
    assert (found.count, found.address) == (3, "host:6379")


def test_without_them_there_are_no_workers(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("budget: macs=0.5x\n")
    assert read_config(path, worker_settings(None, None)).workers is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray-address", "nowhere"], "must be auto, host:port"),
        (["--set", "workers.resources={cpu: -1}"], "workers.resources.cpu"),
        (["--set", "workers.treads=2"], "did you mean 'threads'"),
        (["--set", "workers.resources={gpu: 64}"], "needs gpu 64, and this machine has"),
        (["--set", "workers.resources={lathe: 1}"], "has no resource 'lathe'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_spent(monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(TESTS)
    status, _, err = run(monkeypatch, capsys, "search", *GOOD, *arguments)
    assert status == 2
    assert message in err
    assert "evaluating" not in err


def test_an_address_where_no_cluster_is_is_told_before_anything_is_spent(monkeypatch, capsys):
    monkeypatch.chdir(TESTS)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"127.0.0.1:{held.getsockname()[1]}"
        status, _, err = run(monkeypatch, capsys, "search", *GOOD, "--ray-address", address)
    assert status == 2
    assert f"no Ray cluster answers at {address}" in err
    assert "evaluating" not in err


def test_a_dry_run_tells_what_would_run_and_makes_nothing(monkeypatch, capsys, sweep, tmp_path):
    status, out, _ = run(monkeypatch, capsys, "batch", sweep, "--dry-run", "--json")
    data = json.loads(out)
    assert status == 0
    assert data["jobs"] == ["tiny--macs=0.5x--random--seed0", "tiny--macs=0.5x--uniform--seed0"]
    assert data["evaluation_s"]["tiny"] > 0
    assert data["seconds"] > 0
    assert not (tmp_path / "run").exists()
    status, out, _ = run(monkeypatch, capsys, "batch", sweep, "--dry-run")
    assert "2 searches, 0 latency tables" in out


def test_status_and_cancel_of_a_batch_nobody_drives(monkeypatch, capsys, sweep, tmp_path):
    BatchFolder.create(read_sweep(sweep), tmp_path, str(sweep))
    status, out, _ = run(monkeypatch, capsys, "batch", "status", tmp_path / "run", "--json")
    assert status == 1
    assert [job["state"] for job in json.loads(out)["jobs"]] == ["waiting", "waiting"]
    status, out, _ = run(monkeypatch, capsys, "batch", "status", tmp_path / "run")
    assert "2 searches: 2 waiting" in out
    status, _, err = run(monkeypatch, capsys, "batch", "cancel", tmp_path / "run")
    assert status == 0
    assert "nothing drives it" in err
    assert (tmp_path / "run" / "cancelled").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml can't be read"),
        (["status"], "needs the folder of a batch"),
        (["status", "nowhere"], "does not exist"),
        (["resume", "nowhere", "--dry-run"], "takes no --dry-run"),
        (["status", "nowhere", "--ray-address", "auto"], "no --ray-address"),
        (["sweep.yaml", "run"], "takes a sweep's YAML, or status, resume or cancel"),
    ],
)
def test_mistakes_end_with_status_2(monkeypatch, capsys, arguments, message):
    status, _, err = run(monkeypatch, capsys, "batch", *arguments)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": ["abacus"], "budgets": ["latency=0.7x"]}, "abacus"),
        (
            {
                "devices": [{"name": "onnxruntime-cpu", "options": {"threads": 0}}],
                "budgets": ["latency=0.7x"],
            },
            "device 'onnxruntime-cpu': .*threads",
        ),
        (
            {"defaults": {"storage": "postgresql+psycopg://me:secret@127.0.0.1:1/nowhere"}},
            r"storage postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/nowhere can't be reached",
        ),
        ({"models": SWEEP["models"] * 2}, "each model must stand once in a sweep.*tiny"),
        ({"jobs": {"address": "nowhere"}}, "must be auto, host:port"),
        ({"jobs": {"address": "127.0.0.1:1"}}, "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_what_nobody_has_is_told_before_a_folder_is_made(
    monkeypatch, capsys, tmp_path, changes, message
):
    path = tmp_path / "sweep.yaml"
    defaults = {"trials": 4, **changes.get("defaults", {})}
    path.write_text(
        yaml.safe_dump({**SWEEP, "out": str(tmp_path / "run"), **changes, "defaults": defaults})
    )
    status, _, err = run(monkeypatch, capsys, "batch", path)
    assert status == 2
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def shown(states, *, live):
    console = Console(width=80, height=12, file=io.StringIO())
    if live:
        console.print(_live_table(states, console.size))
    else:
        _print_all(console, states)
    return console.file.getvalue().splitlines()


def test_the_live_table_has_a_line_for_each_search_that_fits_the_terminal():
    names = [f"resnet56--latency=0.7x--onnxruntime-cpu--evolve--seed{n}" for n in range(40)]
    states = [JobState(SimpleNamespace(name=name), "waiting", 0, 200) for name in names]
    note = "on the dense network: evaluate raised KeyError: 'top1' (evaluate, task.py:94) [a/b]"
    states[-1] = JobState(states[-1].job, "running", 57, 200, 0.9131, note)
    lines = shown(states, live=True)
    assert len(lines) < 12
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split()[1:4] == ["running", "57/200", "0.9131"]
    assert "…" in lines[1]
    # Both ends of a name are there, so that no two look the same.
    assert lines[1].split()[0].startswith("resnet56--")
    assert [line.split()[0][-6:] for line in lines[1:4]] == ["seed39", "-seed0", "-seed1"]
    assert lines[-1].startswith("40 searches: 39 waiting, 1 running; 31 more")


def test_what_is_printed_in_the_end_breaks_no_name_and_no_reason():
    note = "a long reason that does not fit into one line of a terminal [a/b], " * 3
    names = [f"resnet56--{'latency=0.7x-' * 5}--evolve--seed{n}" for n in range(20)]
    states = [JobState(SimpleNamespace(name=n), "failed", 3, 200, note=note + n) for n in names]
    states[0] = JobState(states[0].job, "held", 200, 200, 0.9312)
    lines = shown(states, live=False)
    assert [line.split()[-1] for line in lines if not line.startswith(" ")][1:-1] == names
    assert [line.strip() for line in lines if line.startswith(" ")] == [s.note for s in states[1:]]
    assert lines[1].split()[:3] == ["held", "200/200", "0.9312"]
    assert lines[-1] == "20 searches: 1 held, 19 failed"


def test_what_is_printed_while_a_batch_runs_is_no_part_of_its_summary(capsys):
    with _Shown(as_json=True):
        print("(raylet) a worker died")
    print("{}")
    assert capsys.readouterr() == ("{}\n", "(raylet) a worker died\n")


def test_a_warning_while_a_batch_runs_is_one_line(capsys):
    with _Shown(as_json=False):
        warnings.warn("the head is away", stacklevel=1)
    assert capsys.readouterr().err == "warning: the head is away\n"
