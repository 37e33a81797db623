"""Mistakes that users make, through the command line: a message, status 2, no traceback."""

import json
import sys

import pytest

from autoprune.cli import commands, main

NETWORK = '''
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))

class Refused(Net):
    def forward(self, x):
        return super().forward(x + 1 if float(x.sum()) > 0 else x)

def build():
    torch.manual_seed(0)
    return Net().eval()

def refused():
    return Refused().eval()

def ends():
    sys.exit(0)

def is_dense(model):
    return model.a.out_channels == model.b.out_channels == 8

def good(model):
    return {"accuracy": 0.5 if is_dense(model) else 0.4}

def prints(model):
    print("noise")
    return good(model)

def leaves(model):
    return good(model) if is_dense(model) else sys.exit(0)

def text(model):
    return good(model) if is_dense(model) else "0.4"

calls = []

def twice_only(model):
    """Evaluates each network once, but not again when it is refitted."""
    calls.append(model)
    if len(calls) > 2:
        raise ValueError("third")
    return good(model)

def batches():
    return [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))]

def labelled():
    return [(torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long))]

def wrongly_labelled():
    return [(torch.randn(8, 3, 8, 8), torch.zeros(8, 3, 8))]

def breaks():
    yield labelled()[0]
    raise OSError("the disk is gone")

class Loader:
    def __len__(self):
        return 2
    def __iter__(self):
        return breaks()

def loader():
    return Loader()
'''

CONFIG = """
model: net.py:build
inputs: 2x3x8x8
evaluate: net.py:good
calibration: net.py:batches
budget: {macs: 0.6x}
device: null
trials: 1
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command beside a network and a good config; gives (status, stdout, stderr)."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "good.yaml").write_text(CONFIG)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "raises.py").write_text("raise RuntimeError('no weights')")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["autoprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "bytes.yaml"], "bytes.yaml can't be read: it is not UTF-8 text\n"),
        (["search", "folder.yaml"], "folder.yaml can't be read: Is a directory\n"),
        (["search", "good.yaml", "--model", "net.py"], "path/to/file.py:name"),
        (["search", "good.yaml", "--model", "raises.py:build"], "no weights (<module>, raises.py"),
        (["search", "good.yaml", "--model", "leaves.py:build"], "failed: SystemExit: 0"),
        (["search", "good.yaml", "--model", "net.py:ends"], "failed: SystemExit: 0"),
        (["search", "good.yaml", "--model", "net.py:good"], "positional argument: 'model'\n"),
        (["search", "good.yaml", "--inputs", ""], "inputs: must be shapes such as"),
        (["search", "good.yaml", "--inputs", "9x9999999x9999999"], "don't fit into memory"),
        (["search", "good.yaml", "--inputs", "2x5x8x8"], "torch.export must be able"),
        (["search", "good.yaml", "--set", "budget=5"], "must be written latency=0.6x or {"),
        (["search", "good.yaml", "--set", "trials=x"], "trials: input should be an integer"),
        (["search", "good.yaml", "--set", "searcher=5"], "a name, or {name: ..., options"),
        (["search", "good.yaml", "--set", "searcher.options.foo=1"], "has no option 'foo'"),
        (["search", "good.yaml", "--set", "run.base=x"], "notes can't be set"),
        (["search", "good.yaml", "--set", "python_path=[nowhere]"], "there is no folder"),
        (["search", "good.yaml", "--set", "recover=true"], "recover needs (inputs, labels)"),
        (["search", "good.yaml", "--set", "importance=l3"], "reconstruction"),
        (["search", "good.yaml", "--calibration", "net.py:labelled"], "without labels"),
        (["search", "good.yaml", "--out", "net.py/run"], "can't be made: Not a directory"),
        (["profile", "good.yaml", "--device", "onnxruntime-cpu", "--out", "folder.yaml"], "folder"),
        (["profile", "good.yaml", "--device", "onnxruntime-cpu", "--out", "net.py/t"], "written"),
        (["search", "good.yaml", "--device", "onnxruntime-cpu?threads=9999",
          "--budget", "latency=0.5x"], "threads must be at most"),
    ],
)  # fmt: skip
def test_a_mistake_is_told(run, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_a_refused_network_is_told_in_a_line_without_its_graph(run):
    status, _, err = run("inspect", "--model", "net.py:refused", "--inputs", "2x3x8x8")
    assert status == 2
    assert "data-dependent" in err
    assert "torch.ops.aten" not in err
    assert "symbolic_shapes.py" not in err


@pytest.mark.parametrize(
    ("evaluate", "error"),
    [("leaves", "raised SystemExit: 0"), ("text", "or a number; it returned str")],
)
def test_evaluations_that_fail_are_trials_that_fail(run, tmp_path, evaluate, error):
    options = ["--evaluate", f"net.py:{evaluate}", "--trials", "3", "--out", tmp_path / "run"]
    status, _, err = run("search", "good.yaml", *options, "--set", "max_failures=2")
    assert status == 2
    assert err.count(error) == 3  # two trials on lines of their own, and the reason of the end
    assert "2 evaluations in a row failed" in err
    assert "autoprune resume" in err


def test_where_nothing_gave_a_figure_resuming_is_not_advised(run, tmp_path):
    options = ["--evaluate", "net.py:text", "--out", tmp_path / "run"]
    status, _, err = run("search", "good.yaml", *options)
    assert status == 2
    assert "search anew" in err
    assert "autoprune resume" not in err


def test_an_evaluation_that_fails_after_refitting_does_not_end_the_search(run):
    status, out, err = run("search", "good.yaml", "--evaluate", "net.py:twice_only", "--json")
    assert status == 0
    assert "the refitted network is left out: evaluate raised ValueError: third" in err
    assert json.loads(out)["winner"]["metrics"]["accuracy"] == 0.4


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        ("wrongly_labelled", ["recover.epochs=1"], "recovery must be able to compute the loss"),
        ("wrongly_labelled", ["importance=taylor"], "importance taylor must be able to compute"),
        ("batches", ["importance=taylor"], "importance taylor must be able to compute"),
        ("loader", ["recover.epochs=1"], "must be iterated, but got OSError: the disk is gone"),
        ("labelled", ["recover.epochs=1", "loss=net.py:good"], "but got TypeError: good() takes"),
    ],
)
def test_training_that_fails_is_the_users_to_mend(run, train, settings, message):
    more = [word for setting in settings for word in ("--set", setting)]
    status, _, err = run("search", "good.yaml", "--train", f"net.py:{train}", *more)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_json_is_alone_on_stdout_whatever_the_users_functions_print(run):
    status, out, err = run("search", "good.yaml", "--evaluate", "net.py:prints", "--json")
    assert status == 0
    assert json.loads(out)["held"] is True
    assert "noise" in err


def test_a_mistake_of_ours_is_no_budget_that_does_not_hold(run, monkeypatch):
    def broken():
        raise KeyError("inside")

    monkeypatch.setattr(commands, "app", broken)
    status, out, err = run()
    assert status == 70
    assert out == ""
    assert "KeyError: 'inside'" in err
    assert err.splitlines()[-1].startswith("this is a mistake in autoprune")


def test_long_lines_are_not_wrapped_where_there_is_no_terminal(run):
    _, _, err = run("search", "good.yaml", "--evaluate", "net.py:text")
    assert any(len(line) > 80 for line in err.splitlines() if line.startswith("trial 0 failed"))


def test_a_disk_too_full_for_the_picture_does_not_hide_the_result(run, monkeypatch, tmp_path):
    from autoprune.core.errors import RunError
    from autoprune.report import draw

    def full(*_):
        raise RunError("trials.png can't be written: No space left on device")

    monkeypatch.setattr(sys.modules[draw.__module__], "scatter", full)
    status, out, err = run("search", "good.yaml", "--out", tmp_path / "run", "--json")
    assert status == 0
    assert json.loads(out)["held"] is True
    assert "warning: no picture: trials.png can't be written" in err
