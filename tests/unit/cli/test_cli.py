"""The command line: exit status, messages, JSON. What takes a search is in tests/integration."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoprune.cli import app, main
from autoprune.core.errors import AutopruneError

TESTS = Path(__file__).parents[2]


def run(monkeypatch, capsys, *arguments):
    """(status, stdout, stderr) of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["autoprune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


@pytest.fixture(autouse=True)
def beside_the_tests(monkeypatch):
    monkeypatch.chdir(TESTS)


GOOD = ("--model", "tiny_task:build", "--inputs", "2x3x8x8", "--evaluate", "tiny_task:evaluate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nowhere.yaml"], "nowhere.yaml can't be read: No such file"),
        (["search", "--budget", "macs=0.5x"], "model must be given"),
        (["search", *GOOD], "the setting 'budget' must be given"),
        (["search", *GOOD, "--budget", "speed"], "must be written name=value"),
        (["search", *GOOD, "--budget", "macs=fast"], "budget macs must be a number"),
        (["search", *GOOD, "--budget", "macs=0.5x", "--set", "trails=1"], "did you mean 'trials'"),
        (["search", *GOOD, "--budget", "macs=0.5x", "--set", "trials"], "name=value"),
        (["search", *GOOD[2:], "--budget", "macs=1x", "--model", "tiny_task:biuld"], "'build'?"),
        (["search", *GOOD, "--budget", "macs=0.5x", "--searcher", "tpee"], "Did you mean 'tpe'"),
        (["search", *GOOD, "--budget", "macs=0.5x", "--set", "recover={}"], "recover needs"),
        (["search", *GOOD, "--budget", "macs=0.5x", "--inputs", "8xx3"], "shapes such as"),
        (["search", *GOOD, "--budget", "latency=0.5x", "--device", "abacus"], "profiler must be"),
        (["search", *GOOD, "--budget", "latency=0.5x", "--set", "device=null"], "needs a device"),
        (["search", *GOOD, "--budget", "macs=0.0001x"], "is the least"),
        (["search", *GOOD, "--budget", "latencyy=0.5x"], "did you mean 'latency'?"),
        (["search", *GOOD, "--budget", "energy=0.5x"], "it tells none. Read a meter beside"),
        (["resume", "nowhere"], "does not exist"),
        (["verify", "."], "holds no run"),
        (["export", "nowhere", "--out", "x.onnx"], "does not exist"),
        (["inspect"], "model must be given"),
    ],
)
def test_a_mistake_ends_with_status_2_and_a_message(monkeypatch, capsys, arguments, message):
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("arguments", [["search", "--nope"], ["nope"], ["export", "x"]])
def test_a_wrong_option_is_status_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, capsys, *arguments)[0] == 2


def test_a_failed_search_leaves_a_folder_that_can_be_used_again(monkeypatch, capsys, tmp_path):
    arguments = ["search", *GOOD, "--budget", "macs=0.0001x", "--out", tmp_path / "run"]
    for _ in range(2):
        status, _, err = run(monkeypatch, capsys, *arguments)
        assert status == 2
        assert "is the least" in err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_notes_of_an_error_are_told(monkeypatch, capsys):
    from autoprune.cli import commands

    def fail():
        error = AutopruneError("it broke")
        error.add_note("when it is mended, go on")
        raise error

    monkeypatch.setattr(commands, "app", fail)
    status, _, err = run(monkeypatch, capsys)
    assert status == 2
    assert err == "error: it broke\nwhen it is mended, go on\n"


def test_inspect(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "inspect", *GOOD[:4])
    assert status == 0
    assert "block1.conv1" in out
    status, out, _ = run(monkeypatch, capsys, "inspect", *GOOD[:4], "--json")
    names = [group["name"] for group in json.loads(out)["groups"]]
    assert names == ["stem", "block1.conv1", "block2.conv1"]


def test_devices(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "devices", "--json")
    assert status == 0
    assert "onnxruntime-cpu" in [row["name"] for row in json.loads(out)]
    status, out, _ = run(monkeypatch, capsys, "devices")
    assert "onnxruntime-cpu" in out


def test_help_names_every_command():
    text = CliRunner().invoke(app, ["--help"]).output
    for name in ("search", "resume", "profile", "inspect", "verify", "export", "devices"):
        assert name in text


def test_help_is_quick_because_it_loads_nothing_heavy():
    code = (
        "import sys\n"
        "import autoprune.cli\n"
        "heavy = {'torch', 'optuna', 'onnxruntime', 'stable_baselines3', 'matplotlib', 'ray'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
