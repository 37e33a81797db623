from types import SimpleNamespace

import pytest

from autoprune.profile import visits
from autoprune.profile.visits import timed


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
