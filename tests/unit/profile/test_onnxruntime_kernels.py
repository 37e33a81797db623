"""Kernel times out of profiles that have room for so many events."""

import math
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile import onnxruntime_kernels
from autoprune.profile.neighbours import Core
from autoprune.profile.node_times import NodeTimes
from autoprune.profile.onnxruntime_kernels import MOST_EVENTS, profile_kernels

LIMIT = 1_000_000


class Source:
    """A network of so many nodes, each of which takes a microsecond, as onnxruntime profiles it."""

    fused = None

    def __init__(self, nodes: int) -> None:
        self.nodes, self.runs = nodes, 0

    def run(self, runs: int) -> None:
        self.runs += runs

    def read(self) -> NodeTimes:
        if self.runs * (self.nodes + 2) > LIMIT:
            raise ProfilerError("not all runs are in the profile")
        nodes = [{"name": str(i), "op": "Conv"} for i in range(self.nodes)]
        return NodeTimes(nodes, np.ones((self.runs, self.nodes)))


def measured(count: int, latency_ms: float) -> list[Measurement]:
    return [
        Measurement(str(i), latency_ms=latency_ms, ratio=1.0, ratio_interval=(1.0, 1.0))
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("nodes", "latency_ms", "count"),
    [
        (3, 0.05, 49),
        (50, 0.2, 49),
        (143, 1.2, 49),
        (900, 2.0, 64),
        (1900, 0.2, 64),
        (143, 1.2, 9),
        (5000, 80.0, 49),
        (20_000, 300.0, 20),
    ],
)
def test_no_profile_is_longer_than_onnxruntime_tells(nodes, latency_ms, count):
    sources: list[Source] = []

    def make(number: int) -> Source:
        sources.append(Source(nodes))
        return sources[-1]

    found = profile_kernels(make, measured(count, latency_ms), MeasuringProtocol())
    assert [m.error for m in found] == [None] * count
    assert all(len(m.kernels) == nodes for m in found)
    assert max(source.runs for source in sources) * nodes <= MOST_EVENTS
    each = sources[-1].runs / onnxruntime_kernels.ROUNDS
    assert each >= 1
    if count < 10:
        assert each >= onnxruntime_kernels.BLOCK_MS / latency_ms, "as long as it takes to be sure"


def test_a_reference_that_fails_says_why():
    def make(number: int) -> Source:
        raise ProfilerError("no memory")

    found = profile_kernels(make, measured(49, 0.2), MeasuringProtocol())
    assert all("no memory" in (m.error or "") for m in found)


@pytest.mark.parametrize(
    ("latency_ms", "in_a_row"), [(100.0, 1), (30.0, 2), (2.0, 3), (1.0, 4), (0.01, 51)]
)
def test_a_network_is_profiled_for_as_long_as_it_takes(latency_ms, in_a_row):
    sources: dict[int, Source] = {}

    def make(number: int) -> Source:
        sources[number] = Source(5)
        return sources[number]

    reference, other = measured(2, 20.0)
    other = replace(other, latency_ms=latency_ms)
    profile_kernels(make, [reference, other], MeasuringProtocol(warmup=1))
    rounds = onnxruntime_kernels.ROUNDS
    assert sources[1].runs == 1 + rounds * in_a_row
    assert sources[0].runs == 1 + 2 * rounds * 2, "before and after the other; 2 of 20 ms suffice"


def test_the_reference_is_profiled_less_often_between_more_networks():
    sources: dict[int, Source] = {}

    def make(number: int) -> Source:
        sources[number] = Source(5)
        return sources[number]

    found = profile_kernels(make, measured(8, 20.0), MeasuringProtocol(warmup=1, between=3))
    visits = onnxruntime_kernels.ROUNDS * 4  # before, and after 3, 6 and the seventh
    assert sources[0].runs == 1 + 2 * visits
    assert all(sources[n].runs == 1 + 2 * onnxruntime_kernels.ROUNDS for n in range(1, 8))
    for other in found[1:]:
        for kernel, beside in zip(other.kernels, found[0].kernels, strict=True):
            assert kernel.latency_ms == pytest.approx(beside.latency_ms)


class Cold(Source):
    """Its first run after another network takes three times as long."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes)
        self.first: list[int] = []

    def run(self, runs: int) -> None:
        self.first.append(self.runs)
        super().run(runs)

    def read(self) -> NodeTimes:
        found = super().read()
        found.times_us[self.first] *= 3.0
        return found


@pytest.mark.parametrize("latency_ms", [20.0, 2.0, 0.2])
def test_the_first_run_after_another_network_does_not_count(latency_ms):
    def make(number: int) -> Source:
        return Cold(5) if number else Source(5)

    found = profile_kernels(make, measured(2, latency_ms), MeasuringProtocol())
    for kernel, beside in zip(found[1].kernels, found[0].kernels, strict=True):
        assert kernel.latency_ms == pytest.approx(beside.latency_ms)


class Coarse(Source):
    """Four nodes of the same time below a microsecond: a run tells 1 or 0 of each."""

    def __init__(self, time_us: float, seed: int) -> None:
        super().__init__(4)
        self.time_us, self.rng = time_us, np.random.default_rng(seed)

    def read(self) -> NodeTimes:
        found = super().read()
        return NodeTimes(found.nodes, (self.rng.random(found.times_us.shape) < self.time_us) * 1.0)


@pytest.mark.parametrize("time_us", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_nodes_below_the_clock_give_no_wrong_times(time_us):
    found = profile_kernels(
        lambda number: Coarse(time_us, number), measured(5, 0.005), MeasuringProtocol()
    )
    assert [m.error for m in found] == [None] * 5
    for m in found:
        assert np.isfinite([k.latency_ms for k in m.kernels]).all()
        if not m.kernels:
            assert any("counts whole microseconds" in note for note in m.notes)
    if time_us < 0.2:
        assert not any(m.kernels for m in found)
    if time_us > 0.8:
        assert [sum(k.latency_ms for k in m.kernels) for m in found] == pytest.approx(
            [0.005] * 5, rel=0.25
        )


def test_kernels_are_those_of_a_core_without_others():
    rng = np.random.default_rng(0)
    state = {"slowed": 0.0, "now": 0.0}

    def probe():
        state["now"] += 1e-3
        return 1e-5 * math.exp(state["slowed"])

    class Slowed(Source):
        """Its nodes take 100, 200, ... µs, and are slowed down each by a slope of its own."""

        def __init__(self, nodes):
            super().__init__(nodes)
            self.rows = []

        def run(self, runs):
            super().run(runs)
            slopes = np.linspace(0.5, 1.5, self.nodes)
            own = 100.0 * np.arange(1, self.nodes + 1) * np.exp(slopes * state["slowed"])
            self.rows += [own * np.exp(0.005 * rng.normal(size=self.nodes)) for _ in range(runs)]

        def read(self):
            return NodeTimes(super().read().nodes, np.array(self.rows))

    class Changing(Core):
        """A core on which others begin and end between two blocks."""

        beside = 0

        def slowed(self):
            if self.beside % 2 == 0:
                state["slowed"] = rng.uniform(0.25, 0.45) if rng.random() < 0.6 else 0.0
            self.beside += 1
            return super().slowed()

    core = Changing(probe, lambda: state["now"])
    core.beside = 0
    true_ms = 0.1 * np.arange(1, 6)
    reference, other = measured(2, float(true_ms.sum()))
    sources = []

    def make(number):
        sources.append(Slowed(5))
        return sources[-1]

    found = profile_kernels(make, [reference, other], MeasuringProtocol(), core)
    for measurement in found:
        assert [k.latency_ms for k in measurement.kernels] == pytest.approx(true_ms, rel=0.03)
    plain = np.median(sources[-1].rows, axis=0)
    assert plain[0] / plain.sum() < 0.95 * true_ms[0] / true_ms.sum(), "as profiled"
