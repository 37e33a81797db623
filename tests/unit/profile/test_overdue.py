"""A time limit on code that may hang."""

import math
import signal
import threading
import time

import pytest

from autoprune.core.device import MeasuringProtocol
from autoprune.core.errors import PluginError, ProfilerError
from autoprune.profile.checked import LIMIT_S, limit_of, measure_checked
from autoprune.profile.overdue import Overdue, limited
from autoprune.profile.power import StatedPower
from autoprune.testing.fake_profiler import FakeProfiler
from autoprune.testing.profilers import QUICK, conv_artifact

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no such timer")

ARTIFACTS = [conv_artifact("dense", 8), conv_artifact("pruned", 4)]


class Hanging(FakeProfiler):
    """A profiler whose board does not answer."""

    limit_s = 0.2

    def measure(self, artifacts, protocol):
        try:
            time.sleep(1000)
        except Exception:
            return []
        return super().measure(artifacts, protocol)


def test_a_profiler_that_hangs_is_ended_and_says_so():
    with pytest.raises(ProfilerError, match=r"Hanging must come back .* ended after 0\.2 s"):
        measure_checked(Hanging(), ARTIFACTS, QUICK)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_what_comes_back_in_time_is_not_disturbed():
    class Prompt(FakeProfiler):
        limit_s = 60.0

    assert all(m.ok for m in measure_checked(Prompt(), ARTIFACTS, QUICK))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_timer_that_was_set_before_still_rings():
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Overdue), limited(0.05):
            time.sleep(1000)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.3
        for _ in range(1000):
            if rung.is_set():
                break
            time.sleep(0.01)
        assert rung.is_set()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        rung.clear()
        with limited(60.0):
            time.sleep(0.2)  # its time is over meanwhile
        time.sleep(0.2)
        assert rung.is_set(), "it rings as soon as it may"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_in_another_thread_there_is_no_limit():
    found = []

    def work():
        with limited(1e-6):
            found.append(sum(range(1000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [499500]


def test_a_limit_is_the_profilers_own_or_follows_the_protocol():
    protocol = MeasuringProtocol(timeout_s=7.0)
    assert limit_of(FakeProfiler(), protocol) == LIMIT_S + 70.0
    assert limit_of(Hanging(), protocol) == 0.2
    assert limit_of(StatedPower(Hanging(), 5.0), protocol) == 0.2
    assert limit_of(StatedPower(FakeProfiler(), 5.0), protocol) == LIMIT_S + 70.0
    with limited(math.inf):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    for wrong in (0, -1.0, "1 h", True, math.nan, None):
        profiler = FakeProfiler()
        profiler.limit_s = wrong
        with pytest.raises(PluginError, match="limit_s"):
            limit_of(profiler, protocol)
