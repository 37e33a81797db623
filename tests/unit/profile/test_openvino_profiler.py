import sys
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from few_rounds import FEW

from autoprune.core.device import Artifact, Measurement
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import openvino as module
from autoprune.profile.node_times import LocalSource
from autoprune.profile.openvino import OpenVinoProfiler
from autoprune.profile.openvino_kernels import profile_kernels
from autoprune.profile.openvino_nodes import ProfiledRequest
from autoprune.profile.registry import devices
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'autoprune\[openvino\]'"):
        OpenVinoProfiler()
    (row,) = [row for row in devices() if row.name == "openvino-cpu"]
    assert "autoprune[openvino]" in row.missing


@pytest.fixture(scope="module")
def openvino():
    return pytest.importorskip("openvino", reason="needs the package openvino")


def test_keeps_the_contract(openvino):
    check_profiler(OpenVinoProfiler())


def test_precision_is_told_and_kept(openvino):
    profiler = OpenVinoProfiler()
    assert (profiler.device.runtime, profiler.device.precision) == ("openvino", "fp32")
    assert openvino.__version__.startswith(profiler.device.runtime_version)
    compiled, _ = profiler._request(conv_artifact("a", 8), profile=False)
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threads": 0}, "at least 1, got 0"),
        ({"threads": True}, "integer"),
        ({"threads": 4096}, "at most [0-9]+, the processors there are; got 4096"),
        ({"precision": "int4"}, "fp32, bf16, fp16; got 'int4'"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ProfilerError, match=said):
        OpenVinoProfiler(**settings)


def test_a_precision_that_the_cpu_can_not_compute_in_is_refused(openvino, monkeypatch):
    monkeypatch.setitem(module.PRECISIONS, "bf16", ("bf16", "NO SUCH CAPABILITY"))
    with pytest.raises(ProfilerError, match=r"can't compute in bf16 .* it can in fp32"):
        OpenVinoProfiler(precision="bf16")


def test_kernels_are_scaled_to_the_reference_and_tell_their_layers(openvino):
    artifacts = [conv_artifact("dense", 32, 3), conv_artifact("pruned", 8, 3)]
    dense, pruned = OpenVinoProfiler().measure(artifacts, replace(FEW, kernels=True))
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    for measurement, channels in ((dense, 32), (pruned, 8)):
        convolutions = [k for k in measurement.kernels if k.op == "Convolution"]
        assert [k.layers[0] for k in convolutions] == ["conv0", "conv1", "conv2"]
        assert convolutions[1].output_shapes == ((1, channels, 16, 16),)
        assert convolutions[0].input_shapes[0] == (1, 3, 16, 16)


def test_a_network_that_can_not_be_loaded_is_an_error_of_its_own(openvino):
    good = conv_artifact("good", 8)
    results = OpenVinoProfiler().measure([good, Artifact("unfed", good.onnx, {})], QUICK)
    assert results[0].ok
    assert "its inputs must be ['x'], got arrays for []" in results[1].error


class Request:
    """Tells of each node the mean of all runs so far, as OpenVINO does; the first one is slow."""

    def __init__(self, name: str, took_us: list[int]) -> None:
        self.name, self.took_us, self.runs = name, took_us, 0

    def infer(self) -> None:
        self.runs += 1

    @property
    def profiling_info(self) -> list[SimpleNamespace]:
        status = SimpleNamespace(EXECUTED=1)
        mean = sum(self.took_us[: self.runs]) / self.runs
        return [
            SimpleNamespace(
                node_name=self.name,
                real_time=timedelta(microseconds=int(mean)),
                status=int(mean >= 1),
                Status=status,
            )
        ]

    def get_runtime_model(self) -> SimpleNamespace:
        return SimpleNamespace(get_ordered_ops=list)


class Slowing:
    """A machine on which the first run takes ten times as long, and each load finds it slower."""

    def __init__(self) -> None:
        self.slower = 1.0

    def __call__(self, number: int) -> LocalSource:
        usual = int(200 * self.slower)
        self.slower *= 1.1 if number else 1.0  # after each pair
        request = Request("n", [10 * usual, *[usual] * 500])
        return LocalSource("OpenVINO", lambda: (ProfiledRequest(request, request), None))


def test_kernels_are_of_the_same_runs_as_the_reference_beside_them():
    latencies = [Measurement(k, latency_ms=0.2, ratio=1.0) for k in "abcde"]
    found = profile_kernels(Slowing(), latencies)
    assert [m.error for m in found] == [None] * 5
    assert [m.kernels[0].latency_ms for m in found] == pytest.approx([0.2] * 5, rel=0.03)


def test_a_network_too_quick_for_its_profile_is_measured_all_the_same():
    def make(number: int) -> LocalSource:
        request = Request("n", [8, *[0] * 500])
        return LocalSource("OpenVINO", lambda: (ProfiledRequest(request, request), None))

    latencies = [Measurement(k, latency_ms=0.005, ratio=1.0) for k in "ab"]
    for m in profile_kernels(make, latencies):
        assert m.ok
        assert not m.kernels
        assert "counts whole microseconds" in m.notes[0]


def test_a_node_whose_mean_falls_below_the_clock_stays_a_node():
    request = Request("n", [8, *[0] * 500])
    profiled = ProfiledRequest(request, request)
    profiled.run(4)
    assert [node["name"] for node in profiled.read()[0]] == ["n"]
    profiled.run(20)
    nodes, times = profiled.read()
    assert [node["name"] for node in nodes] == ["n"]
    assert times == [[0]] * 20
