"""A search whose device is PyTorch itself, on this machine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.cost.table import LatencyTable
from autoprune.study.again import verify_run
from autoprune.study.api import begin
from autoprune.study.config import validate
from autoprune.study.progress import Progress
from autoprune.study.task import task_from_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "eager"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    config = validate(
        {
            "model": "tiny_task:build",
            "inputs": "tiny_task:inputs",
            "evaluate": "tiny_task:evaluate",
            "budget": "latency=0.95x",
            "device": "pytorch-cpu",
            "searcher": "random",
            "trials": 4,
            "profile": {"candidates": 8, "timeout_s": 3600},
            "verify": {"top": 1, "rounds": 1, "width": 0.2, "timeout_s": 300},
            "out": str(folder),
        },
        "test",
    )
    result = begin(task_from_config(config, Path.cwd()), Progress())
    torch.set_num_threads(before)
    return result, folder


def test_candidates_and_the_winner_are_measured_as_modules(run):
    result, folder = run
    assert result.verification.measurement.ok
    data = json.loads((folder / "result.json").read_text())
    assert data["device"]["runtime"] == "pytorch"
    assert data["device"]["provider"] == "cpu-eager"
    assert data["winner"]["measured"]["error"] is None


def test_its_table_is_made_of_operators_times(run):
    _, folder = run
    table = LatencyTable.load(next(folder.glob("table*")))
    assert any(o.kernel_ms for o in table.observations)
    layout = next(iter(table.layouts.values()))
    for observation in table.observations:
        if observation.kernel_ms:
            gone = layout.emptied(np.array([observation.kept]))[0]
            times = zip(layout.kernels, gone, observation.kernel_ms, strict=True)
            # A convolution of a branch that was removed whole is not run.
            assert all((t > 0) != e for k, e, t in times if k.op == "conv2d")


def test_a_finished_run_is_measured_again(run):
    _, folder = run
    again = verify_run(folder, Progress())
    assert again.verification.measurement.ok
    assert "pytorch" in again.device
