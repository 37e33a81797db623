import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
from few_rounds import FEW

from autoprune.core.device import Artifact
from autoprune.core.errors import ProfilerError
from autoprune.cost.align import charge
from autoprune.cost.layout import Layout
from autoprune.cost.signatures import HEAVY
from autoprune.export import export_onnx, input_arrays
from autoprune.graph import trace
from autoprune.profile import chunks, onnxruntime_sessions
from autoprune.profile.cpu import parse_cpuinfo
from autoprune.profile.onnxruntime import OnnxRuntimeProfiler
from autoprune.profile.onnxruntime_nodes import parse_profile
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact

SHORT = replace(FEW, kernels=True)


def test_keeps_the_contract():
    check_profiler(OnnxRuntimeProfiler())


def test_the_device_is_told_in_full():
    device = OnnxRuntimeProfiler(threads=2, graph_optimization="basic").device
    assert (device.runtime, device.provider, device.threads) == ("onnxruntime", "cpu", 2)
    assert device.details["graph_optimization"] == "basic"
    assert device.details["clock"] == "wall"
    assert OnnxRuntimeProfiler().device.details["clock"] == "thread CPU time"
    assert device.differences(OnnxRuntimeProfiler().device) == {
        "threads": (2, 1),
        "graph_optimization": ("basic", "the default"),
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threads": 0}, "at least 1, got 0"),
        ({"threads": True}, "integer"),
        ({"provider": "tpu"}, "onnxruntime-gpu"),
        ({"precision": "int4"}, "fp32, fp16, int8; got 'int4'"),
        ({"provider": "cuda"}, "pip install onnxruntime-gpu"),
        ({"cpu_fallback": False}, "must be left out"),
        ({"provider_options": "device_id"}, "name:value,name:value"),
        ({"graph_optimization": "most"}, "all, extended, basic, disabled"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ProfilerError, match=said):
        OnnxRuntimeProfiler(**settings)


def test_kernels_are_scaled_to_the_reference_and_tell_their_layers():
    artifacts = [conv_artifact("dense", 32, 3), conv_artifact("pruned", 8, 3)]
    dense, pruned = OnnxRuntimeProfiler().measure(artifacts, SHORT)
    assert sum(k.latency_ms for k in dense.kernels) == pytest.approx(dense.latency_ms)
    for measurement, channels in ((dense, 32), (pruned, 8)):
        convolutions = [k for k in measurement.kernels if k.op in ("Conv", "FusedConv")]
        covered = [layer for k in convolutions for layer in k.layers]
        # Weights are called conv0.weight; a ReLU is fused into its convolution.
        assert [c for c in covered if c.startswith("conv")] == ["conv0", "conv1", "conv2"]
        assert [c for c in covered if c.startswith("relu")] == ["relu0", "relu1", "relu2"]
        assert convolutions[0].input_shapes[0][:2] == (1, 3)
        assert convolutions[-1].input_shapes[0][1] == channels


def test_without_optimisation_every_node_is_its_own_kernel():
    profiler = OnnxRuntimeProfiler(graph_optimization="disabled")
    (measurement,) = profiler.measure([conv_artifact("plain", 8, 2)], SHORT)
    assert [(k.name, k.layers) for k in measurement.kernels] == [
        ("conv0", ("conv0",)),
        ("relu0", ("relu0",)),
        ("conv1", ("conv1",)),
        ("relu1", ("relu1",)),
    ]


def test_many_networks_are_measured_in_chunks_against_one_reference(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_SESSIONS", 2)
    artifacts = [conv_artifact(f"net{i}", 8 + 8 * i) for i in range(5)]
    artifacts.insert(2, Artifact("broken", b"?", artifacts[0].inputs))
    results = OnnxRuntimeProfiler().measure(artifacts, QUICK)
    assert [r.key for r in results] == [a.key for a in artifacts]
    assert [r.ok for r in results] == [True, True, False, True, True, True]
    for result in results:
        if result.ok:
            assert result.latency_ms == pytest.approx(result.ratio * results[0].latency_ms)


def test_wrong_input_shape_is_an_error_of_that_artifact():
    good = conv_artifact("good", 8)
    wrong = Artifact("wrong", good.onnx, {"x": np.zeros((1, 4, 16, 16), np.float32)})
    results = OnnxRuntimeProfiler().measure([good, wrong], QUICK)
    assert results[0].ok
    assert "can't run it" in results[1].error


def test_parse_profile_splits_runs_and_keeps_duplicates_apart():
    def node(name, index, duration):
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "ts": 0,
                "args": {"node_index": index, "op_name": "Conv"}}  # fmt: skip

    session = {"cat": "Session", "name": "model_run", "dur": 9, "ts": 0}
    load = {"cat": "Session", "name": "session_initialization", "dur": 9, "ts": 0}
    events = [load, node("a", "0", 5), node("a", "1", 3), session, node("a", "0", 6), session]
    runs, arguments = parse_profile(json.dumps(events))
    assert runs == [{("a", "0"): 5, ("a", "1"): 3}, {("a", "0"): 6}]
    assert list(arguments) == [("a", "0"), ("a", "1")]


def test_parse_profile_reads_events_line_by_line_as_it_reads_the_whole():
    start = (
        '{"cat" : "Node","pid" :1,"tid" :2,"dur" :%d,"ts" :3,"ph" : "X","name" :"%s","args" : %s},'
    )
    shape = '{"node_index" : "%d","input_type_shape" : [{"float":[1,3]},{"float":[4,3]}]}'
    run = '{"cat" : "Session","pid" :1,"dur" :9,"ts" :3,"name" :"model_run","args" : {}}'
    first = [start % (5, "a_kernel_time", shape % 0), start % (7, "a_kernel_time", shape % 1)]
    second = [start % (6, "a_kernel_time", shape % 0), start % (0, "a_fence_before", shape % 0)]
    text = "\n".join(["[", *first, run + ",", *second, run, "]", ""])
    runs, arguments = parse_profile(text)
    assert runs == [{("a", "0"): 5, ("a", "1"): 7}, {("a", "0"): 6}]
    assert arguments[("a", "1")]["input_type_shape"] == [{"float": [1, 3]}, {"float": [4, 3]}]
    assert parse_profile(text.replace("\n", " ")) == (runs, arguments)
    with pytest.raises(ValueError, match=r"delimiter|Expecting"):
        parse_profile(text[:-9])


def test_cpu_name_without_a_model_number_gets_family_and_model():
    text = (
        "processor : 0\ncpu family : 26\nmodel : 2\nmodel name : AMD EPYC\nstepping : 1\n"
        "flags : fpu avx avx2 avx512f\n\nprocessor : 1\nmodel name : AMD EPYC\n"
    )
    name, details = parse_cpuinfo(text)
    assert name == "AMD EPYC family 26 model 2"
    assert details["instructions"] == "avx avx2 avx512f"
    assert details["logical_cpus"] == "2"


def test_cpu_name_with_a_model_number_is_kept_tidied():
    text = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6130   CPU @ 2.10GHz\nmodel\t: 85\n"
    assert parse_cpuinfo(text)[0] == "Intel Xeon Gold 6130 CPU @ 2.10GHz"
    assert parse_cpuinfo("")[0] == ""
    assert parse_cpuinfo("CPU implementer : 0x41\nCPU part : 0xd0c\n")[0] == (
        "ARM implementer 0x41 part 0xd0c"
    )


def test_in_int8_convolutions_run_in_int8_and_tell_their_layers():
    profiler = OnnxRuntimeProfiler(precision="int8")
    assert profiler.device.precision == "int8"
    assert profiler.device.details["calibrated_on"] == "the example inputs"
    artifacts = [conv_artifact("dense", 32, 3), conv_artifact("pruned", 8, 3)]
    for measurement in profiler.measure(artifacts, SHORT):
        assert measurement.ok
        convolutions = [k for k in measurement.kernels if k.op == "QLinearConv"]
        covered = [layer for k in convolutions for layer in k.layers]
        assert [c for c in covered if c in ("conv0", "conv1", "conv2")] == [
            "conv0",
            "conv1",
            "conv2",
        ]


def test_in_fp16_the_networks_are_converted_and_it_says_what_the_cpu_does():
    profiler = OnnxRuntimeProfiler(precision="fp16")
    assert "between casts" in profiler.device.details["fp16"]
    (measurement,) = profiler.measure([conv_artifact("dense", 16, 2)], SHORT)
    assert measurement.ok
    assert any(k.op == "Cast" for k in measurement.kernels)
    assert {"conv0", "conv1"} <= {layer for k in measurement.kernels for layer in k.layers}


def test_a_network_that_can_not_be_converted_is_an_error_of_its_own():
    good = conv_artifact("good", 8)
    results = OnnxRuntimeProfiler(precision="int8").measure(
        [good, Artifact("rubbish", b"no ONNX", good.inputs)], QUICK
    )
    assert results[0].ok
    assert "not turned into int8" in results[1].error


def test_a_provider_that_leaves_all_to_the_cpu_is_refused():
    # The Azure provider takes no ops of its own: what silently falls back looks like this.
    pytest.importorskip("onnxruntime")
    profiler = OnnxRuntimeProfiler(provider="azure")
    first, second = profiler.measure([conv_artifact("a", 8), conv_artifact("b", 8)], QUICK)
    assert "every node of it runs on the CPU" in first.error
    assert "no figure" in second.error
    strict = OnnxRuntimeProfiler(provider="azure", cpu_fallback=False)
    assert "can't run it" in strict.measure([conv_artifact("a", 8)], QUICK)[0].error


def test_nodes_that_run_on_the_cpu_are_noted(monkeypatch):
    counts = {"CPUExecutionProvider": ["a", "b"], "AzureExecutionProvider": ["c", "d", "e"]}
    monkeypatch.setattr(onnxruntime_sessions, "node_counts", lambda profile: counts)
    (measurement,) = OnnxRuntimeProfiler(provider="azure").measure([conv_artifact("a", 8)], QUICK)
    assert measurement.notes[-1].startswith("2 of 5 nodes run on the CPU instead of Azure")


def test_a_provider_whose_libraries_are_missing_is_refused(monkeypatch):
    profiler = OnnxRuntimeProfiler(provider="azure")
    session = type("Session", (), {"get_providers": lambda self: ["CPUExecutionProvider"]})
    monkeypatch.setattr(profiler._sessions.ort, "InferenceSession", lambda *a, **k: session())
    (measurement,) = profiler.measure([conv_artifact("a", 8)], QUICK)
    assert "fell back to CPUExecutionProvider" in measurement.error


def test_provider_options_are_part_of_the_device():
    given = OnnxRuntimeProfiler(provider_options="use_arena:1").device
    assert given.settings == {"use_arena": "1"}
    assert given != OnnxRuntimeProfiler().device


def test_times_in_int8_are_charged_to_the_networks_layers():
    network = trace(tiny_task.build(), tiny_task.inputs())
    model = export_onnx(tiny_task.build(), (tiny_task.inputs(),))
    arrays = input_arrays(model, network.example_inputs, network.example_kwargs)
    (measured,) = OnnxRuntimeProfiler(precision="int8").measure(
        [Artifact("dense", model, arrays)], SHORT
    )
    layout = Layout.of(network.kernels)
    charged = charge(layout, network.kernels.units, measured.kernels)
    assert charged.sum() == pytest.approx(measured.latency_ms)
    heavy = [t for k, t in zip(layout.kernels, charged, strict=True) if k.op in HEAVY]
    assert len(heavy) == 6
    assert min(heavy) > 0
