"""The contract's checks find out profilers that break it, and a search does not use them."""

import math
import time
from dataclasses import replace

import pytest

from autoprune.core.device import KernelTime, Measurement
from autoprune.core.errors import PluginError, ProfilerError
from autoprune.profile.checked import device_of, measure_checked
from autoprune.testing import profilers
from autoprune.testing.fake_profiler import FakeProfiler
from autoprune.testing.profilers import QUICK, ContractError, check_profiler, conv_artifact


class Spoilt:
    """A good profiler whose answers are changed."""

    def __init__(self, change):
        self.inner, self.change = FakeProfiler(), change

    @property
    def device(self):
        return self.inner.device

    def measure(self, artifacts, protocol):
        return self.change(self.inner.measure(artifacts, protocol))


def raises(found):
    raise RuntimeError("the board is gone")


def each(**changes):
    return lambda found: [replace(m, **changes) if m.ok else m for m in found]


def kernel(latency_ms):
    return KernelTime("conv", (), "Conv", latency_ms)


STRUCTURE = {
    "raises": (raises, "RuntimeError: the board is gone"),
    "rubbish": (lambda found: "42 ms", "list of Measurement, got a list with str"),
    "none": (lambda found: None, "list of Measurement, got NoneType"),
    "numbers": (lambda found: [1.0] * len(found), "got a list with float"),
    "too few": (lambda found: found[1:], "one measurement for each artifact, got 2 for 3"),
    "too many": (lambda found: [*found, Measurement("x", error="?")], "got 4 for 3"),
    "order": (lambda found: found[::-1], "number 1 must be of 'small', got one of 'small again'"),
}
FIGURES = {
    "negative": (each(latency_ms=-1.0), "latency_ms must be positive and finite, got -1.0"),
    "zero": (each(latency_ms=0.0), "latency_ms must be positive and finite, got 0.0"),
    "nan": (each(latency_ms=math.nan), "latency_ms must be positive and finite, got nan"),
    "text": (each(latency_ms="1"), "latency_ms must be positive and finite, got '1'"),
    "ratio": (each(ratio=math.inf), "ratio must be positive and finite, got inf"),
    "interval": (each(latency_interval_ms=(1e8, 1e9)), "must lie in its interval"),
    "nan interval": (each(ratio_interval=(math.nan, math.nan)), "must lie in its interval"),
    "energy": (each(energy_mj=-2.0), "energy_mj must be positive and finite, or None, got -2.0"),
    "rounds": (each(samples_ms=(1.0, math.nan)), "samples_ms must be positive, finite numbers"),
    "reference's": (each(reference_ms=(-1.0,)), "reference_ms must be positive, finite numbers"),
    "kernel": (each(kernels=(kernel(-1.0),)), "'conv' must take a finite time of at least 0 ms"),
    "nan kernel": (each(kernels=(kernel(1.0), kernel(math.nan))), "at least 0 ms, got nan"),
    "no kernel": (each(kernels=({"conv": 1.0},)), "kernels must be of KernelTime, got dict"),
}
SAID = {**STRUCTURE, **FIGURES}


@pytest.mark.parametrize("kind", SAID)
def test_a_profiler_that_breaks_the_contract_is_found_out(kind):
    change, said = SAID[kind]
    with pytest.raises(ContractError) as caught:
        check_profiler(Spoilt(change))
    assert said in str(caught.value)


def test_a_good_one_is_not():
    check_profiler(Spoilt(list))


def test_one_that_hangs_is_found_out(monkeypatch):
    monkeypatch.setattr(profilers, "HANGS_S", 0.2)
    with pytest.raises(ContractError, match=r"must return .* still ran after 0.2 s"):
        check_profiler(Spoilt(lambda found: time.sleep(2)))


ARTIFACTS = [
    conv_artifact("small", 8),
    conv_artifact("middle", 16),
    conv_artifact("small again", 8),
]


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_search_does_not_go_on_with_it(kind):
    change, said = STRUCTURE[kind]
    with pytest.raises(ProfilerError) as caught:
        measure_checked(Spoilt(change), ARTIFACTS, QUICK)
    assert said in str(caught.value)
    assert "Spoilt" in str(caught.value)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_that_can_not_be_one_is_a_failed_measurement(kind):
    change, said = FIGURES[kind]
    found = measure_checked(
        Spoilt(lambda found: [found[0], *change(found[1:2]), found[2]]), ARTIFACTS, QUICK
    )
    assert [m.ok for m in found] == [True, False, True]
    assert said in found[1].error
    assert math.isnan(found[1].latency_ms)


class Unplugged(FakeProfiler):
    @property
    def device(self):
        raise OSError("no such board")


class Named(FakeProfiler):
    device = "a phone"


def test_a_device_that_is_none_is_told():
    with pytest.raises(ProfilerError, match="Unplugged can't be told: OSError: no such board"):
        device_of(Unplugged())
    with pytest.raises(PluginError, match="Named must be a DeviceSpec, got 'a phone'"):
        device_of(Named())


def test_errors_of_its_own_pass_through():
    def gone(found):
        raise ProfilerError("unplugged")

    with pytest.raises(ProfilerError, match=r"^unplugged$"):
        measure_checked(Spoilt(gone), ARTIFACTS, QUICK)
