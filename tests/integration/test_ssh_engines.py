"""TensorRT over a real OpenSSH server, with stand-ins for TensorRT and CUDA at its other end."""

import sys
from dataclasses import replace

import fake_tensorrt
import pytest
import ssh_server
from fake_cuda import Runtime
from few_rounds import FEW
from ssh_server import Cut, Opened

from autoprune.profile import tensorrt_engines
from autoprune.profile.tensorrt import TensorRTProfiler
from autoprune.profile.tensorrt_cuda import RuntimeCuda
from autoprune.testing.profilers import conv_artifact


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def test_networks_are_built_run_and_profiled_there_though_the_connection_is_cut(
    server, monkeypatch, tmp_path
):
    path = fake_tensorrt.install(tmp_path / "modules")
    python = f"PYTHONPATH={path} {server.python}"
    options = {"precision": "fp16", "sparse_weights": True}
    profiler = server.profiler(runtime="tensorrt", python=python, **options)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.library())
    monkeypatch.setattr(tensorrt_engines, "open_cuda", lambda gpu: RuntimeCuda(Runtime(), gpu))
    here = TensorRTProfiler(**options)
    assert profiler.device == here.device
    opened = Opened(monkeypatch)
    cut = Cut(monkeypatch, lambda runs, number: number == 1 and not cut.cuts)
    artifacts = [conv_artifact("dense", 64, 3), conv_artifact("pruned", 16, 3)]
    protocol = replace(FEW, kernels=True)
    there, near = profiler.measure(artifacts, protocol), here.measure(artifacts, protocol)
    assert (cut.cuts, len(opened.sessions)) == (1, 1)
    for far, own in zip(there, near, strict=True):
        assert far.ok
        assert [k.layers for k in far.kernels] == [k.layers for k in own.kernels]
        assert far.ratio == pytest.approx(own.ratio, rel=0.02)
    assert list((server.files / "tensorrt").glob("nvidia-formula-*.cache"))
    profiler.close()
    assert server.idle()
