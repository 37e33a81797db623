"""The search up to its verified winner, on a network and a device that are formulas."""

from dataclasses import replace

import pytest
from formula_session import UNITS, FormulaDevice, Optimist, evaluate, session

from autoprune.core.errors import InfeasibleBudgetError, ProfilerError, RunError
from autoprune.study.progress import Progress
from autoprune.study.store import Store


def test_a_good_model_holds_at_once():
    made = session()
    trials = made.run(evaluate)
    winner = made.winner()
    assert len(trials) == 24
    assert winner.measured.estimates["latency_ms"].source == "measured"
    assert winner.measured.latency_ms <= made.limits.limits["latency_ms"].value
    assert trials[winner.number] == winner


def test_an_optimistic_model_is_corrected_and_the_search_goes_on():
    model = Optimist(bias=0.8)
    made = session(model, trials=9)
    trials = made.run(evaluate)
    winner = made.winner()
    assert model.corrections >= 1
    assert model.bias == pytest.approx(1.0)
    assert len(trials) > 9
    assert winner.measured.latency_ms <= 6.0
    # The first ones were measured and broke the budget: they are not the winner.
    broken = [n for n in made.verified if made.broken(made.trial(n))["latency_ms"] > 0]
    assert broken
    assert winner.number not in broken


def test_a_model_that_never_learns_ends_with_not_held():
    model = Optimist(bias=0.7, learns=False)
    device = FormulaDevice()
    made = session(model, device=device, trials=9, verify={"rounds": 2})
    made.run(evaluate)
    assert made.winner() is None
    nearest = made.nearest()
    assert nearest.number in made.verified
    worst = [max(made.broken(made.trial(n)).values()) for n in made.verified]
    assert max(made.broken(nearest).values()) == min(worst)


def test_the_winner_is_the_best_that_was_measured_to_hold():
    made = session()
    made.run(evaluate)
    held = [t for t in made.loop.trials if t.number in made.verified]
    assert made.winner().score() == max(t.score() for t in held)


def test_a_counted_budget_needs_no_device():
    device = FormulaDevice()
    made = session(budget={"macs": "0.5x"}, device=device)
    made.run(evaluate)
    assert device.calls == []
    assert made.winner() == made.loop.best


def test_a_budget_that_nothing_holds_is_refused_before_anything_is_evaluated():
    with pytest.raises(InfeasibleBudgetError, match="least"):
        session(budget={"latency": "0.001x"})


def test_a_device_that_measures_nothing_stops_the_run():
    made = session(device=FormulaDevice(fails=True))
    with pytest.raises(
        ProfilerError, match=r"none of 3 candidates could be measured.*out of order"
    ):
        made.run(evaluate)


def test_resumed_it_measures_nothing_twice(tmp_path):
    path = tmp_path / "journal.log"
    first = session(Optimist(bias=0.8), store=Store(path, "run", UNITS), trials=9)
    first.run(evaluate)
    device = FormulaDevice()
    again = session(Optimist(bias=0.8), store=Store(path, "run", UNITS), device=device, trials=9)

    def never(candidate):
        raise RuntimeError("evaluated again")

    again.run(never)
    assert device.calls == []
    assert again.loop.trials == first.loop.trials
    assert again.verified == first.verified
    assert again.errors == first.errors


def test_another_number_of_candidates_to_verify_is_not_mixed_with_what_is_stored(tmp_path):
    path = tmp_path / "journal.log"
    session(store=Store(path, "run", UNITS)).run(evaluate)
    again = session(store=Store(path, "run", UNITS), verify={"top": 2})
    with pytest.raises(RunError, match="settings"):
        again.run(evaluate)


def test_the_dense_network_is_evaluated_once(tmp_path):
    import torch

    calls = []

    def dense(store):
        made = session(store=store)
        made.network = replace(made.network, model=torch.nn.Identity())
        made.task.evaluate = lambda model: calls.append(1) or {"accuracy": 0.9}
        return made.dense_metrics()

    path = tmp_path / "journal.log"
    assert dense(Store(path, "run", UNITS)) == {"accuracy": 0.9}
    assert dense(Store(path, "run", UNITS)) == {"accuracy": 0.9}
    assert len(calls) == 1


def test_progress_tells_what_was_measured():
    heard = []

    class Listener(Progress):
        def message(self, text):
            heard.append(text)

    made = session(progress=Listener())
    made.run(evaluate)
    assert any("measuring the 3 best" in text for text in heard)
    assert any("holds" in text for text in heard)
