"""Two drivers at the same time, each in a thread, up to their verified winners."""

import threading

import pytest
from formula_session import PROBLEM, UNITS, FormulaDevice, FormulaNetwork, Optimist, evaluate

from autoprune.cost.base import Combined
from autoprune.space.space import SearchSpace
from autoprune.study import shared_loop
from autoprune.study.config import validate
from autoprune.study.evaluation import Phases
from autoprune.study.progress import Progress
from autoprune.study.shared_session import SharedSession
from autoprune.study.shared_store import SharedStore
from autoprune.study.task import Task
from autoprune.study.verify import holds
from autoprune.testing.problems import ShapeCost


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(shared_loop, "PAUSE_S", 0.01)


def make_session(store, bias=1.0):
    config = validate(
        {"budget": {"latency": "0.6x"}, "trials": 12, "searcher": "random", "verify": {"top": 1}},
        "test",
    )
    task = Task(config, None, (None,), lambda model: {"accuracy": 0.9})
    model = Optimist(bias)
    made = SharedSession(
        task,
        FormulaNetwork(PROBLEM.kernels),
        store,
        cost_model=Combined(ShapeCost(), model),
        space=SearchSpace.from_network(PROBLEM),
        device=FormulaDevice(),
        reference_ms=model.reference_ms,
        progress=Progress(),
        phases=Phases(),
    )
    made.table = model
    made._dense_metrics = {"accuracy": 0.9}
    return made


# Threads take one another's filters of warnings away; processes have their own.
@pytest.mark.filterwarnings("ignore:.*fail_stale_trials is experimental")
@pytest.mark.parametrize("bias", [1.0, 0.85])
def test_drivers_at_the_same_time_end_with_the_best_of_both(tmp_path, bias):
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    calls, sessions, errors = [], {}, []

    def work(candidate):
        calls.append(candidate)
        return evaluate(candidate)

    def run(name, store):
        try:
            with store:
                session = make_session(store, bias)
                session.run(work)
            sessions[name] = session
        except BaseException as error:
            errors.append(error)
            raise

    stores = {name: SharedStore(url, "both", UNITS, name) for name in "ab"}
    threads = [threading.Thread(target=run, args=item) for item in stores.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=900)
    assert not errors
    a, b = sessions["a"], sessions["b"]
    assert len(set(calls)) == len(calls)
    known = {
        t.number: t.candidate for t in max((a, b), key=lambda s: len(s.loop.trials)).loop.trials
    }
    assert len(known) == len(calls) >= 12
    for session in (a, b):
        winner = session.winner()
        assert holds(session.broken(winner))
        assert known[winner.number] == winner.candidate
        # A third of the trials, all of them, and a few more where the model was wrong.
        assert sum(session.device.calls) <= 8
    if bias == 1.0:
        assert len(calls) == 12
        assert a.winner().candidate == b.winner().candidate


def test_what_one_driver_measured_corrects_the_model_of_the_other(tmp_path):
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    with SharedStore(url, "both", UNITS, "a") as store:
        first = make_session(store, bias=0.8)
        first.run(evaluate)
        store.open({}, None)
    with SharedStore(url, "both", UNITS, "b") as store:
        second = make_session(store, bias=0.8)
        second.run(evaluate)
    assert first.device.calls
    assert second.device.calls == []
    assert set(second.verified) == set(first.verified)
    assert second.winner() == first.winner()
    assert second.table.corrections == len(first.device.calls)
