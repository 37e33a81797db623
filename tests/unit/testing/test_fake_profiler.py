import pytest

from autoprune.core.device import DeviceSpec, Measurement, MeasuringProtocol
from autoprune.testing.fake_profiler import FakeProfiler
from autoprune.testing.profilers import ContractError, check_profiler, conv_artifact


def test_keeps_the_contract():
    check_profiler(FakeProfiler())
    check_profiler(FakeProfiler(noise=0.05, drift=0.1))


def test_latency_is_the_formula():
    profiler = FakeProfiler(gmacs_per_s=1.0, overhead_us=10.0, block=16)
    # Two convolutions and two ReLUs on 16 × 16; 20 channels count as 32.
    macs = 256 * 9 * 32 * (3 + 20)
    assert profiler.latency_ms(conv_artifact("n", 20)) == pytest.approx(0.04 + macs / 1e6)
    (measurement,) = profiler.measure([conv_artifact("n", 20)], MeasuringProtocol(kernels=True))
    assert measurement.latency_ms == pytest.approx(0.04 + macs / 1e6)
    assert [k.layers for k in measurement.kernels[:2]] == [("conv0",), ("relu0",)]


def test_noise_is_averaged_out_and_reproducible():
    artifacts = [conv_artifact("a", 64, 4), conv_artifact("b", 32, 4)]
    exact = FakeProfiler().measure(artifacts, MeasuringProtocol())
    first, second = (
        FakeProfiler(noise=0.1, drift=0.2, seed=3).measure(artifacts, MeasuringProtocol())
        for _ in range(2)
    )
    assert first == second
    assert first[1].ratio == pytest.approx(exact[1].ratio, rel=0.03)


def test_energy_is_a_formula_of_its_own():
    profiler = FakeProfiler(gmacs_per_s=1.0, overhead_us=10.0, idle_w=2.0, pj_per_mac=2e4)
    # 20 channels count as 32 in time, as 20 in energy.
    macs, time_ms = 256 * 9 * 20 * (3 + 20), 0.04 + 256 * 9 * 32 * (3 + 20) / 1e6
    energy = 2.0 * time_ms + 2e-5 * macs
    assert profiler.energy_mj(conv_artifact("n", 20)) == pytest.approx(energy)
    dense, half = profiler.measure(
        [conv_artifact("n", 20), conv_artifact("h", 17)], MeasuringProtocol()
    )
    assert dense.energy_mj == pytest.approx(energy)
    truth = profiler.energy_mj(conv_artifact("h", 17)) / energy
    assert half.energy_ratio == pytest.approx(truth)
    assert abs(half.ratio / half.energy_ratio - 1) > 0.1


def test_a_device_that_throttles_recovers_or_says_so():
    artifacts = [conv_artifact("a", 64, 4), conv_artifact("b", 32, 4)]
    truth = FakeProfiler().measure(artifacts, MeasuringProtocol())[1].ratio
    slow = FakeProfiler(noise=0.02, throttled=(0.15, 0.4, 1.8))
    protocol = MeasuringProtocol(min_rounds=12, timeout_s=30.0)
    dense, found = slow.measure(artifacts, protocol)
    assert found.ratio == pytest.approx(truth, rel=0.02)
    assert dense.latency_ms == pytest.approx(slow.latency_ms(artifacts[0]), rel=0.05)
    assert "taken again" in found.notes[0]
    hot = FakeProfiler(throttled=(0.15, 1e9, 1.8))
    found = hot.measure(artifacts, MeasuringProtocol(width=1e-9, timeout_s=1.0))[1]
    assert "left out" in (found.error or found.notes[0])


class Wrong(FakeProfiler):
    """A profiler that breaks the contract in the way it is told."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def measure(self, artifacts, protocol):
        return self.change(super().measure(artifacts, protocol))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ms: ms[::-1], "order"),
        (lambda ms: ms[:-1], "one measurement for each"),
        (lambda ms: [Measurement(m.key, latency_ms=-1.0) for m in ms], "positive|must lie"),
        (lambda ms: [Measurement(m.key, error="no") for m in ms], "must be measured"),
    ],
)
def test_the_suite_finds_what_is_wrong(change, said):
    with pytest.raises(ContractError, match=said):
        check_profiler(Wrong(change))


def test_the_suite_wants_a_device():
    profiler = FakeProfiler()
    profiler._device = DeviceSpec("", "fake", "1")
    with pytest.raises(ContractError, match="name"):
        check_profiler(profiler)
