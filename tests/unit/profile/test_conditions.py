import stat

import pytest

from autoprune.core.device import DeviceSpec
from autoprune.profile.conditions import conditions, cpu_clocks, cpu_now, gpu
from autoprune.profile.cpu import cpu


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def sysfs(tmp_path):
    for number, (low, high, now) in enumerate([(800000, 3500000, 1200000)] * 2):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/cpufreq"
        write(
            folder,
            scaling_governor="performance",
            scaling_min_freq=low,
            scaling_max_freq=high,
            scaling_cur_freq=now + 100000 * number,
        )
    thermal = tmp_path / "class/thermal"
    write(thermal, thermal_zone0__type="acpitz", thermal_zone0__temp=99000)
    write(thermal, thermal_zone1__type="x86_pkg_temp", thermal_zone1__temp=54000)
    write(tmp_path / "class/hwmon", hwmon0__name="k10temp", hwmon0__temp1_input=51500)
    return tmp_path


def test_a_processors_clocks_and_temperature(sysfs):
    assert cpu_clocks(sysfs) == {
        "governor": "performance",
        "clock_limits_mhz": "800 to 3500",
        "clocks_locked": "no",
    }
    assert cpu_now(sysfs) == {"clock_mhz": "1200 to 1300", "temperature_c": "54"}


@pytest.mark.parametrize(
    ("file", "value", "boost", "locked"),
    [
        ("cpufreq__boost", 0, "off", "yes"),
        ("cpufreq__boost", 1, "on", "no"),
        ("intel_pstate__no_turbo", 1, "off", "yes"),
        ("intel_pstate__no_turbo", 0, "on", "no"),
    ],
)
def test_locked_is_one_clock_without_boost(sysfs, file, value, boost, locked):
    for number in range(2):
        folder = sysfs / f"devices/system/cpu/cpu{number}/cpufreq"
        write(folder, scaling_min_freq=3500000)
    assert cpu_clocks(sysfs)["clocks_locked"] == "yes"
    write(sysfs / "devices/system/cpu", **{file: value})
    found = cpu_clocks(sysfs)
    assert (found["boost"], found["clocks_locked"]) == (boost, locked)


def test_what_is_not_told_is_left_out(tmp_path):
    assert cpu_clocks(tmp_path) == {}
    assert cpu_now(tmp_path) == {}
    assert gpu(command=["no-such-program"]) == {}


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def test_a_gpus(tmp_path):
    told = program(tmp_path / "smi", "echo '575.57, 41, 345, 1980, [N/A], 700.00'")
    assert gpu("1", command=told) == {
        "driver": "575.57",
        "gpu_temperature_c": "41",
        "gpu_clock_mhz": "345",
        "gpu_clock_max_mhz": "1980",
        "gpu_power_limit_w": "700.00",
    }
    assert gpu(command=program(tmp_path / "none", "echo 'No devices were found'; exit 6")) == {}


def test_a_gpu_is_asked_only_where_it_is_measured_on(monkeypatch):
    from autoprune.profile import conditions as module

    monkeypatch.setattr(module, "gpu", lambda: {"driver": "1"})
    monkeypatch.setattr(module, "cpu_now", lambda: {"temperature_c": "54"})
    assert conditions(DeviceSpec("a device far away", "onnxruntime", "1")) == {}
    here = conditions(DeviceSpec(cpu()[0], "onnxruntime", "1"))
    assert here["temperature_c"] == "54"
    assert "driver" not in here
    for provider in ("cuda", "cuda-eager"):
        assert conditions(DeviceSpec("x", "r", "1", provider))["driver"] == "1"
