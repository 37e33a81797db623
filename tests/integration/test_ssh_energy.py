"""Energy of a machine at the other end of a real ssh connection, from counters made up here."""

import shutil
import subprocess
import threading
import time

import pytest
import ssh_server
from few_rounds import FEW

from autoprune.core.errors import ProfilerError
from autoprune.profile.registry import make_profiler
from autoprune.testing.profilers import conv_artifact

WATTS = 5.0

#: Energy and latency are of different runs, one after the other, and a busy processor's speed
#: changes in between: a run's energy may be that of a run so many times as long, or as short.
SPEEDS = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


def networks():
    return [conv_artifact("small", 16, size=32), conv_artifact("large", 64, size=48, layers=4)]


def without_energy(measurement):
    """What its notes say of energy; rounds that a busy machine lost are no matter."""
    return [note for note in measurement.notes if "no energy" in note]


def check(found, watts):
    """That energies are of these watts, for as long as runs last: others have the CPU meanwhile."""
    small, large = found
    for measurement in found:
        assert measurement.ok
        assert not without_energy(measurement)
        assert measurement.energy_source == "measured"
        own = watts * measurement.latency_ms
        assert own / SPEEDS <= measurement.energy_mj <= 500 * own
    assert small.energy_ratio == 1.0
    assert large.energy_ratio > 2
    assert large.energy_ratio_interval[0] <= large.energy_ratio <= large.energy_ratio_interval[1]


def test_a_jetsons_rails_are_read_there(server, tmp_path):
    hwmon = tmp_path / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    hwmon.mkdir(parents=True)
    (hwmon / "in1_label").write_text("VDD_IN\n")
    (hwmon / "in1_input").write_text("5000\n")
    (hwmon / "curr1_input").write_text("1000\n")
    profiler = server.profiler(
        meter="jetson", **{"meter.folders": str(tmp_path / "ina3221"), "meter.period_s": 0.005}
    )
    assert profiler.device.details["energy"] == (
        "measured, jetson: VDD_IN (INA3221): idle power included"
    )
    check(profiler.measure(networks(), FEW), WATTS)


class Package:
    """RAPL's counters of a processor that draws `WATTS`, until the block ends."""

    def __init__(self, folder):
        self.zone, self.part = folder / "intel-rapl:0", folder / "intel-rapl:0:0"
        for zone, name in ((self.zone, "package-0"), (self.part, "core")):
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "max_energy_range_uj").write_text("262143328850\n")
            (zone / "energy_uj").write_text("1000000\n")
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.count)

    def count(self):
        start, begin = time.monotonic(), 262143328850 - 10**6  # it begins at 0 again soon
        fresh = self.zone / "fresh"
        while not self.stop.wait(0.002):
            used = round((time.monotonic() - start) * WATTS * 1e6)
            fresh.write_text(f"{(begin + used) % 262143328850}\n")
            fresh.replace(self.zone / "energy_uj")

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def test_a_processors_counters_are_read_there(server, tmp_path):
    with Package(tmp_path):
        address = f"{server.address}?meter=rapl&meter.folder={tmp_path}"
        profiler = make_profiler(
            address, python=server.python, ssh=f"ssh -F {server.folder}/config", timeout_s=300
        )
        found = profiler.measure(networks(), FEW)
    assert profiler.device.details["energy"].startswith("measured, rapl: package-0 (RAPL)")
    check(found, WATTS)


def test_a_counter_that_stands_still_leaves_the_latency_and_says_why(server, tmp_path):
    Package(tmp_path)
    found = server.profiler(meter="rapl", **{"meter.folder": str(tmp_path)}).measure(
        networks(), FEW
    )
    for measurement in found:
        assert measurement.ok
        assert measurement.energy_mj is None
        (said,) = without_energy(measurement)
        assert said.startswith("no energy: the meter rapl stands still")


#: 300 W for as long as the process that asks computes: what others on the machine do is no matter.
DRIVER = """
#include <string.h>
#include <time.h>
const char *nvmlErrorString(int status) { return status == 6 ? "Not Found" : "Not Supported"; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(long)(index + 1);
  return index < 2 ? 0 : 6;
}
int nvmlDeviceGetName(void *device, char *name, unsigned length) {
  strncpy(name, "NVIDIA Made-up", length);
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  *millijoules = 300ULL * (now.tv_sec * 1000ULL + now.tv_nsec / 1000000ULL);
  return device == (void *)1 ? 0 : 3;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler for a made-up driver")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(DRIVER)
    library = folder / "libnvidia-ml.so.1"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "nvml.c")]
    subprocess.run(command, check=True)
    return str(library)


def test_a_gpus_total_is_read_there(server, driver):
    profiler = server.profiler(meter="nvml", **{"meter.library": driver})
    assert profiler.device.details["energy"] == (
        "measured, nvml: NVIDIA Made-up (NVML): the whole board, idle power included"
    )
    (found,) = profiler.measure(networks()[1:], FEW)
    assert not without_energy(found)
    assert 300.0 / SPEEDS <= found.energy_mj / found.latency_ms <= 300.0 * SPEEDS


def test_what_cant_be_read_there_is_told_before_anything_is_measured(server, driver, tmp_path):
    cases = (
        ({"meter": "jetson", "meter.folders": str(tmp_path)}, "this is no Jetson"),
        ({"meter": "rapl", "meter.folder": str(tmp_path)}, "use power_w"),
        ({"meter": "nvml", "meter.library": "libno.so"}, "NVIDIA's driver must be installed"),
        ({"meter": "nvml", "meter.library": driver, "meter.index": 2}, "of index 2, .*Not Found"),
        ({"meter": "nvml", "meter.library": driver, "meter.index": 1}, "from Volta on"),
    )
    for options, said in cases:
        with pytest.raises(ProfilerError, match=said):
            server.profiler(**options).device  # noqa: B018
    with pytest.raises(ProfilerError, match="meter 'rapl' has no option 'index'; it has folder"):
        server.profiler(meter="rapl", **{"meter.index": 0})
    with pytest.raises(ProfilerError, match="give meter or power_w"):
        server.profiler(meter="rapl", power_w=5)
    (failed,) = server.profiler(**cases[0][0]).measure(networks()[:1], FEW)
    assert "this is no Jetson" in failed.error
