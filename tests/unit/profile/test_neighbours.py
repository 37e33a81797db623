import math

import pytest

from autoprune.profile.neighbours import Core, Watched, this_core, times_ms, watched


class Clock:
    """Simulated seconds, and a probe that takes 0.1 ms times what `factor` says."""

    def __init__(self):
        self.now, self.factor, self.faults = 0.0, 1.0, 0

    def probe(self):
        took = 1e-4 * self.factor
        self.now += took
        if self.faults:
            self.faults -= 1
            return took / 2
        return took

    def core(self):
        return Core(self.probe, lambda: self.now)


def test_a_core_tells_by_how_much_it_is_slowed_down():
    clock = Clock()
    core = clock.core()
    assert core.slowed() == 0.0
    clock.factor = 1.05  # the probe's own noise
    assert core.slowed() == 0.0
    clock.factor = 1.4
    assert core.slowed() == pytest.approx(math.log(1.4))
    clock.factor = 30.0  # interrupted
    assert core.slowed() == pytest.approx(math.log(1.7))


def test_a_clock_that_once_went_wrong_does_not_make_the_core_slow_for_ever():
    clock = Clock()
    core = clock.core()
    clock.faults = 3
    for _ in range(5):
        assert core.slowed() == 0.0


def test_a_core_that_was_slow_at_first_is_known_when_it_has_been_quick():
    clock = Clock()
    clock.factor = 1.5
    core = clock.core()
    assert core.slowed() == 0.0
    clock.factor = 1.0
    assert [core.slowed() for _ in range(30)] == [0.0] * 30
    clock.factor = 1.5
    assert core.slowed() == pytest.approx(math.log(1.5))


def test_the_mean_run_counts_with_what_was_beside_it_but_the_first():
    clock = Clock()
    core = clock.core()
    factors = iter([1.5, 1.5, 1.0, 1.5])
    times = iter([9.0, 8.0, 2.0, 4.0])

    def run():
        clock.factor = next(factors)  # from now until the next run
        return next(times)

    visit = Watched(run, core).visit(4)
    assert visit.latency_ms == pytest.approx(4.0)  # (8 · 2 · 4) ** (1 / 3)
    # Probes were slow around the second run, and at one end of the third and of the fourth.
    assert visit.slowed == pytest.approx(math.log(1.5) * (1 + 0.5 + 0.5) / 3)
    assert visit.watched


@pytest.mark.parametrize("runs", [1, 2, 7, 100])
def test_short_runs_share_a_probe_and_none_is_added(runs):
    clock, done = Clock(), []
    core = clock.core()
    probes = []
    slowed = core.slowed
    core.slowed = lambda: probes.append(1) or slowed()
    times, beside = Watched(lambda: done.append(1) or 0.1, core).times_ms(runs)
    assert len(times) == len(beside) == len(done) == runs
    assert len(probes) == 2 + math.ceil((runs - 1) / 10)  # ten runs of 0.1 ms between two


@pytest.mark.parametrize("wrong", [math.nan, -1.0, 0.0, math.inf])
def test_what_no_run_can_take_is_told_as_it_is(wrong):
    times = iter([1.0, wrong, 2.0])
    found = Watched(lambda: next(times), Clock().core()).visit(3)
    assert found.latency_ms == wrong or (math.isnan(wrong) and math.isnan(found.latency_ms))


def test_only_what_one_thread_does_is_watched():
    calls = []
    runner = watched(lambda: calls.append(None), cpu_time=False)
    assert not isinstance(runner, Watched)
    times, slowed = times_ms(runner, 3)
    assert len(times) == len(calls) == 3
    assert slowed == []
    found = watched(lambda: calls.append(None), cpu_time=True)
    assert isinstance(found, Watched)
    times, slowed = times_ms(found, 3)
    assert len(times) == len(slowed) == 3
    assert len(calls) == 6
    assert min(times) > 0


def test_this_core_is_looked_at_once():
    assert this_core() is this_core()
    assert 0.0 <= this_core().slowed() <= math.log(1.7)
