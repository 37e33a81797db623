"""Several drivers of one study, on a network that is a formula."""

import shutil
import warnings
from functools import partial

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from autoprune.core.errors import EvaluationError, RunError
from autoprune.evaluate import LocalPool, Outcome
from autoprune.searchers.base import SearchContext, Searcher
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study import shared_loop, shared_study
from autoprune.study.database import open_database
from autoprune.study.evaluation import Phases
from autoprune.study.progress import Progress
from autoprune.study.shared_loop import SharedLoop
from autoprune.study.shared_store import TAKEOVERS, SharedStore
from autoprune.study.store import Event, Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(shared_loop, "PAUSE_S", 0.01)
    monkeypatch.setattr(shared_study, "PAUSE_S", 0.01)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    def at_once(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", at_once)
    yield
    event.remove(Engine, "connect", at_once)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with Optuna's tables, which take a while to make."""
    file = tmp_path_factory.mktemp("database") / "trials.db"
    open_database(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def url(tmp_path, empty):
    shutil.copyfile(empty, tmp_path / "trials.db")
    return f"sqlite:///{tmp_path / 'trials.db'}"


def make_loop(store, work=None, *, searcher="tpe", seed=0, max_failures=3, progress=None):
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), seed=seed
    )
    options = {"hidden": 8, "updates": 1, "warmup": 5} if searcher == "amc" else {}
    return SharedLoop(
        make_searcher(searcher, context, **options),
        context.cost_model,
        LocalPool(work or outcome),
        store,
        objective="accuracy",
        max_failures=max_failures,
        progress=progress or Progress(),
        phases=Phases(),
    )


def outcome(candidate):
    return Outcome(PROBLEM.evaluate(candidate), phases={"evaluate": 0.5})


def shared(url, driver):
    return SharedStore(url, "both", UNITS, driver)


class Log:
    """Evaluates, and remembers who evaluated what."""

    def __init__(self):
        self.calls = []

    def by(self, driver):
        def work(candidate):
            self.calls.append((driver, candidate))
            return outcome(candidate)

        return work

    @property
    def candidates(self):
        return [candidate for _, candidate in self.calls]


def test_nothing_is_claimed_before_a_worker_is_ready(url):
    """Another driver could evaluate it meanwhile, and would have to wait for it at the end."""
    claimed = []

    class Starting(LocalPool):
        def begin(self):
            claimed.append(store.count)

    with shared(url, "a") as store:
        loop = make_loop(store)
        loop._pool = Starting(outcome)
        loop.run(2)
        assert claimed == [0]
        loop.run(2)  # nothing is left to evaluate: nobody is waited for
    assert claimed == [0]


def test_an_agent_that_joins_learns_from_every_trial_as_one_that_was_there(url):
    agents = []
    for driver in ("a", "b"):
        with shared(url, driver) as store:
            loop = make_loop(store, searcher="amc")
            loop.run(12)
            agents.append(loop._searcher.agent.arrays())
            assert loop._searcher._finished == 12
    assert agents[0].keys() == agents[1].keys()
    for name, array in agents[0].items():
        np.testing.assert_array_equal(array, agents[1][name], err_msg=name)


@pytest.mark.parametrize("searcher", ["random", "tpe", "uniform"])
def test_drivers_in_turn_make_one_study(url, searcher):
    log = Log()
    with shared(url, "a") as first, shared(url, "b") as second:
        a = make_loop(first, log.by("a"), searcher=searcher)
        b = make_loop(second, log.by("b"), searcher=searcher)  # even with the same seed
        for total in range(1, 11):
            (a if total % 3 else b).run(total, planned=10)
        a.run(10)
        b.run(10)
        assert [t.number for t in a.trials] == list(range(10))
        assert sorted(a.trials, key=lambda t: t.number) == sorted(b.trials, key=lambda t: t.number)
        assert a.best == b.best
    assert len(set(log.candidates)) == len(log.calls) == 10
    assert {driver for driver, _ in log.calls} == {"a", "b"}
    assert [s.trial for s in Store(url, "both", UNITS).trials()] == a.trials


def test_what_another_driver_has_under_way_is_left_to_it(url):
    log = Log()
    with shared(url, "a") as first, shared(url, "b") as second:
        b = make_loop(second, log.by("b"), searcher="random")

        def while_a_evaluates(candidate):
            log.calls.append(("a", candidate))
            total = 3 * sum(driver == "a" for driver, _ in log.calls)
            b.run(min(total, 9), planned=10)  # b goes on, beside what a has under way
            return outcome(candidate)

        a = make_loop(first, while_a_evaluates, searcher="random")  # it proposes the same
        a.run(9)
        b.run(9)
        assert {t.number for t in a.trials} == {t.number for t in b.trials} == set(range(9))
    assert len(set(log.candidates)) == len(log.calls) == 9


def test_of_two_claims_of_one_candidate_the_first_counts(url):
    candidate = PROBLEM.kernels.dense
    with shared(url, "a") as first, shared(url, "b") as second:
        cost = ShapeCost().predict(PROBLEM.kernels.workloads([candidate]))[0]
        second.look()
        assert first.claim(candidate, cost, 5) == 0
        assert second.claim(candidate, cost, 5) is None  # claimed before it knew of the other
        assert (first.count, second.count) == (1, 1)
        first.look()
        second.look()
        assert not first.orphans
        assert not second.orphans
    assert Store(url, "both", UNITS).trials() == []


def test_there_is_never_a_trial_too_many(url):
    candidates = SearchSpace.from_network(PROBLEM)
    context = SearchContext(candidates, PROBLEM.budget(0.5), ShapeCost())
    proposed = make_searcher("random", context).suggest(4)
    costs = ShapeCost().predict(PROBLEM.kernels.workloads(proposed))
    with shared(url, "a") as first, shared(url, "b") as second:
        assert first.claim(proposed[0], costs[0], 2) == 0
        assert second.count == 0  # it has not looked
        assert second.claim(proposed[1], costs[1], 2) == 1
        assert first.claim(proposed[2], costs[2], 2) is None
        assert first.claim(proposed[3], costs[3], 2) is None


def test_a_driver_that_joins_is_told_of_everything_at_once(url):
    told = []

    class Listening(Searcher):
        def suggest(self, count=1):
            return []

        def update(self, completed, pending=()):
            told.append((len(completed), len(pending)))

    with shared(url, "a") as first, shared(url, "b") as second:
        a = make_loop(first)
        a.run(7, planned=9)

        def late(candidate):
            make_loop(second, searcher=Listening).run(7)
            return outcome(candidate)

        a._pool = LocalPool(late)
        a.run(8)
    assert told == [(7, 1)]


def test_a_driver_that_was_killed_goes_on_where_the_study_is(url, monkeypatch):
    log = Log()
    killed = shared(url, "a")
    killed.__enter__()  # and never left

    class Killed(Exception):
        pass

    def dies(candidate):
        if len(log.calls) == 3:
            raise Killed
        log.calls.append(("a", candidate))
        return outcome(candidate)

    with pytest.raises(Killed):
        make_loop(killed, dies).run(8)
    under_way = next(iter(killed.live.values())).candidate
    killed._stop.set()
    with shared(url, "a") as again:
        a = make_loop(again, log.by("a"))
        a.run(8)
        assert log.calls[3] == ("a", under_way)  # what was under way comes first
        assert len(a.trials) == 8
        assert [t.number for t in a.trials] == [0, 1, 2, *range(4, 9)]
    assert len(set(log.candidates)) == len(log.calls) == 8


def test_what_a_dead_driver_had_under_way_is_taken_over(url, monkeypatch):
    monkeypatch.setattr(shared_study, "HEARTBEAT_S", 1)
    monkeypatch.setattr(shared_study, "GRACE_S", 2)
    log = Log()
    cost = ShapeCost()
    dead = shared(url, "a")  # it never beats: it is not entered
    context = SearchContext(SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), cost)
    (candidate,) = make_searcher(
        "random",
        context,
    ).suggest(1)
    predicted = cost.predict(PROBLEM.kernels.workloads([candidate]))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dead.claim(candidate, predicted, 9) == 0
        with shared(url, "b") as second:
            b = make_loop(second, log.by("b"), seed=1)
            b.run(4)
            assert len(b.trials) == 4
    assert log.candidates.count(candidate) == 1
    assert 0 not in {t.number for t in b.trials}
    # It comes back: too late.
    trial = next(t for t in b.trials if t.candidate == candidate)
    late = type(trial)(0, candidate, predicted, metrics=dict(trial.metrics))
    assert dead.finish(late, "accuracy", {}) is False
    assert len(Store(url, "both", UNITS).trials()) == 4


def test_a_candidate_that_kills_its_drivers_is_left_alone(url):
    candidate = PROBLEM.kernels.dense
    cost = ShapeCost().predict(PROBLEM.kernels.workloads([candidate]))[0]
    for life in range(TAKEOVERS + 1):
        store = shared(url, "a")
        with store:
            assert store.orphans == ([candidate] if life else [])
            assert store.claim(candidate, cost, 9) == life
            store._mine.clear()  # killed: nothing is withdrawn
    with shared(url, "b") as second, shared(url, "a") as again:
        second.look()
        again.look()
        assert not second.orphans
        assert not again.orphans


def test_stopped_by_hand_a_driver_gives_back_what_it_had(url):
    with shared(url, "a") as first:
        a = make_loop(first)

        def stopped(candidate):
            raise KeyboardInterrupt

        a._pool = LocalPool(stopped)
        with pytest.raises(KeyboardInterrupt):
            a.run(3)
        first.open({}, None)
    with shared(url, "b") as second:
        assert second.count == 0
        assert not second.orphans


def test_an_answer_that_was_lost_is_not_given_twice(url):
    lost = OperationalError("commit", {}, RuntimeError("connection lost"))
    with shared(url, "a") as store:
        storage, calls = store._storage, []

        def lossy(name, call, *arguments, **named):
            found = call(*arguments, **named)
            calls.append(name)
            if calls.count(name) == 1:
                raise lost
            return found

        for name in ("create_new_trial", "set_trial_state_values"):
            setattr(storage, name, partial(lossy, name, getattr(storage, name)))
        a = make_loop(store)
        with pytest.warns(UserWarning, match="does not answer"):
            a.run(3)
        assert [t.number for t in a.trials] == [0, 1, 2]


def test_only_what_is_new_is_read(url):
    with shared(url, "a") as first, shared(url, "b") as second:
        a, b = make_loop(first, searcher="random"), make_loop(second, searcher="random")
        a.run(20)
        b.run(20)
        read, fetch = [], second._rdb._get_trials

        def counting(*arguments, **named):
            found = fetch(*arguments, **named)
            read.append(len(found))
            return found

        second._rdb._get_trials = counting
        b.run(24)
        assert len(read) >= 8
        assert max(read) <= 2


def test_a_searcher_that_repeats_itself_ends(url):
    class Stuck(Searcher):
        def suggest(self, count=1):
            return [PROBLEM.kernels.dense] * count

        def update(self, completed, pending=()):
            self.told = completed

    told = []
    progress = Progress()
    progress.message = told.append
    with shared(url, "a") as store:
        loop = make_loop(store, searcher=Stuck, progress=progress)
        assert loop.run(3) is False
        assert len(loop.trials) == 1
    assert "nothing left to propose after 1 of 3" in told[-1]


def test_failures_in_a_row_stop_the_driver_that_has_them(url):
    def fails(candidate):
        return Outcome(error="evaluate raised ValueError: no")

    with shared(url, "a") as first, shared(url, "b") as second:
        with pytest.raises(EvaluationError, match=r"3 evaluations in a row.*ValueError: no"):
            make_loop(first, fails).run(9)
        b = make_loop(second, seed=1)
        b.run(9)
        assert sum(t.ok for t in b.trials) == 6
        assert len({t.candidate for t in b.trials}) == 9


def test_events_of_all_drivers_are_kept_apart(url):
    with shared(url, "a") as first, shared(url, "b") as second:
        first.record(Event("dense", 0, {"metrics": {"accuracy": 0.9}}))
        first.record(Event("verified", 3, {"trials": [1]}))
        second.record(Event("verified", 3, {"trials": [2]}))
        first.open({}, None)
        assert [e.data.get("trials") for e in second.events()] == [None, [1], [2]]
        assert second.first_events("verified") == [Event("verified", 3, {"trials": [1]})]
        assert (first.first, second.first) == (True, False)


def test_terms_and_a_long_table_come_to_who_joins(url):
    table = "".join(f"line {n} µ\n" for n in range(9000))
    with shared(url, "a") as first, shared(url, "b") as second:
        first.open({"network": "x"}, table)
        assert second.wait_until_open(pytest.fail) == {"network": "x"}
        assert second.table() == table


def test_a_study_that_never_opens_is_not_waited_for_without_end(url, monkeypatch):
    monkeypatch.setattr(shared_study, "OPEN_S", 0.05)
    told = []
    with shared(url, "run-a") as first:
        with (
            shared(url, "b") as second,
            pytest.raises(RunError, match=r"run-a.*has not come to its first trial"),
        ):
            second.wait_until_open(told.append)
        assert told == ["waiting for the driver run-a, which prepares the study"]
        assert first.first
    # The first one failed before it opened the study: the name is free again.
    with shared(url, "c") as third:
        assert third.first


def test_who_waits_is_told_that_the_first_driver_failed(url):
    first = shared(url, "a").__enter__()
    with shared(url, "b") as second:
        first.__exit__(None, None, None)
        with pytest.raises(RunError, match="failed before its first trial"):
            second.wait_until_open(print)


def test_a_study_that_was_not_begun_to_be_shared_is_refused(url, monkeypatch):
    monkeypatch.setattr(shared_study, "MADE_S", 0.0)
    Store(url, "both", UNITS)
    with pytest.raises(RunError, match="was not begun to be shared"):
        shared(url, "a")
