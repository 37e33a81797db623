from dataclasses import asdict, replace

import pytest

from autoprune.core.device import DeviceSpec

CPU = DeviceSpec("CPU", "onnxruntime", "1.0", details={"clocks": "locked"})


def test_a_setting_is_compared_and_a_detail_is_not():
    basic = replace(CPU, settings={"graph_optimization": "basic"})
    assert replace(CPU, details={"clocks": "free"}) == CPU
    assert basic != CPU
    assert basic.differences(CPU) == {"graph_optimization": ("basic", "the default")}
    assert CPU.differences(basic) == {"graph_optimization": ("the default", "basic")}
    assert basic.differences(replace(basic, threads=2)) == {"threads": (1, 2)}
    assert "graph_optimization basic" in str(basic)
    assert hash(basic) == hash(CPU)  # can be a key all the same


def test_what_is_written_is_read_back():
    spec = replace(CPU, settings={"sparse_weights": "true"})
    again = DeviceSpec.from_dict(asdict(spec))
    assert again == spec
    assert again.details == {"clocks": "locked"}


@pytest.mark.parametrize(
    ("level", "settings"), [("all", {}), ("basic", {"graph_optimization": "basic"})]
)
def test_a_level_that_stands_among_the_details_is_a_setting(level, settings):
    old = {"name": "CPU", "runtime": "onnxruntime", "runtime_version": "1.0"}
    spec = DeviceSpec.from_dict({**old, "details": {"graph_optimization": level}})
    assert spec.settings == settings


@pytest.mark.parametrize(("number", "settings"), [("0", {}), ("1", {"device_id": "1"})])
def test_the_first_gpu_is_the_default(number, settings):
    gpu = {"name": "GPU", "runtime": "onnxruntime", "runtime_version": "1.0", "provider": "cuda"}
    assert DeviceSpec.from_dict({**gpu, "settings": {"device_id": number}}).settings == settings


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="colour"):
        DeviceSpec.from_dict({**asdict(CPU), "colour": "green"})
