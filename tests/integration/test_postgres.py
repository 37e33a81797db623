"""Trials in a real PostgreSQL, which restarts in the middle of a run."""

import socket
import threading
import time
import warnings

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'autoprune[postgres]'")

from postgres_server import server_or_skip

from autoprune.core.errors import RunError
from autoprune.evaluate import LocalPool, Outcome
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Event, Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


@pytest.fixture(scope="module")
def server():
    with server_or_skip() as made:
        yield made


def make_loop(store, work):
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), seed=1
    )
    return Loop(
        make_searcher("tpe", context),
        context.cost_model,
        LocalPool(work),
        store,
        objective="accuracy",
        max_failures=3,
        progress=Progress(),
        phases=Phases(),
    )


def test_a_restart_in_the_middle_of_a_run_loses_and_repeats_nothing(server):
    calls = []

    def work(candidate):
        calls.append(candidate.key)
        if len(calls) in (5, 9):
            server.stop()
            # Optuna itself tries again for a few seconds; the first time, it is away for longer.
            threading.Thread(target=back if len(calls) == 5 else server.start).start()
        return Outcome(PROBLEM.evaluate(candidate))

    def back():
        until = time.monotonic() + 900
        while not waits() and time.monotonic() < until:
            time.sleep(0.05)
        server.start()

    def waits():
        return any("does not answer" in str(warning.message) for warning in told)

    loop = make_loop(Store(server.url, "restarted", UNITS), work)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop.run(14)
    assert waits()
    assert len(calls) == 14 == len(set(calls))
    again = Store(server.url, "restarted", UNITS)
    assert [s.trial for s in again.trials()] == loop.trials
    resumed = make_loop(again, work)
    resumed.run(16)
    assert resumed.trials[:14] == loop.trials
    assert len(calls) == 16


def test_several_runs_share_one_database(server):
    for name, count in (("one", 3), ("two", 5)):
        store = Store(server.url, name, UNITS)
        make_loop(store, lambda c: Outcome(PROBLEM.evaluate(c))).run(count)
        store.record(Event("dense", 0, {"metrics": {"accuracy": 0.9}}))
    assert len(Store(server.url, "one", UNITS).trials()) == 3
    assert len(Store(server.url, "two", UNITS).trials()) == 5
    assert Store(server.url, "two", UNITS).events()[0].data == {"metrics": {"accuracy": 0.9}}


def test_a_write_whose_answer_was_lost_is_not_written_twice(server):
    from sqlalchemy.exc import OperationalError

    store = Store(server.url, "lost answer", UNITS)
    write, times = store._storage.create_new_trial, []

    def lossy(*arguments, **named):
        found = write(*arguments, **named)
        times.append(time.monotonic())
        if len(times) == 1:
            raise OperationalError("commit", {}, RuntimeError("connection lost"))
        return found

    store._storage.create_new_trial = lossy
    with pytest.warns(UserWarning, match="does not answer"):
        make_loop(store, lambda c: Outcome(PROBLEM.evaluate(c))).run(3)
    assert [s.trial.number for s in Store(server.url, "lost answer", UNITS).trials()] == [0, 1, 2]


@pytest.mark.parametrize("database", ["postgres", "nowhere"])
def test_what_can_not_be_reached_is_said_without_the_password(server, database):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        port = server.port if database == "nowhere" else held.getsockname()[1]
        url = f"postgresql+psycopg://autoprune:secret@127.0.0.1:{port}/{database}"
        with pytest.raises(RunError, match="can't be reached") as caught:
            Store(url, "run", UNITS)
    assert "secret" not in str(caught.value)
    assert "autoprune:***@127.0.0.1" in str(caught.value)
