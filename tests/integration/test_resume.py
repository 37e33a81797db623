"""A run killed with SIGKILL at random moments ends as if it never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TRIALS = 10
FAKE = "{name: autoprune.testing.fake_profiler:FakeProfiler, options: {block: 8, gmacs_per_s: 2}}"
CONFIG = f"""
python_path: [{TESTS}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: tiny_task:evaluate
calibration: tiny_task:calibration
device: {FAKE}
trials: {TRIALS}
verify: {{top: 1}}
profile: {{candidates: 8, timeout_s: 3600}}
seed: 3
"""


def environment(tmp_path):
    return {**os.environ, "OMP_NUM_THREADS": "1", "TINY_CALLS": str(tmp_path / "calls")}


def start(tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "autoprune", *map(str, arguments)],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def entries(run):
    """Trials and events in the journal; what is half written does not count."""
    try:
        lines = (run / "journal.log").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(json.loads(line)["op_code"] in (2, 4) for line in lines)


def stored(run):
    """(number, candidate, metrics) of every trial in the journal."""
    lines = (run / "journal.log").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [
        (e["user_attrs"]["number"], e["user_attrs"]["candidate"], e["user_attrs"]["metrics"])
        for e in found
        if e["op_code"] == 4
    ]


def calls(tmp_path):
    return len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("budget", "kills"), [("macs: 0.5x", (0, 3, 9)), ("latency: 0.8x", (4, 12))]
)
def test_killed_at_random_moments(tmp_path, budget, kills):
    rng = random.Random(budget)
    (tmp_path / "search.yaml").write_text(CONFIG + f"budget: {{{budget}}}\n")
    whole = start(tmp_path, "search", "search.yaml", "--out", "whole", "--json")
    output, errors = whole.communicate()
    assert whole.returncode == 0, errors
    expected, evaluations = json.loads(output), calls(tmp_path)
    refits = errors.count("refitting trial")
    trials = len(stored(tmp_path / "whole"))
    assert evaluations == 1 + trials + refits
    assert trials == TRIALS or "nothing left to propose" in errors
    (tmp_path / "calls").unlink()

    run = tmp_path / "killed"
    process = start(tmp_path, "search", "search.yaml", "--out", run)
    killed = 0
    for count in kills:
        while process.poll() is None and not (
            (run / "config.yaml").exists() and entries(run) >= count
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        if process.poll() is None:
            before = entries(run)
            process.send_signal(signal.SIGKILL)
            killed += 1
            assert entries(run) >= before
        process.communicate()
        process = start(tmp_path, "resume", run, "--json")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    result = json.loads(output)

    assert killed >= len(kills) - 1
    assert stored(run) == stored(tmp_path / "whole")
    # Only what was in flight when the process died was evaluated again.
    assert evaluations <= calls(tmp_path) <= evaluations + killed
    for name in ("held", "budget", "winner", "dense", "trials", "verified"):
        assert result[name] == expected[name]
    assert (run / "pruned.onnx").stat().st_size == (tmp_path / "whole/pruned.onnx").stat().st_size
