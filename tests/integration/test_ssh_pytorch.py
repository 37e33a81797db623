"""PyTorch on another machine over a real OpenSSH server: exported networks and their kernels."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ssh_server
import torch
from few_rounds import FEW
from torch import nn

from autoprune.core.device import Artifact, ModuleCall
from autoprune.cost.table import LatencyTable
from autoprune.profile import measuring, ssh_session
from autoprune.profile.pytorch import PyTorchProfiler
from autoprune.profile.registry import make_profiler
from autoprune.study import device
from autoprune.study.api import begin
from autoprune.study.config import validate
from autoprune.study.progress import Progress
from autoprune.study.task import task_from_config
from autoprune.testing.profilers import check_profiler, conv_artifact

KERNELS = replace(FEW, kernels=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TwoBranches(nn.Module):
    """A class that the device does not know."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return torch.relu(self.left(x) + self.right(x))


def test_keeps_the_contract(server):
    check_profiler(server.profiler(runtime="pytorch-cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "cuda-graph"])
def test_keeps_the_contract_on_a_gpu(server, mode):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    profiler = server.profiler(runtime="pytorch-cuda", mode=mode)
    here = make_profiler("pytorch-cuda", mode=mode).device
    assert profiler.device.differences(here) == {"network": ("exported", "the default")}
    check_profiler(profiler)


def test_device_and_operators_are_those_of_the_profiler_here(server):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    artifacts = [
        Artifact("two", b"", {}, call=lambda: ModuleCall(TwoBranches(), (x,))),
        conv_artifact("plain", 16, layers=3),
    ]
    remote = server.profiler(runtime="pytorch-cpu", threads=2, precision="bf16")
    local = PyTorchProfiler(threads=2, precision="bf16")
    assert remote.device.differences(local.device) == {"network": ("exported", "the default")}
    assert remote.device.details["clock"] == "wall"
    assert local.device.details.items() <= remote.device.details.items()
    there, here = remote.measure(artifacts, KERNELS), local.measure(artifacts, KERNELS)
    for far, near in zip(there, here, strict=True):
        assert far.ok, far.error
        assert [replace(k, latency_ms=0) for k in far.kernels] == [
            replace(k, latency_ms=0) for k in near.kernels
        ]
    assert [k.layers for k in there[0].kernels] == [("left",), ("right",), (), ()]
    assert sum(k.latency_ms for k in there[0].kernels) == pytest.approx(there[0].latency_ms)


def test_a_connection_that_is_cut_is_made_anew(server, monkeypatch):
    asked = []
    real = ssh_session.Session.ask

    def ask(session, do, data=b"", **arguments):
        if do in ("run", "kernels"):
            asked.append(do)
            if asked.count(do) == 2 and asked[-1] == do:
                os.kill(session.pid, signal.SIGKILL)
        return real(session, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    artifacts = [conv_artifact("a", 8), conv_artifact("b", 16)]
    found = server.profiler(runtime="pytorch-cpu").measure(artifacts, KERNELS)
    assert [m.error for m in found] == [None, None]
    assert all(m.kernels for m in found)
    assert asked.count("kernels") == 3  # what was told before is not asked again


def test_wrong_kernels_are_an_error_and_what_is_noted_is_told(server, monkeypatch):
    ssh_server.agent_with(monkeypatch, b'"kernels": kernels,', b'"kernels": kernels[1:],')
    ssh_server.agent_with(
        monkeypatch, b'    note = ""\n', b'    note = "slow"\n', "autoprune.profile.agent_pytorch"
    )
    (found,) = server.profiler(runtime="pytorch-cpu").measure([conv_artifact("a", 8)], KERNELS)
    assert "must add up to reference_ms" in found.error
    assert found.kernels == ()
    assert found.notes[-1] == "slow"


def test_a_search_with_a_table_of_operators_that_were_timed_there(server, tmp_path, monkeypatch):
    # The table need not be a good one: short visits.
    monkeypatch.setattr(measuring, "BLOCK_MS", 2.0)
    monkeypatch.setattr(device, "LEARNING", replace(device.LEARNING, width=0.5))
    config = validate(
        {
            "model": "tiny_task:build",
            "inputs": "tiny_task:inputs",
            "evaluate": "tiny_task:evaluate",
            "budget": "latency=0.95x",
            "device": {
                "name": f"{server.address}?runtime=pytorch-cpu",
                "options": {"python": server.python, "ssh": f"ssh -F {server.folder}/config"},
            },
            "searcher": "random",
            "trials": 4,
            "profile": {"candidates": 8, "timeout_s": 3600, "reuse": False},
            "verify": {"top": 1, "rounds": 1, "width": 0.5, "timeout_s": 300},
            "out": str(tmp_path / "run"),
        },
        "test",
    )
    result = begin(task_from_config(config, Path.cwd()), Progress())
    assert result.verification.measurement.ok
    assert result.data["device"]["settings"] == {"network": "exported"}
    table = LatencyTable.load(next((tmp_path / "run").glob("table*")))
    assert any(o.kernel_ms for o in table.observations)
    layout = next(iter(table.layouts.values()))
    heavy = [i for i, kernel in enumerate(layout.kernels) if kernel.op == "conv2d"]
    assert np.array([o.kernel_ms for o in table.observations if o.kernel_ms])[0, heavy].all()
