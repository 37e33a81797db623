import math
from types import SimpleNamespace

import pytest

from autoprune.profile import visits
from autoprune.profile.visits import Visit, of_runs, timed, visit


class Machine:
    """Simulated clocks, and runs that take what is listed: on the wall and of CPU time, in us."""

    def __init__(self, monkeypatch, runs, resolution=1e-9):
        self.wall = self.cpu = 0
        self.runs = iter(runs)
        clocks = SimpleNamespace(
            perf_counter_ns=lambda: self.wall,
            thread_time_ns=lambda: self.cpu,
            get_clock_info=lambda name: SimpleNamespace(resolution=resolution),
        )
        monkeypatch.setattr(visits, "time", clocks)

    def run(self):
        wall, cpu = next(self.runs)
        self.wall += 1000 * wall
        self.cpu += 1000 * cpu


def times(monkeypatch, *runs, cpu_time=True, **options):
    machine = Machine(monkeypatch, runs, **options)
    return timed(machine.run, cpu_time=cpu_time)()


def test_what_others_had_of_the_core_is_not_counted(monkeypatch):
    assert times(monkeypatch, (30, 25)) == pytest.approx(0.025)
    assert times(monkeypatch, (30, 25), cpu_time=False) == pytest.approx(0.03)
    assert times(monkeypatch, (30, 25), resolution=1e-2) == pytest.approx(0.03)


@pytest.mark.parametrize("told", [0, 1, 14])
def test_a_short_run_that_others_broke_into_is_run_again(monkeypatch, told):
    assert times(monkeypatch, (266, told), (23, 22)) == pytest.approx(0.022)
    assert times(monkeypatch, (266, told), (250, 3), (23, 22)) == pytest.approx(0.022)


def test_a_long_one_is_not(monkeypatch):
    assert times(monkeypatch, (9000, 3000)) == pytest.approx(3.0)


def test_it_is_not_run_again_for_ever(monkeypatch):
    assert times(monkeypatch, *[(100, 2)] * 5) == pytest.approx(0.002)
    with pytest.raises(StopIteration):
        times(monkeypatch, *[(100, 2)] * 4)


@pytest.mark.parametrize(
    ("ms", "runs", "left_out"),
    [(10.0, 1, 0), (10.0, 2, 1), (10.0, 5, 1), (4.0, 3, 1), (3.9, 3, 2), (1.0, 8, 4), (1.0, 3, 2)],
)
def test_the_first_runs_of_a_visit_find_the_caches_as_others_left_them(ms, runs, left_out):
    times = [ms + 0.01] * left_out + [ms] * (runs - left_out)
    slowed = [9.0] * left_out + [0.5] * (runs - left_out)
    assert of_runs(times, slowed) == Visit(pytest.approx(ms), slowed=0.5, watched=True)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_what_no_run_can_take_is_told_though_it_is_left_out(wrong):
    found = of_runs([wrong, 1.0, 2.0, 3.0], [0.1] * 4).latency_ms
    assert found == wrong or (math.isnan(wrong) and math.isnan(found))


def test_of_runs_of_which_it_is_not_known_what_was_beside_them_the_fastest_counts():
    times = iter([9.0, 2.0, 5.0])
    assert visit(lambda: next(times), 3) == Visit(2.0)
