"""What `autoprune explain` tells of a run, measured or by its table's records."""

import pytest

from autoprune.core.device import KernelTime, Measurement
from autoprune.core.errors import ProfilerError
from autoprune.profile.registry import make_profiler
from autoprune.study import explaining
from autoprune.study.config import SearchConfig
from autoprune.study.layer_times import LayerWork
from autoprune.study.progress import Progress

INT8 = {"name": "onnxruntime-cpu", "options": {"precision": "int8", "graph_optimization": "basic"}}


def measured(latency_ms):
    kernels = (KernelTime("conv", ("conv",), "Conv", latency_ms),)
    return [Measurement(key, latency_ms, kernels=kernels) for key in ("dense", "pruned")]


def without_cheaper(monkeypatch, device):
    """What is told, and the device that the network was measured on without it, if it was."""
    asked = []
    monkeypatch.setattr(explaining, "make_profiler", lambda config: asked.append(config.device))
    monkeypatch.setattr(explaining, "_measure", lambda *_: measured(2.0))
    config = SearchConfig(budget={"latency": "0.5x"}, device=device)
    works = [{"conv": None}, {"conv": None}]
    told = explaining._without_cheaper(None, config, Progress(), works, measured(1.0), [])
    return told, [make_profiler(each.name, **each.options).device for each in asked]


@pytest.mark.parametrize(
    "device", [INT8, "onnxruntime-cpu?precision=int8&graph_optimization=basic"]
)
def test_the_network_is_measured_in_32_bits_too(monkeypatch, device):
    told, (plain,) = without_cheaper(monkeypatch, device)
    assert (plain.precision, plain.settings) == ("fp32", {"graph_optimization": "basic"})
    assert told["what"] == "precision=int8"
    assert told["layers"] == {"conv": {"without_ms": 2.0, "ms": 1.0}}
    assert told["brought_nothing"] == []


@pytest.mark.parametrize(
    "device", ["onnxruntime-cpu", "onnxruntime-cpu?precision=fp32", "tensorrt?sparse_weights=false"]
)
def test_without_any_nothing_is_measured(monkeypatch, device):
    assert without_cheaper(monkeypatch, device) == (None, [])


def test_by_the_records_a_layer_that_is_gone_takes_no_time(monkeypatch):
    times = {"conv1": (2.0, 1.0), "conv2": (3.0, 3.0)}
    monkeypatch.setattr(explaining, "recorded_times", lambda table, kept: times)
    work = LayerWork("Conv", 1e6, 1e3, (8, 8))
    found = explaining._from_table([{"conv1": work, "conv2": work}, {"conv1": work}], object(), {})
    assert found["removed"] == {"conv2": 3.0}
    assert (found["dense_ms"], found["pruned_ms"], found["ratio"]) == (5.0, 1.0, 0.2)


def test_what_to_do_where_a_device_tells_no_layers():
    with pytest.raises(ProfilerError, match="compiled tells none, eager does"):
        explaining._from_table([{}, {}], None, {})
