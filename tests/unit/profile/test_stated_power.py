import pytest

from autoprune.core.device import MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile.measuring import Visit, measure_interleaved
from autoprune.profile.metered import Metered as WithMeter
from autoprune.profile.power import StatedPower
from autoprune.profile.registry import make_profiler
from autoprune.testing.fake_profiler import FakeProfiler
from autoprune.testing.profilers import QUICK, check_profiler, conv_artifact

FAKE = "autoprune.testing.fake_profiler:FakeProfiler"


class Metered:
    """Measures energy itself."""

    device = FakeProfiler().device

    def measure(self, artifacts, protocol):
        return measure_interleaved([a.key for a in artifacts], [Runs()] * len(artifacts), protocol)


class Runs:
    def visit(self, runs):
        return Visit(1.0, 3.0)


def test_keeps_the_contract():
    check_profiler(StatedPower(FakeProfiler(), 2.0))


def test_every_profiler_takes_a_power_and_says_that_energy_is_modelled():
    profiler = make_profiler(f"{FAKE}?power_w=7.5&block=8")
    for measurement in profiler.measure([conv_artifact("a", 8), conv_artifact("b", 40)], QUICK):
        assert measurement.energy_mj == pytest.approx(7.5 * measurement.latency_ms)
        assert measurement.energy_source == "modelled"
    assert profiler.device.details["energy"] == "modelled, 7.5 W (power_w) times latency"
    assert profiler.device == make_profiler(f"{FAKE}?block=8").device
    (plain,) = make_profiler(FAKE).measure([conv_artifact("a", 8)], QUICK)
    assert plain.energy_mj is None


def test_a_failed_measurement_has_no_energy():
    artifact = conv_artifact("a", 8)
    results = StatedPower(FakeProfiler(), 2.0).measure(
        [artifact, type(artifact)("bad", b"?", {})], QUICK
    )
    assert results[1].error
    assert results[1].energy_mj is None


def test_two_energies_are_refused():
    (found,) = make_profiler(StatedPower(Metered(), 2.0)).measure([conv_artifact("a", 8)], QUICK)
    assert "leave out power_w" in found.error


@pytest.mark.parametrize("power", [0, -1.0, float("nan"), float("inf"), True, "5 W"])
def test_wrong_powers_are_refused(power):
    with pytest.raises(ProfilerError, match="positive and finite"):
        make_profiler(FAKE, power_w=power)


def test_energy_is_told_against_the_reference_beside_it():
    """A meter that drifts by half cancels, as the clock does."""
    calls = iter(range(10**6))

    class Drifts:
        def __init__(self, energy):
            self.energy = energy

        def visit(self, runs):
            return Visit(1.0, self.energy * (1 + next(calls) / 60))

    protocol = MeasuringProtocol(min_rounds=6, max_rounds=6, width=1e-9)
    dense, half = measure_interleaved(["dense", "half"], [Drifts(4.0), Drifts(2.0)], protocol)
    assert half.energy_mj / dense.energy_mj == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("energy", [0.0, -1.0, float("nan")])
def test_wrong_energies_are_errors(energy):
    class Wrong:
        def visit(self, runs):
            return Visit(1.0, energy)

    good, wrong = measure_interleaved(["a", "b"], [lambda: 1.0, Wrong()], QUICK)
    assert good.ok
    assert "millijoules" in wrong.error


def test_energy_that_is_told_only_at_times_is_not_told():
    turn = iter(range(10**6))

    class Sometimes:
        def visit(self, runs):
            return Visit(1.0, 1.0 if next(turn) % 2 else None)

    found = measure_interleaved(["a", "b"], [Runs(), Sometimes()], QUICK)
    assert [m.energy_mj for m in found] == [pytest.approx(3.0), None]


class Kept(FakeProfiler):
    """Keeps something open."""

    def __init__(self):
        super().__init__()
        self.closed = 0

    def close(self):
        self.closed += 1


class Meter:
    def read_mj(self):
        return 0.0


@pytest.mark.parametrize("wrap", [lambda p: StatedPower(p, 2.0), lambda p: WithMeter(p, Meter())])
def test_what_the_profiler_keeps_open_is_ended(wrap):
    profiler = Kept()
    wrap(profiler).close()
    assert profiler.closed == 1
    wrap(FakeProfiler()).close()  # keeps nothing
