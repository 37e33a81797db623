import math

import pytest

from autoprune.core.device import EnergyMeter, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, PluginError, ProfilerError
from autoprune.profile.energy import MeterError, Unwrapped, Windows
from autoprune.profile.energy_jetson import JetsonMeter, find_rails
from autoprune.profile.energy_sampled import SampledPower
from autoprune.profile.measuring import Visit, measure_interleaved
from autoprune.profile.metered import Metered, make_meter, meters
from autoprune.profile.power import StatedPower
from autoprune.profile.registry import make_profiler

FAKE = "autoprune.testing.fake_profiler:FakeProfiler"


class Bench:
    """A device whose counter moves every `step_s`, begins again at `range_mj`, and may fail."""

    name = "bench"

    def __init__(self, step_s=0.02, range_mj=None, first_mj=0.0, idle_w=2.0):
        self.now = 0.0
        self.used = first_mj
        self.shown = first_mj
        self.due = step_s
        self.step_s = self.resolution_s = step_s
        self.range_mj = range_mj
        self.idle_w = idle_w
        self.reads = 0

    def runner(self, latency_ms, active_mj):
        def run():
            for _ in range(20):
                self.now += latency_ms / 20e3
                self.used += active_mj / 20 + self.idle_w * latency_ms / 20
                if self.now >= self.due:
                    self.shown, self.due = self.used, self.due + self.step_s
            return latency_ms

        return run

    def read_mj(self):
        self.reads += 1
        return self.shown if self.range_mj is None else self.shown % self.range_mj

    def measure(self, networks, **settings):
        return measure_interleaved(
            [str(i) for i in range(len(networks))],
            [self.runner(*network) for network in networks],
            MeasuringProtocol(meter=self, **settings),
            clock=lambda: self.now,
            sleep=lambda seconds: None,
        )


def test_energy_of_a_run_whatever_the_counters_steps():
    for step in (0.0005, 0.02, 0.1):
        bench = Bench(step)
        run = bench.runner(3.0, 4.0)
        windows = Windows(bench, lambda bench=bench: bench.now)
        found = windows.per_run(lambda n, run=run: [run() for _ in range(n)])
        assert found == pytest.approx(4.0 + 2.0 * 3.0, rel=0.03)  # what is drawn idle is included


def test_the_counter_is_not_read_while_most_runs_go_on():
    bench = Bench(0.02)
    run, runs = bench.runner(1.0, 1.0), []
    Windows(bench, lambda: bench.now).per_run(lambda n: runs.append(n) or [run() for _ in range(n)])
    assert max(runs) >= 190  # ten steps
    assert bench.reads < 60


@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_machine_that_stands_still_for_a_while_is_no_counter_that_does(read):
    class Stopped(Bench):
        def read_mj(self):
            shown = super().read_mj()
            if self.reads == read:  # another process has the processor from here on
                self.now += 5.0
                self.used += 5000.0 * self.idle_w
                self.shown = self.used
            return shown

    bench = Stopped()
    run = bench.runner(1.0, 1.0)
    found = Windows(bench, lambda: bench.now).per_run(lambda n: [run() for _ in range(n)])
    assert found == pytest.approx(1.0 + bench.idle_w, rel=0.03)


def test_energy_and_latency_have_ratios_of_their_own():
    dense, half = Bench().measure([(4.0, 10.0), (3.0, 2.0)])
    assert half.ratio == pytest.approx(0.75)
    assert half.energy_ratio == pytest.approx(8 / 18, rel=0.01)
    assert half.energy_mj == pytest.approx(8.0, rel=0.02)
    assert dense.energy_mj == pytest.approx(18.0, rel=0.01)
    assert half.energy_ratio_interval[0] <= half.energy_ratio <= half.energy_ratio_interval[1]
    assert (dense.energy_ratio, dense.energy_ratio_interval) == (1.0, (1.0, 1.0))
    assert half.energy_source == "measured"
    assert dense.notes == half.notes == ()


def test_a_counter_that_wraps_around_in_the_middle():
    straight = Bench().measure([(4.0, 10.0), (3.0, 2.0)])
    wrapping = Bench(range_mj=20_000.0, first_mj=19_900.0).measure([(4.0, 10.0), (3.0, 2.0)])
    assert wrapping[1].energy_ratio == pytest.approx(straight[1].energy_ratio, rel=0.01)
    assert wrapping[1].notes == ()


def test_unwrapping():
    values = iter([250.0, 255.0, 3.0, 3.0, 100.0])
    total = Unwrapped(lambda: next(values), 256.0, "a counter")
    assert [total() for _ in range(5)] == [0.0, 5.0, 9.0, 9.0, 106.0]
    for limit in (None, 256.0, 0.5):
        backwards = iter([5.0, 4.0])
        total = Unwrapped(lambda b=backwards: next(b), limit, "a counter")
        total()
        with pytest.raises(MeterError, match=r"went backwards, from 5 to 4; .* range_mj"):
            total()


class Broken(Bench):
    def __init__(self, *, problem, **settings):
        super().__init__(**settings)
        self.problem = problem

    def read_mj(self):
        return self.problem(super().read_mj())


def raising(_):
    raise OSError("Remote I/O error")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (lambda _: 7.0, "stands still: its total stayed the same for 2.0 s"),
        (lambda _: math.nan, "must tell a finite number, got nan"),
        (lambda mj: -mj, "went backwards"),
        (raising, "can't be read: OSError: Remote I/O error"),
    ],
)
def test_a_meter_that_fails_leaves_the_latency_and_says_why(problem, said):
    dense, half = Broken(problem=problem).measure([(4.0, 10.0), (3.0, 2.0)])
    assert half.ratio == pytest.approx(0.75)
    assert dense.energy_mj is None
    assert half.energy_mj is None
    assert half.energy_ratio is None
    assert said in half.notes[0]
    assert half.notes[0].startswith("no energy: the meter bench")


def test_a_reading_that_fails_once_is_taken_again():
    calls = iter(range(10**6))
    meter = Broken(problem=lambda mj: raising(mj) if next(calls) == 40 else mj)
    _, half = meter.measure([(4.0, 10.0), (3.0, 2.0)])
    assert half.energy_ratio == pytest.approx(8 / 18, rel=0.01)
    assert half.notes == ()


def test_two_energies_are_an_error():
    class Tells:
        def visit(self, runs):
            return Visit(1.0, 2.0)

    found = measure_interleaved(["a", "b"], [Tells(), Tells()], MeasuringProtocol(meter=Bench()))
    assert "the device measures energy itself" in found[0].error


# -- profilers with a meter beside them ------------------------------------------------------------


class Plain:
    def __init__(self, mj="3"):
        self.total, self.mj = 0.0, float(mj)

    def read_mj(self):
        self.total += self.mj
        return self.total


def test_every_profiler_takes_a_meter_by_name():
    profiler = make_profiler(f"onnxruntime-cpu?meter={__name__}:Plain&meter.mj=5")
    assert isinstance(profiler, Metered)
    said = profiler.device.details["energy"]
    assert said == "measured, Plain: idle power included"


def test_a_meter_is_made_or_refused():
    meter = Plain()
    assert make_meter(meter, {}) is meter
    assert isinstance(meter, EnergyMeter)
    with pytest.raises(PluginError, match="meter must be one of jetson, nvml, rapl"):
        make_meter("ammeter", {})
    with pytest.raises(PluginError, match="must be a name or have `read_mj`; got a int"):
        make_meter(5, {})
    with pytest.raises(ProfilerError, match="made already"):
        make_meter(meter, {"index": 1})
    with pytest.raises(ProfilerError, match="meter 'nvml' has no option 'watts'; it has index"):
        make_meter("nvml", {"watts": 1})
    with pytest.raises(ProfilerError, match="need the option meter"):
        make_profiler(f"{FAKE}?meter.index=1")
    with pytest.raises(ProfilerError, match="give meter or power_w"):
        make_profiler(f"{FAKE}?power_w=5", meter=meter)
    slow = Plain()
    slow.resolution_s = 0
    with pytest.raises(ProfilerError, match="resolution_s of Plain must be positive seconds"):
        make_profiler(FAKE, meter=slow)


def test_a_meter_of_this_machine_says_nothing_of_another():
    class Far:
        remote = True

    here = Plain()
    here.host = True
    with pytest.raises(ProfilerError, match="reads this machine, the profiler Far measures on"):
        Metered(Far(), here)
    for wrapped in (Metered(Far(), Plain()), StatedPower(Far(), 5.0)):
        assert wrapped.remote
        assert not wrapped.quiet


@pytest.mark.parametrize("name", ["command?program=./measure.sh", "trtexec?program=trtexec"])
def test_a_program_that_is_started_for_each_visit_has_no_meter_beside_it(name, monkeypatch):
    banner = "[TensorRT v101303]"
    monkeypatch.setattr("autoprune.profile.trtexec_place.Here.run", lambda *_: (0, banner))
    with pytest.raises(ProfilerError, match="starts a program for each visit"):
        make_profiler(f"{name}&meter={__name__}:Plain")
    assert make_profiler(f"{name}&power_w=5")


def test_a_profiler_that_does_not_read_the_meter_says_so():
    class Own(make_profiler(FAKE).__class__):
        def measure(self, artifacts, protocol):
            from dataclasses import replace

            return super().measure(artifacts, replace(protocol, meter=None))

    from autoprune.testing.profilers import conv_artifact

    (found,) = Metered(Own(), Plain()).measure([conv_artifact("a", 8)], MeasuringProtocol())
    assert found.ok
    assert "did not read the meter" in found.notes[0]


def test_a_meter_of_ones_own_beside_a_profiler():
    from autoprune.testing.fake_profiler import FakeProfiler
    from autoprune.testing.profilers import check_profiler, conv_artifact

    class Timed(FakeProfiler):
        name, resolution_s = "supply", 0.001

        def read_mj(self):
            return 3000.0 * self._now_s

    device = Timed()
    metered = Metered(device, device)
    check_profiler(metered)
    artifacts = [conv_artifact("a", 16), conv_artifact("b", 32)]
    dense, other = metered.measure(artifacts, MeasuringProtocol())
    assert dense.energy_mj == pytest.approx(3.0 * dense.latency_ms, rel=0.01)
    assert other.energy_ratio == pytest.approx(other.ratio, rel=0.01)
    assert metered.device.details["energy"] == "measured, supply: idle power included"
    assert metered.device == device.device


def test_meters_are_listed_with_what_is_missing():
    rows = {row.name: row for row in meters()}
    assert set(rows) >= {"jetson", "nvml", "rapl"}
    for row in rows.values():
        assert bool(row.covers) is row.available
        assert bool(row.missing) is not row.available


# -- sampled power ---------------------------------------------------------------------------------


def test_power_is_summed_over_time():
    times = iter([0.0, 1.0, 3.0])
    watts = iter([2.0, 4.0, 4.0])
    power = SampledPower(lambda: next(watts), clock=lambda: next(times))
    assert [power.read_mj() for _ in range(3)] == [0.0, 3000.0, 11000.0]


def test_power_is_sampled_while_a_window_is_open_and_a_failure_is_told():
    import threading

    often = threading.Event()
    reads = []

    def read():
        reads.append(threading.current_thread())
        if len(reads) > 3:
            often.set()
        return 1.0

    power = SampledPower(read, period_s=0.001)
    power.start()
    assert often.wait(300)
    power.stop()
    count = len(reads)
    assert threading.main_thread() not in reads
    assert power.read_mj() > 0
    assert len(reads) == count + 1
    failing = SampledPower(lambda: raising(0), period_s=0.001)
    failing.start()
    failing._thread.join(300)
    with pytest.raises(OSError, match="Remote I/O"):
        failing.read_mj()
    failing.stop()


@pytest.fixture
def orin(tmp_path):
    """The rails of a Jetson as its kernel shows them."""
    hwmon = tmp_path / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    hwmon.mkdir(parents=True)
    for number, (rail, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5000, 1000), ("VDD_CPU_GPU_CV", 5000, 300)], start=1
    ):
        (hwmon / f"in{number}_label").write_text(f"{rail}\n")
        (hwmon / f"in{number}_input").write_text(f"{millivolts}\n")
        (hwmon / f"curr{number}_input").write_text(f"{milliamperes}\n")
    (hwmon / "in7_label").write_text("Sum of shunt voltages\n")
    old = tmp_path / "ina3221x" / "7-0041" / "iio:device1"
    old.mkdir(parents=True)
    (old / "rail_name_0").write_text("GPU\n")
    (old / "in_power0_input").write_text("1500\n")
    return [str(tmp_path / "ina3221"), str(tmp_path / "ina3221x")]


def test_a_jetsons_rails(orin, tmp_path):
    from pathlib import Path

    rails = find_rails([Path(folder) for folder in orin])
    assert {name: read() for name, read in rails.items()} == {
        "VDD_IN": 5.0,
        "VDD_CPU_GPU_CV": 1.5,
        "GPU": 1.5,
    }
    assert "VDD_IN (INA3221)" in JetsonMeter(folders=orin).covers
    both = JetsonMeter("VDD_CPU_GPU_CV+GPU", folders=orin)
    both._clock = iter([0.0, 2.0]).__next__
    assert [both.read_mj() for _ in range(2)] == [0.0, 6000.0]
    with pytest.raises(ProfilerError, match=r"must name some of GPU, .*; got 'VDD_X'"):
        JetsonMeter("VDD_X", folders=orin)
    with pytest.raises(ProfilerError, match="none of this board's rails supplies the whole"):
        JetsonMeter(folders=orin[1:])
    with pytest.raises(ProfilerError, match="this is no Jetson"):
        JetsonMeter(folders=[str(tmp_path / "nothing")])
    (tmp_path / "ina3221" / "1-0040" / "hwmon" / "hwmon3" / "in1_input").unlink()
    with pytest.raises(ProfilerError, match="must name some of"):
        JetsonMeter("VDD_IN", folders=orin)


def test_without_zeus_it_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "zeus", None)
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    for name in ("rapl", "nvml"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'autoprune\[energy\]'"):
            make_meter(name, {})
