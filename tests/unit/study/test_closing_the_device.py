"""What a profiler keeps open ends with the search, however the search ends."""

import pytest
import tiny_task

import autoprune
from autoprune.core.errors import AutopruneError
from autoprune.testing.fake_profiler import FakeProfiler


class Closing(FakeProfiler):
    closed = 0

    def close(self):
        Closing.closed += 1


def search(evaluate, **device):
    Closing.closed = 0
    return autoprune.search(
        tiny_task.build(),
        tiny_task.inputs(),
        evaluate=evaluate,
        calibration=tiny_task.calibration(),
        budget="latency=0.8x",
        profile={"candidates": 8, "timeout_s": 3600},
        verify={"top": 1},
        trials=2,
        **device,
    )


NAMED = {"device": f"{__name__}:Closing", "device_options": {"block": 8, "gmacs_per_s": 2.0}}


def test_after_a_search_the_device_is_closed():
    search(tiny_task.evaluate, **NAMED)
    assert Closing.closed == 1


def test_after_a_search_that_fails_the_device_is_closed():
    def never(model):
        raise OSError("no data")

    with pytest.raises(AutopruneError, match="no data"):
        search(never, **NAMED)
    assert Closing.closed == 1


def test_a_profiler_of_the_users_own_stays_as_it_is():
    search(tiny_task.evaluate, device=Closing(block=8, gmacs_per_s=2.0))
    assert Closing.closed == 0
