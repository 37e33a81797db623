"""The search up to its verified winner, on a network and a device that are formulas."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Costs
from autoprune.core.device import DeviceSpec, Measurement
from autoprune.core.errors import InfeasibleBudgetError, ProfilerError, RunError
from autoprune.core.workload import KernelGraph
from autoprune.cost.base import Combined, CostModel
from autoprune.evaluate import Outcome
from autoprune.searchers.amc.reward import Reward
from autoprune.space.space import SearchSpace
from autoprune.study.config import validate
from autoprune.study.evaluation import Phases
from autoprune.study.finish import Shipped
from autoprune.study.progress import Progress
from autoprune.study.session import Session
from autoprune.study.shipping import ship
from autoprune.study.store import Store
from autoprune.study.task import Task
from autoprune.study.verify import Verification, holds
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


class Optimist(CostModel):
    """Predicts `bias` times the true latency; a correction moves it to what was measured."""

    def __init__(self, bias=1.0, learns=True):
        self.bias, self.learns, self.corrections = bias, learns, 0
        self.reference_ms = 10.0

    @property
    def metrics(self):
        return ("latency_ms",)

    def predict(self, workloads):
        mean = self.bias * true_ms(workloads.kept)
        return Costs(
            {"latency_ms": mean},
            {"latency_ms": 0.001 * mean},
            {"latency_ms": np.full(len(mean), "table")},
        )

    def update(self, workloads, measurements):
        self.corrections += 1
        if self.learns:
            ratio = np.array([m.ratio for m in measurements])
            self.bias = float(np.mean(ratio * 10.0 / true_ms(workloads.kept)))


def true_ms(kept):
    share = (np.asarray(kept) / PROBLEM.kernels.units).mean(axis=-1)
    return 10.0 * share


@dataclass
class FormulaNetwork:
    """What a session asks of a traced network."""

    kernels: KernelGraph
    model: object = None

    @property
    def dense(self):
        return self.kernels.dense

    def workload(self, candidate):
        return self.kernels.workloads([candidate])

    def workloads(self, candidates):
        return self.kernels.workloads(candidates)


class FormulaDevice:
    spec = DeviceSpec("formula", "none", "1")

    def __init__(self, fails=False):
        self.calls = []
        self.fails = fails

    def candidates(self, candidates, effort):
        self.calls.append(len(candidates))
        if self.fails:
            return [Measurement(c.key, error="out of order") for c in candidates]
        ratios = true_ms(PROBLEM.kernels.kept(candidates)) / 10.0
        return [
            Measurement(
                c.key,
                latency_ms=9.0 * r,
                latency_interval_ms=(9.0 * r * 0.999, 9.0 * r * 1.001),
                ratio=r,
                ratio_interval=(r * 0.999, r * 1.001),
                samples_ms=(9.0 * r,),
                reference_ms=(9.0,),
                stopped="interval",
            )
            for c, r in zip(candidates, ratios.tolist(), strict=True)
        ]


def session(model=None, *, budget=None, device=None, store=None, progress=None, **settings):
    config = validate(
        {"budget": budget or {"latency": "0.6x"}, "trials": 24, "searcher": "random", **settings},
        "test",
    )
    task = Task(config, None, (None,), lambda model: {"accuracy": 0.9})
    model = model or Optimist()
    return Session(
        task,
        FormulaNetwork(PROBLEM.kernels),
        store or Store(None, "run", UNITS),
        cost_model=Combined(ShapeCost(), model),
        space=SearchSpace.from_network(PROBLEM),
        device=device or FormulaDevice(),
        reference_ms=model.reference_ms,
        progress=progress or Progress(),
        phases=Phases(),
    )


def evaluate(candidate: Candidate) -> Outcome:
    return Outcome(PROBLEM.evaluate(candidate))


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


def test_a_winner_that_breaks_the_budget_as_it_is_built_makes_room_for_the_next():
    made = session()
    trials = made.run(evaluate)
    first, *others = [t.number for t in made.winners()]
    finisher = DoubtingFinisher(made, built=[first])
    assert ship(made, finisher, trials).trial.number == others[0]
    assert ("recover", first) not in finisher.calls


def test_a_winner_that_breaks_the_budget_once_recovered_makes_room_for_the_next():
    made = session()
    trials = made.run(evaluate)
    first, *others = [t.number for t in made.winners()]
    finisher = DoubtingFinisher(made, recovered=[first])
    assert ship(made, finisher, trials).trial.number == others[0]
    again = [(what, others[0]) for what in ("measure", "recover", "measure")]
    assert finisher.calls[-5:] == [("recover", first), ("measure", first), *again]


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
