"""From the trials of a search to what it gives back."""

from dataclasses import replace

import pytest
from formula_session import UNITS, evaluate, session

from autoprune.searchers.amc.reward import Reward
from autoprune.study.finish import Shipped
from autoprune.study.picking import Picked
from autoprune.study.shipping import ship
from autoprune.study.store import Store
from autoprune.study.verify import Verification, holds


class PlainFinisher:
    """Ships what it is given."""

    def build(self, trial):
        return Shipped(trial, None, trial.metrics, trial.metrics)

    def measure(self, shipped):
        return shipped

    def recover(self, shipped):
        return shipped


class DoubtingFinisher(PlainFinisher):
    """Measures that trials break the budget as they are built, or once they are recovered."""

    def __init__(self, session, built=(), recovered=()):
        self.session, self.at = session, {False: built, True: recovered}
        self.calls = []

    def build(self, trial):
        self.calls.append(("build", trial.number))
        return super().build(trial)

    def recover(self, shipped):
        self.calls.append(("recover", shipped.trial.number))
        return self.measure(replace(shipped, recovered=True))

    def measure(self, shipped):
        self.calls.append(("measure", shipped.trial.number))
        (found,) = self.session.device.candidates([shipped.trial.candidate], 1.0)
        if shipped.trial.number in self.at[shipped.recovered]:
            found = replace(found, ratio=0.61, ratio_interval=(0.6, 0.62))
        return replace(shipped, verification=Verification(found, self.session.reference_ms))


@pytest.mark.parametrize(
    ("when", "tried"), [("built", ["measure"]), ("recovered", ["measure", "recover", "measure"])]
)
def test_a_winner_that_breaks_the_budget_makes_room_for_the_next(when, tried):
    made = session()
    trials = made.run(evaluate)
    first, *others = [t.number for t in made.winners()]
    finisher = DoubtingFinisher(made, **{when: [first]})
    assert ship(made, finisher, trials).trial.number == others[0]
    assert [what for what, number in finisher.calls if number == first] == ["build", *tried]


def test_only_the_best_of_what_was_built_is_measured_where_it_holds():
    made = session()
    trials = made.run(evaluate)
    best, *others = [t.number for t in made.winners()]
    assert others
    finisher = DoubtingFinisher(made)
    ship(made, finisher, trials)
    assert {number for what, number in finisher.calls if what == "measure"} == {best}
    assert [what for what, _ in finisher.calls].count("build") > 1


def test_where_no_winner_holds_as_it_is_built_more_of_the_trials_are_measured():
    made = session()
    trials = made.run(evaluate)
    winners = [t.number for t in made.winners()]
    shipped = ship(made, DoubtingFinisher(made, built=winners), trials)
    assert shipped.trial.number not in winners
    assert shipped.recovered
    assert holds(made.broken(shipped.trial))
    # What was measured last is what is told of those that were given up.
    assert all(made.broken(made.trial(n))["latency_ms"] > 0 for n in winners)


def test_where_none_holds_as_it_is_built_the_nearest_is_recovered_and_told():
    made = session(verify={"rounds": 2})
    trials = made.run(evaluate)
    finisher = DoubtingFinisher(made, built=range(100), recovered=range(100))
    shipped = ship(made, finisher, trials)
    assert shipped.recovered
    assert shipped.verification.measurement.ratio == 0.61
    assert [what for what, _ in finisher.calls].count("recover") == 1
    built = [number for what, number in finisher.calls if what == "build"]
    assert len(built) == len(set(built)) <= 9


def test_what_is_measured_while_shipping_is_not_taken_for_the_search_s_after_a_kill(tmp_path):
    path = tmp_path / "journal.log"
    first = session(store=Store(path, "run", UNITS))
    trials = first.run(evaluate)
    before = dict(first.verified)
    ship(first, DoubtingFinisher(first, built=list(before)), trials)
    assert len(first.verified) > len(before)
    again = session(store=Store(path, "run", UNITS))
    again.run(evaluate)
    assert again.verified == before


def test_the_reward_asked_for_decides_what_is_shipped():
    wanted = {"reward": "error_log_cost", "min_accuracy": 0.5, "warmup": 20, "hidden": 8}
    budget = {"macs": "1x"}
    made = session(budget=budget, searcher={"name": "amc", "options": wanted}, verify={"top": 24})
    trials = made.run(evaluate)
    reward = Reward(made.context(24), made.limits.limits, "error_log_cost", 0.5)
    shipped = ship(made, PlainFinisher(), trials)
    known = [trial for trial in made.loop.trials if trial in made.winners()]
    assert reward(shipped.trial) == max(reward(trial) for trial in known)
    assert shipped.trial.metrics["accuracy"] < max(t.metrics["accuracy"] for t in known)
    assert made.loop.best.number == shipped.trial.number


def test_of_a_finished_run_the_networks_that_it_measured_are_taken_and_no_others():
    made = session()
    trials = made.run(evaluate)
    picked = Picked(
        made.config, made.budget, made.limits, made.dense_cost, 10.0, trials, dict(made.verified)
    )
    first, *others = [t.number for t in picked.winners()]
    finisher = DoubtingFinisher(made, built=[first])
    assert ship(picked, finisher, trials).trial.number == others[0]
    every = [first, *others]
    finisher = DoubtingFinisher(made, built=every, recovered=every)
    shipped = ship(picked, finisher, trials)
    assert shipped.trial.number in every
    assert not holds(shipped.verification.violations(picked.limits, shipped.trial.predicted))
    assert picked.verified == made.verified
