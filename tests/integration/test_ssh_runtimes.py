"""What runtimes on another machine are told, over a real OpenSSH server."""

from dataclasses import replace

import numpy as np
import pytest
import ssh_server
from few_rounds import FEW

from autoprune.core.errors import ProfilerError
from autoprune.profile import ssh_session
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.testing.profilers import conv_artifact


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def sent(monkeypatch):
    """The files that are sent, as they are."""
    files = []
    real = ssh_session.Session.ask

    def ask(self, do, data=b"", **arguments):
        if do == "put":
            files.append(data)
        return real(self, do, data, **arguments)

    monkeypatch.setattr(ssh_session.Session, "ask", ask)
    return files


def ops(data):
    import onnx

    model = onnx.load_from_string(data)
    return {node.op_type for node in model.graph.node}, {
        tensor.data_type for tensor in model.graph.initializer
    }


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_networks_are_sent_in_the_precision_that_is_asked_for(server, monkeypatch, precision):
    from onnx import TensorProto

    files = sent(monkeypatch)
    artifacts = [conv_artifact("a", 16, layers=2), conv_artifact("b", 32, layers=2)]
    profiler = server.profiler(precision=precision)
    here = OnnxRuntimeProfiler(precision=precision)
    assert profiler.device == here.device
    protocol = replace(FEW, kernels=True)
    there, near = profiler.measure(artifacts, protocol), here.measure(artifacts, protocol)
    assert all(m.ok for m in there)
    assert [k.op for k in there[1].kernels] == [k.op for k in near[1].kernels]
    assert [k.layers for k in there[1].kernels] == [k.layers for k in near[1].kernels]
    models = [ops(data) for data in files if len(data) > 1000 and b"Conv" in data]
    assert len(models) == 2
    for nodes, types in models:
        if precision == "int8":
            assert "QuantizeLinear" in nodes
            assert TensorProto.INT8 in types
        else:
            assert TensorProto.FLOAT16 in types


def test_it_is_calibrated_on_the_batches_that_are_given(server, tmp_path):
    artifact = conv_artifact("a", 8)
    batch = {name: 3 * array for name, array in artifact.inputs.items()}
    np.savez(tmp_path / "batches.npz", **batch)
    profiler = server.profiler(precision="int8", calibration=str(tmp_path / "batches.npz"))
    assert profiler.device.details["calibrated_on"] == "batches that were given"
    assert profiler.measure([artifact], FEW)[0].ok
    wrong = server.profiler(precision="int8", calibration=[np.zeros((1, 9), np.float32)])
    (failed,) = wrong.measure([artifact], FEW)
    assert "not turned into int8: samples of input" in failed.error


def test_a_network_that_cant_be_converted_is_an_error_of_its_own(server):
    artifacts = [conv_artifact("a", 8), replace(conv_artifact("bad", 8), onnx=b"rubbish")]
    good, bad = server.profiler(precision="fp16").measure(artifacts, replace(FEW, kernels=True))
    assert good.kernels
    assert bad.error.startswith("not turned into fp16: it must be an ONNX model")


def test_a_provider_that_takes_nothing_is_an_error_there_too(server):
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs a provider besides the CPU's in this build of onnxruntime")
    profiler = server.profiler(runtime="onnxruntime-azure")
    assert profiler.device == OnnxRuntimeProfiler(provider="azure").device
    (found,) = profiler.measure([conv_artifact("a", 8)], FEW)
    assert "every node of it runs on the CPU, none on AzureExecutionProvider" in found.error


def test_nodes_that_run_on_the_cpu_are_told_from_there(server, monkeypatch):
    ssh_server.agent_with(
        monkeypatch,
        b"        network = self.runtime.load(self.store.path(model), arrays)\n",
        b"        network = self.runtime.load(self.store.path(model), arrays)\n"
        b'        elsewhere = "2 of 5 nodes run on the CPU instead of X"\n',
    )
    for found in server.profiler().measure([conv_artifact("a", 8), conv_artifact("b", 8)], FEW):
        assert found.notes[-1] == "2 of 5 nodes run on the CPU instead of X"


def test_options_of_the_provider_are_part_of_the_device(server):
    given = {"provider_options": "use_arena:1", "graph_optimization": "basic"}
    device = server.profiler(**given).device
    assert device == OnnxRuntimeProfiler(**given).device
    assert device.settings == {"use_arena": "1", "graph_optimization": "basic"}


def test_more_threads_than_processors_are_refused_there(server):
    with pytest.raises(ProfilerError, match=r"threads must be at most .* the processors there are"):
        server.profiler(threads=4096).device  # noqa: B018


def test_conditions_are_those_of_the_other_machine(server, monkeypatch):
    profiler = server.profiler()
    assert profiler.conditions().keys() >= set()
    ssh_server.agent_with(
        monkeypatch,
        b"    found = {**cpu_clocks(), **cpu_now()}",
        b'    return {"temperature_c": "54"}\n    found = {**cpu_clocks(), **cpu_now()}',
        "autoprune.profile.conditions",
    )
    assert server.profiler().conditions() == {"temperature_c": "54"}
