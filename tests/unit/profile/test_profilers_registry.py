import importlib.metadata

import pytest

from autoprune.core.device import Profiler
from autoprune.core.errors import PluginError, ProfilerError
from autoprune.profile import registry
from autoprune.profile.registry import devices, make_profiler
from autoprune.testing.fake_profiler import FakeProfiler


def broken(name="x"):
    raise RuntimeError(f"no meter at {name}")


def needs(flag: bool = False, rate: float | None = None, text: str | int = "t"):
    profiler = FakeProfiler()
    profiler.given = (flag, rate, text)
    return profiler


def test_options_are_converted_to_their_declared_types():
    assert make_profiler("onnxruntime-cpu?threads=2").device.threads == 2
    assert make_profiler("onnxruntime-cpu", threads=2).device.threads == 2
    name = f"{__name__}:needs"
    assert make_profiler(f"{name}?flag=true&rate=2.5&text=7x").given == (True, 2.5, "7x")


def test_a_profiler_passes_through():
    profiler = FakeProfiler()
    assert make_profiler(profiler) is profiler
    assert isinstance(make_profiler("autoprune.testing.fake_profiler:FakeProfiler"), Profiler)


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("onnxruntime-cpu?thread=2", {}, ProfilerError, "has threads, graph_optimization"),
        ("onnxruntime-cpu?threads=two", {}, ProfilerError, "must be an integer, got 'two'"),
        ("onnxruntime-cpu?threads=2", {"threads": 1}, ProfilerError, "twice"),
        ("command?program=x&timeout_s=inf", {}, ProfilerError, "above 0 and finite, got inf"),
        ("trtexec?program=x&timeout_s=inf", {}, ProfilerError, "above 0 and finite, got inf"),
        ("onnxruntime-cpu?threads", {}, ProfilerError, r"\?name=value"),
        ("onnxruntime-cpu", {"speed": 1}, ProfilerError, "no option 'speed'"),
        (f"{__name__}:needs?flag=perhaps", {}, ProfilerError, "true or false"),
        ("onnxruntime-cpux", {}, PluginError, "Did you mean 'onnxruntime-cpu'"),
        ("builtins:dict", {}, PluginError, "`device` and `measure`"),
        ("math:pi", {}, PluginError, "class or a function"),
        (FakeProfiler(), {"threads": 1}, ProfilerError, "made already"),
        (3, {}, PluginError, "must be a name"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, error, said):
    with pytest.raises(error, match=said):
        make_profiler(name, **options)


def test_devices_lists_what_can_and_what_can_not_run(monkeypatch):
    points = [importlib.metadata.EntryPoint("meter", f"{__name__}:broken", registry.GROUP)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    rows = {row.name: row for row in devices()}
    assert rows["onnxruntime-cpu"].available
    assert rows["onnxruntime-cpu"].device.runtime == "onnxruntime"
    assert not rows["meter"].available
    assert "no meter at x" in rows["meter"].missing


def test_a_name_that_stands_for_two_is_an_error(monkeypatch):
    points = [importlib.metadata.EntryPoint("onnxruntime", "other:Thing", registry.GROUP)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.raises(PluginError, match="stands for both"):
        make_profiler("onnxruntime")


def test_what_a_profiler_takes_is_known_without_making_it():
    assert registry.takes("tensorrt?precision=int8", "calibration")
    assert not registry.takes("tensorrt?calibration=batches.npz", "calibration")
    assert not registry.takes("openvino-cpu", "calibration")
    assert not registry.takes("no such one", "calibration")
