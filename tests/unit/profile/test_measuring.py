import gc
import math

import numpy as np
import pytest

from autoprune.core.device import MeasuringProtocol
from autoprune.profile.measuring import measure_interleaved, timed
from autoprune.profile.neighbours import Core, Watched


class Machine:
    """A machine in simulated time that drifts, jumps and is interrupted."""

    def __init__(
        self, seed=0, *, noise=0.0, drift=0.0, interrupts=0.0, own=0.0, slow=lambda now: 1.0
    ):
        self.now = 0.0
        self.rng = np.random.default_rng(seed)
        self.noise, self.drift, self.interrupts, self.slow = noise, drift, interrupts, slow
        self.own = own  # of a network's speed, which wanders: a run's depends on the one before
        self.phase = self.rng.uniform(0, 6.28)
        self.order = []
        self.rested = 0.0

    def runner(self, latency_ms, name=""):
        level = self.rng.normal()

        def run():
            nonlocal level
            level = 0.85 * level + math.sqrt(1 - 0.85**2) * self.rng.normal() if self.own else 0.0
            factor = (1 + self.drift * math.sin(self.now + self.phase)) * self.slow(self.now)
            factor *= math.exp(self.own * level)
            taken = latency_ms * factor * (1 + abs(self.rng.normal(0, self.noise)))
            if self.rng.random() < self.interrupts:
                taken *= 1 + self.rng.exponential(0.5)
            self.now += taken / 1e3
            self.order.append(name)
            return taken

        return run

    def measure(self, latencies, **settings):
        protocol = MeasuringProtocol(**settings)
        keys = [f"net{i}" for i in range(len(latencies))]
        runners = [self.runner(ms, key) for ms, key in zip(latencies, keys, strict=True)]
        return measure_interleaved(keys, runners, protocol, clock=lambda: self.now, sleep=self.rest)

    def rest(self, seconds):
        self.now += seconds
        self.rested += seconds


def test_quiet_machine_gives_the_exact_ratio_in_the_fewest_rounds():
    reference, half, twice = Machine().measure([20.0, 10.0, 40.0])
    assert (reference.ratio, reference.ratio_interval) == (1.0, (1.0, 1.0))
    assert half.ratio == pytest.approx(0.5)
    assert half.latency_ms == pytest.approx(10.0)
    assert twice.ratio == pytest.approx(2.0)
    assert len(half.samples_ms) == len(half.reference_ms) == 6
    assert {m.stopped for m in (reference, half, twice)} == {"interval"}
    assert all(m.energy_mj is None and m.kernels == () for m in (reference, half, twice))


def test_drift_cancels_in_the_ratio():
    for seed in range(5):
        _, other = Machine(seed, drift=0.2).measure([10.0, 7.0])
        assert other.ratio == pytest.approx(0.7, rel=0.01)


def test_the_reference_is_run_less_often_between_more_networks():
    def visits(machine):
        runs = machine.order.count("net0")
        return runs / machine.order.count("net1")

    latencies = [10.0, *[7.0 + 0.1 * i for i in range(7)]]
    often, seldom = Machine(0, drift=0.2), Machine(0, drift=0.2)
    quiet = {"min_rounds": 12, "max_rounds": 12, "width": 1e-9, "warmup": 1}
    each = often.measure(latencies, **quiet)
    few = seldom.measure(latencies, between=3, **quiet)
    assert visits(often) == pytest.approx(8, rel=0.1)
    assert visits(seldom) == pytest.approx(4, rel=0.1)  # before, and after 3, 6 and the seventh
    for found in (each, few):
        assert [m.ratio for m in found[1:]] == pytest.approx(
            [ms / 10.0 for ms in latencies[1:]], rel=0.015
        )
        assert {len(m.samples_ms) for m in found[1:]} == {12}


def test_one_that_fails_between_two_visits_of_the_reference_leaves_the_others():
    machine = Machine()

    def failing():
        raise RuntimeError("no memory")

    keys = ["dense", "a", "b", "c"]
    runners = [machine.runner(10.0), machine.runner(5.0), failing, machine.runner(2.0)]
    protocol = MeasuringProtocol(between=3)
    found = measure_interleaved(keys, runners, protocol, clock=lambda: machine.now)
    assert [m.ok for m in found] == [True, True, False, True]
    assert "no memory" in found[2].error
    assert found[1].ratio == pytest.approx(0.5)
    assert found[3].ratio == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("noise", "drift", "interrupts", "own"),
    [(0.1, 0.15, 0.3, 0.0), (0.1, 0.1, 0.1, 0.02)],
)
def test_intervals_hold_the_truth_on_a_noisy_drifting_machine(noise, drift, interrupts, own):
    held, errors, rounds = [], [], set()
    truths = (0.5, 0.9, 0.7, 1.1)
    for seed in range(32):
        machine = Machine(seed, noise=noise, drift=drift, interrupts=interrupts, own=own)
        found = machine.measure([9.0, *(9.0 * truth for truth in truths)], timeout_s=1000.0)
        for truth, m in zip(truths, found[1:], strict=True):
            held.append(m.ratio_interval[0] <= truth <= m.ratio_interval[1])
            errors.append(abs(m.ratio / truth - 1))
            rounds.add(len(m.samples_ms))
    # Rounds end when the interval is narrow enough, which must not make it optimistic.
    assert len(rounds) > 5
    assert 0.93 <= np.mean(held) <= 0.99
    assert np.median(errors) < 0.01


def test_an_interval_that_was_waited_for_is_not_told_narrower_than_was_asked_for():
    found = Machine(1, noise=0.1, drift=0.15, interrupts=0.3).measure([9.0, 4.5, 8.1])
    for m in found[1:]:
        assert m.stopped == "interval"
        half = math.log(m.ratio_interval[1] / m.ratio_interval[0]) / 2
        assert len(m.samples_ms) == 6 or half >= 0.02 - 1e-9
    quiet = Machine(1, noise=0.001).measure([9.0, 4.5])[1]
    assert math.log(quiet.ratio_interval[1] / quiet.ratio_interval[0]) / 2 < 0.01


def test_the_reference_runs_before_and_after_each_and_rounds_are_shuffled():
    machine = Machine()
    machine.measure([20.0] * 5, warmup=2, runs=3, min_rounds=4)
    order = machine.order[2 * 5 :]
    blocks = [order[i] for i in range(0, len(order), 3)]
    assert all(order[i : i + 3] == [blocks[i // 3]] * 3 for i in range(0, len(order), 3))
    rounds = [blocks[i : i + 9] for i in range(0, len(blocks), 9)]
    assert len(rounds) == 4
    assert all(r[0::2] == ["net0"] * 5 for r in rounds)
    visits = [tuple(r[1::2]) for r in rounds]
    assert all(sorted(v) == ["net1", "net2", "net3", "net4"] for v in visits)
    assert len(set(visits)) > 1


def test_short_networks_get_more_runs_a_round():
    machine = Machine()
    machine.measure([1.0, 0.5], warmup=1, runs=5, min_rounds=2)
    block = next(i for i, name in enumerate(machine.order[2:]) if name == "net1")
    assert block == 20  # 10 ms of the fastest


def test_narrow_ones_drop_out_and_the_noisy_one_goes_on():
    machine = Machine(1)
    noisy = np.random.default_rng(0)
    calm, wild = machine.runner(10.0), machine.runner(8.0)
    calm_too = machine.runner(5.0)
    measurements = measure_interleaved(
        ["reference", "calm", "wild"],
        [calm, calm_too, lambda: wild() * float(np.exp(noisy.normal(0, 0.2)))],
        MeasuringProtocol(runs=2, max_rounds=15),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )
    assert [m.stopped for m in measurements] == ["rounds", "interval", "rounds"]
    assert len(measurements[1].samples_ms) == 6
    assert len(measurements[2].samples_ms) >= 14


def test_time_limit_ends_it_and_says_so():
    measurements = Machine(0, noise=0.5).measure(
        [10.0, 10.0], width=1e-6, timeout_s=1.0, max_rounds=10**6
    )
    assert [m.stopped for m in measurements] == ["time", "time"]


def test_no_time_for_a_first_round_is_an_error_that_says_what_to_do():
    measurements = Machine().measure([10.0] * 4, timeout_s=0.0)
    failed = [m for m in measurements if not m.ok]
    assert len(failed) == 2
    assert all("allow more time" in m.error for m in failed)


def test_rounds_in_which_the_reference_jumped_are_taken_again():
    # The device throttles to half its speed for 0.4 s in the middle of measuring.
    machine = Machine(slow=lambda now: 2.0 if 0.9 < now < 1.3 else 1.0)
    _, other = machine.measure([10.0, 8.0], min_rounds=12, runs=5)
    assert other.ratio == pytest.approx(0.8)
    assert len(other.samples_ms) == 12
    assert max(other.reference_ms) < 13
    assert machine.order.count("net1") > 3 + 12 * 5


def test_failures_are_values():
    def broken():
        raise RuntimeError("kernel launch failed")

    machine = Machine()
    runner = machine.runner
    count = iter(range(100))
    measurements = measure_interleaved(
        list("abcde"),
        [runner(10.0), broken, runner(5.0), lambda: math.nan,
         lambda: runner(3.0)() if next(count) < 10 else -1.0],
        MeasuringProtocol(),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )  # fmt: skip
    assert [m.ok for m in measurements] == [True, False, True, False, False]
    assert "kernel launch failed" in measurements[1].error
    assert "positive, finite" in measurements[3].error
    assert "-1.0" in measurements[4].error
    assert measurements[2].ratio == pytest.approx(0.5)


def test_a_broken_reference_fails_all():
    def broken():
        raise RuntimeError("gone")

    first, second = measure_interleaved(
        ["a", "b"], [broken, Machine().runner(1.0)], MeasuringProtocol()
    )
    assert "gone" in first.error
    assert "'a'" in second.error
    assert math.isnan(second.ratio)


def test_the_reference_alone_is_measured_too():
    (only,) = Machine(0, noise=0.05).measure([10.0])
    assert only.ok
    assert only.stopped == "interval"
    assert only.latency_interval_ms[0] <= only.latency_ms <= only.latency_interval_ms[1]
    broken_other = measure_interleaved(
        ["a", "b"], [Machine().runner(10.0), lambda: 0.0], MeasuringProtocol(timeout_s=1)
    )
    assert [m.ok for m in broken_other] == [True, False]


def test_nothing_gives_nothing():
    assert measure_interleaved([], [], MeasuringProtocol()) == []


def test_the_garbage_collector_is_off_while_measuring_and_on_again_after():
    seen = set()

    def run():
        seen.add(gc.isenabled())
        return 1.0

    assert gc.isenabled()
    measure_interleaved(["a", "b"], [run, run], MeasuringProtocol())
    assert seen == {False}
    assert gc.isenabled()


def test_the_same_seed_gives_the_same_figures():
    first, second = (Machine(4, noise=0.1).measure([9.0, 5.0, 3.0]) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("cpu_time", [False, True])
def test_timed_counts_milliseconds_of_the_function(cpu_time):
    done = []
    latency = timed(lambda: done.append(sum(range(20000))), cpu_time=cpu_time)()
    assert done
    assert 0 < latency < 60_000


def throttling(start, end, factor=1.8):
    return lambda now: factor if start < now < end else 1.0


def test_rounds_in_which_the_device_throttled_are_left_out_told_and_taken_again():
    # What is memory-bound does not slow down: a ratio taken while throttled is another one.
    machine = Machine(noise=0.02)
    slow = throttling(1.0, 3.0)
    reference, other = machine.runner(10.0), machine.runner(8.0)

    def heavy():
        machine.slow = slow
        return reference()

    def light():
        machine.slow = lambda now: 1.0
        return other()

    measurements = measure_interleaved(
        ["reference", "light"],
        [heavy, light],
        MeasuringProtocol(min_rounds=16, runs=5),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )
    assert measurements[1].ratio == pytest.approx(0.8, rel=0.02)
    assert measurements[0].latency_ms == pytest.approx(10.0, rel=0.05)
    assert len(measurements[1].samples_ms) >= 16
    assert max(measurements[1].reference_ms) < 12
    (note,) = measurements[1].notes
    assert "did not hold its speed" in note
    assert "1.8 times as long" in note
    assert "taken again" in note
    assert machine.rested > 0


def test_a_network_that_was_done_before_the_device_became_quicker_is_taken_up_again():
    # Another process has the device's other half until the quiet network has all its rounds.
    machine = Machine(slow=throttling(0.0, 2.0))
    noise = np.random.default_rng(0)
    reference, quiet, wild = (machine.runner(ms) for ms in (10.0, 5.0, 8.0))
    _, found, _ = measure_interleaved(
        ["reference", "quiet", "wild"],
        [reference, quiet, lambda: wild() * float(np.exp(noise.normal(0, 0.2)))],
        MeasuringProtocol(runs=2, width=0.05),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )
    assert found.stopped == "interval"
    assert found.ratio == pytest.approx(0.5)
    assert len(found.samples_ms) == 6
    assert max(found.reference_ms) < 11
    assert "taken again" in found.notes[0]


def test_a_device_that_takes_two_speeds_in_turns_is_measured_at_one_of_them():
    machine = Machine()
    visits, off = iter(range(10**6)), (0, 1, 2, 4, 5, 7, 8, 9)  # the first is the warm-up
    run = machine.runner(20.0)

    found = measure_interleaved(
        ["alone"],
        [lambda: run() * (5.0 if next(visits) in off else 1.0)],
        MeasuringProtocol(warmup=1, runs=1, min_rounds=9, max_rounds=6, width=1e-9),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )
    assert found[0].latency_ms in (pytest.approx(20.0), pytest.approx(100.0))


def test_a_device_that_recovers_when_it_rests():
    machine = Machine()
    machine.slow = lambda now: 1.8 if machine.now > 1.0 and machine.rested < 0.3 else 1.0
    _, other = machine.measure([10.0, 8.0], min_rounds=20, timeout_s=30.0)
    assert other.stopped == "interval"
    assert other.ratio == pytest.approx(0.8)
    assert machine.rested == pytest.approx(0.75)


def test_a_device_that_never_recovers_gives_few_rounds_and_says_so():
    machine = Machine(slow=throttling(0.62, 1e9))
    _, other = machine.measure([10.0, 8.0], runs=5, timeout_s=2.0, width=1e-9)
    assert other.ratio == pytest.approx(0.8)
    assert other.stopped == "time"
    assert "left out" in other.notes[0]


def test_a_device_that_slows_down_at_once_gives_an_error_not_a_number():
    # Every other visit of the reference is slow: no round is at one speed.
    machine = Machine()
    visits = iter(range(10**6))
    reference, other = machine.runner(10.0), machine.runner(8.0)
    speeds = {"now": 1.0}

    def unsteady():
        if next(visits) % 4 == 0:
            speeds["now"] = 2.0 if speeds["now"] == 1.0 else 1.0
        return reference() * speeds["now"]

    measurements = measure_interleaved(
        ["reference", "other"],
        [unsteady, other],
        MeasuringProtocol(warmup=4, runs=4, timeout_s=3.0),
        clock=lambda: machine.now,
        sleep=machine.rest,
    )
    assert "did not hold its speed" in measurements[1].error
    assert "lock its clocks" in measurements[1].error


def test_a_machine_that_is_not_steady_is_told_with_the_reference():
    machine, noise = Machine(), np.random.default_rng(4)
    steady, other = machine.runner(10.0), machine.runner(5.0)

    def wild():
        return steady() * float(np.exp(noise.normal(0, 0.1)))

    protocol = MeasuringProtocol(runs=1, min_rounds=12, max_rounds=12, timeout_s=600.0)
    reference, found = measure_interleaved(["reference", "other"], [wild, other], protocol)
    (note,) = reference.notes
    assert note.startswith("the machine was not steady: 90% of the reference's 24 visits took ")
    assert found.notes == ()
    reference, _ = measure_interleaved(["reference", "other"], [steady, other], protocol)
    assert reference.notes == ()


def beside_others(machine, seed, share, slopes, latencies):
    """Networks of which others slow each down by its own slope, watched and not watched."""
    rng = np.random.default_rng(seed)
    state = {"until": 0.0, "slowed": 0.0}

    def slowed():
        while machine.now >= state["until"]:
            state["until"] += rng.exponential(0.1)
            state["slowed"] = rng.uniform(0.25, 0.45) if rng.random() < share else 0.0
        return state["slowed"]

    def probe():
        machine.now += 5e-5
        return 1e-5 * math.exp(slowed())

    def slow(runner, slope):
        def run():
            factor = math.exp(slope * slowed())
            taken = runner() * factor
            machine.now += taken / 1e3 * (1 - 1 / factor)
            return taken

        return run

    plain = [slow(machine.runner(ms), slope) for ms, slope in zip(latencies, slopes, strict=True)]
    core = Core(probe, lambda: machine.now)
    return plain, [Watched(run, core) for run in plain]


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_ratios_do_not_depend_on_what_the_caches_were_left_with(runs):
    """A network is slower for milliseconds after another one; a large one has few runs then."""
    machine = Machine(0, noise=0.005)
    last = {"network": None, "since": 0.0}

    def cold(runner):
        def run():
            if last["network"] is not runner:
                last.update(network=runner, since=machine.now)
            factor = 1.3 if machine.now - last["since"] < 3.9e-3 else 1.0
            taken = runner() * factor
            machine.now += taken / 1e3 * (1 - 1 / factor)
            return taken

        return run

    def probe():
        machine.now += 5e-5
        return 1e-5

    core, latencies = Core(probe, lambda: machine.now), [3.0, 0.6, 1.7, 2.6]
    watched = [Watched(cold(machine.runner(ms)), core) for ms in latencies]
    found = measure_on(machine, watched, runs=runs)
    for measurement, ms in zip(found, latencies, strict=True):
        assert measurement.ratio == pytest.approx(ms / 3.0, rel=0.01)


def measure_on(machine, runners, **settings):
    protocol = MeasuringProtocol(**{"width": 0.005, "max_rounds": 30, **settings})
    keys = [str(i) for i in range(len(runners))]
    return measure_interleaved(
        keys, runners, protocol, clock=lambda: machine.now, sleep=machine.rest
    )


@pytest.mark.parametrize("seed", range(4))
def test_ratios_are_those_of_a_core_without_others(seed):
    latencies, slopes = [10.0, 1.5, 4.0, 8.0], [0.5, 1.6, 1.0, 0.8]
    machine = Machine(seed, noise=0.01)
    plain, watched = beside_others(machine, seed, 0.7, slopes, latencies)
    as_it_is, found = measure_on(machine, plain), measure_on(machine, watched)
    true = np.array(latencies) / latencies[0]
    ratios = np.array([m.ratio for m in found])
    assert ratios == pytest.approx(true, rel=0.03)
    assert found[0].latency_ms == pytest.approx(latencies[0], rel=0.03)
    # Without, a small network seems slower than it is.
    assert as_it_is[1].ratio > 1.06 * true[1]
    assert abs(as_it_is[1].ratio / true[1] - 1) > 3 * abs(ratios[1] / true[1] - 1)
    assert found[1].ratio_beside > 1.06 * true[1]
    assert 1.1 < math.exp(found[1].slowed) < 1.5
    raw = np.array(found[1].raw_ms) / found[1].samples_ms
    assert len(raw) == len(found[1].samples_ms) == len(found[1].raw_reference_ms)
    assert raw.min() >= 1.0
    assert raw.max() > 1.3
    (told,) = found[1].told
    assert told.startswith("other work on the machine slowed its core down 1.")
    assert told.endswith(f"the ratio is {found[1].ratio_beside:.3g}")
    assert found[1].notes == found[0].told == (), "a table of many does not repeat it for each"


def test_intervals_hold_the_ratio_without_others():
    latencies, slopes = [10.0, *[6.0] * 7], [0.5, *np.linspace(0.4, 1.6, 7)]
    held = []
    for seed in range(12):
        machine = Machine(seed, noise=0.01)
        _, watched = beside_others(machine, seed, 0.6, slopes, latencies)
        for each in measure_on(machine, watched, max_rounds=8)[1:]:
            low, high = each.ratio_interval
            held.append(low <= 0.6 <= high)
    assert np.mean(held) > 0.88


def test_where_nothing_else_is_at_work_watching_changes_nothing():
    figures = []
    for which in (0, 1):
        machine = Machine(3, noise=0.02)
        runners = beside_others(machine, 3, 0.0, [0.5, 1.6], [10.0, 2.0])[which]
        figures.append(measure_on(machine, runners))
    for plain, watched in zip(*figures, strict=True):
        assert watched.ratio == pytest.approx(plain.ratio, rel=0.01)
        assert watched.told == watched.raw_ms == ()
