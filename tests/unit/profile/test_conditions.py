import stat

import pytest

from autoprune.core.device import DeviceSpec
from autoprune.profile.conditions import (
    conditions,
    conditions_by,
    cpu_clocks,
    cpu_now,
    gpu,
    jetson_gpu,
)
from autoprune.profile.cpu import cpu
from autoprune.profile.power import StatedPower


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


def smi(path, general, applications):
    """An nvidia-smi that answers so to the two questions."""
    return program(
        path, f'case "$*" in *applications*) {applications};; *) echo "{general}";; esac'
    )


def test_a_gpus(tmp_path):
    told = smi(tmp_path / "smi", "575.57, 41, 345, 1980, 700.00", "echo '[N/A], [N/A]'")
    assert gpu("1", command=told) == {
        "driver": "575.57",
        "gpu_temperature_c": "41",
        "gpu_clock_mhz": "345",
        "gpu_clock_max_mhz": "1980",
        "gpu_power_limit_w": "700.00",
        "gpu_clocks_locked": "unknown",
    }
    assert gpu(command=program(tmp_path / "none", "echo 'No devices were found'; exit 6")) == {}


@pytest.mark.parametrize(
    ("applications", "locked"),
    [
        ("echo '1410, 1980'", "yes"),  # nvidia-smi --applications-clocks: the driver boosts no more
        ("echo '1980, 1980'", "unknown"),  # perhaps by --lock-gpu-clocks, which can't be read
        ("echo '1410, [N/A]'", "unknown"),
        ("echo '[Deprecated], [Deprecated]'", "unknown"),
        ("echo 'Field \"clocks.applications.graphics\" is not valid'; exit 2", "unknown"),
    ],
)
def test_a_gpus_clocks_are_locked_or_it_is_unknown(tmp_path, applications, locked):
    found = gpu(command=smi(tmp_path / "smi", "470.1, 41, 1410, 1980, 250.00", applications))
    assert found["gpu_clocks_locked"] == locked
    assert found["driver"] == "470.1"


def test_a_jetsons_gpu_is_told_by_linux(tmp_path):
    assert jetson_gpu(tmp_path) == {}
    devfreq = tmp_path / "class/devfreq"
    write(devfreq, emc__cur_freq=204000000, emc__min_freq=1, emc__max_freq=1)
    gpu = "17000000.ga10b"
    write(devfreq / gpu, cur_freq=612000000, min_freq=306000000, max_freq=918000000)
    assert jetson_gpu(tmp_path) == {
        "gpu_clock_mhz": "612",
        "gpu_clock_limits_mhz": "306 to 918",
        "gpu_clocks_locked": "no",
    }
    write(devfreq / gpu, min_freq=918000000)
    assert jetson_gpu(tmp_path)["gpu_clocks_locked"] == "yes"


def test_a_gpu_is_asked_only_where_it_is_measured_on(monkeypatch):
    from autoprune.profile import conditions as module

    monkeypatch.setattr(module, "gpu", lambda index: {"driver": "1", "index": index})
    monkeypatch.setattr(module, "cpu_now", lambda: {"temperature_c": "54"})
    assert conditions(DeviceSpec("a device far away", "onnxruntime", "1")) == {}
    here = conditions(DeviceSpec(cpu()[0], "onnxruntime", "1"))
    assert here["temperature_c"] == "54"
    assert "driver" not in here
    for provider in ("cuda", "cuda-eager"):
        found = conditions(DeviceSpec("x", "r", "1", provider, settings={"device_id": "2"}))
        assert found == {"driver": "1", "index": "2"}
    second = DeviceSpec("x", "tensorrt", "1", "cuda", details={"gpu": "1"})
    assert conditions(second)["index"] == "1"
    monkeypatch.setattr(module, "gpu", lambda index: {})
    monkeypatch.setattr(module, "jetson_gpu", lambda: {"gpu_clocks_locked": "no"})
    assert conditions(DeviceSpec("Orin", "tensorrt", "1", "x")) == {"gpu_clocks_locked": "no"}


def test_a_profiler_far_away_tells_its_own():
    class Far:
        remote = True

    class Tells(Far):
        def conditions(self):
            return {"temperature_c": "54"}

    assert conditions_by(Far()) == {}
    for profiler in (Tells(), StatedPower(Tells(), 5.0)):
        assert conditions_by(profiler) == {"temperature_c": "54"}
    assert conditions_by(StatedPower(Far(), 5.0)) == {}
