"""A search on Ray workers whose driver is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_task

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

TESTS = Path(__file__).parents[1]
TRIALS = 8


CONFIG = f"""
python_path: [{TESTS}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: tiny_task:evaluate
budget: macs=0.5x
device: null
searcher: random
trials: {TRIALS}
seed: 3
out: run
"""


def test_a_killed_driver_loses_nothing_finished(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    calls = tmp_path / "calls"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TINY_CALLS": str(calls)}

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "autoprune", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    journal = tmp_path / "run" / "journal.log"
    with tiny_task.hold(calls, 4):
        first = start("search", "config.yaml", "--workers", "2")
        # The dense network and three others; then both workers are at one more.
        tiny_task.kill_when(first, lambda: tiny_task.called(calls) >= 6 and trials(journal) >= 3)
    assert trials(journal) == 3

    again = start("resume", "run", "--json")
    out, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    assert json.loads(out)["trials"] == {"finished": TRIALS, "failed": 0}
    assert trials(journal) == TRIALS
    # The dense network and each candidate, and again what two workers were at when it was killed.
    assert tiny_task.called(calls) == 1 + TRIALS + 2


def trials(journal):
    """Whole trials in a journal."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(json.loads(line)["op_code"] == 4 for line in lines)
