"""Local search at the end of any searcher's search."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from autoprune.core.errors import ConfigError
from autoprune.core.objectives import parse_objectives
from autoprune.searchers import Searcher, make_searcher
from autoprune.searchers.local import LocalSearch
from autoprune.searchers.random import RandomSearcher
from autoprune.testing import searchers as suite
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, make_trial, run_search

PROBLEM = SyntheticProblem.resnet(blocks=2)
AMC = {"hidden": 8, "updates": 1}


def local(share=0.5, name="random", **options):
    return lambda context: LocalSearch(context, partial(make_searcher, name, **options), share)


@pytest.mark.parametrize("check", suite.CHECKS)
@pytest.mark.parametrize("name", ["random", "greedy"])
def test_contract(name, check):
    suite.CHECKS[check](local(name=name))


@pytest.mark.parametrize(("name", "options"), [("tpe", {}), ("amc", AMC), ("uniform", {})])
def test_it_goes_on_when_told_all_at_once(name, options):
    suite.check_resumes(local(name=name, **options))
    suite.check_exhausts(local(name=name, **options))


@pytest.mark.parametrize("batch", [1, 7])
def test_the_searcher_comes_first_and_plans_for_its_own_share(batch):
    context = make_context(PROBLEM, trials=40)
    found = run_search(local(0.25), PROBLEM, context, batch=batch)
    alone = run_search(
        RandomSearcher, PROBLEM, dataclasses.replace(context, trials=30), batch=batch
    )
    assert [t.candidate for t in found[:30]] == [t.candidate for t in alone]
    assert len(found) == 40
    searcher = local(0.25)(context)
    assert searcher.inner.context.trials == searcher.begins == 30
    assert searcher.context.trials == 40


def test_moves_are_small_and_around_the_best():
    context = make_context(PROBLEM, trials=60)
    trials = run_search(local(0.3), PROBLEM, context)
    space = context.space
    levels = np.array([space.levels(t.candidate) for t in trials])
    scores = np.array([t.score() for t in trials])
    moved = []
    for number in range(42, 60):
        best = np.argsort(-scores[:number])[:4]
        moved.append(np.abs(levels[best] - levels[number]).sum(axis=1).min())
    random = [
        np.abs(np.delete(levels[:42], i, axis=0) - levels[i]).sum(axis=1).min() for i in range(42)
    ]
    assert np.median(moved) < 0.5 * np.median(random)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_better_networks_than_more_random_ones(seed):
    problem = SyntheticProblem.resnet(seed=seed)
    context = make_context(problem, trials=60, seed=seed)
    alone = best_so_far(run_search(RandomSearcher, problem, context))[-1]
    assert best_so_far(run_search(local(0.3), problem, context))[-1] > alone + 0.002


def test_shares_and_trials_told_before():
    make = partial(make_searcher, "random")
    context = make_context(PROBLEM, trials=60)
    assert LocalSearch(context, make, 0.5, begun=40).begins == 50
    assert LocalSearch(context, make, 0.01).begins == 59
    assert LocalSearch(context, make, 0.99).begins == 1
    searcher = LocalSearch(context, make, 0.5, begun=40)
    before = run_search(RandomSearcher, PROBLEM, dataclasses.replace(context, trials=40, seed=5))
    searcher.update(before)
    twin = make(dataclasses.replace(context, trials=50))
    twin.update(before)
    found = searcher.suggest(12)
    assert found[:10] == twin.suggest(10)
    assert len(set(found)) == 12


class ThreeOnly(Searcher):
    """Has a list of its own, and knows nothing else."""

    def __init__(self, context):
        super().__init__(context)
        self.left = [t.candidate for t in run_search(RandomSearcher, PROBLEM, context)][:3]

    def suggest(self, count=1):
        given, self.left = self.left[:count], self.left[count:]
        return given

    def update(self, completed, pending=()):
        pass


def test_it_takes_over_where_nothing_is_left_to_propose():
    context = make_context(PROBLEM, trials=12)
    trials = run_search(lambda c: LocalSearch(c, ThreeOnly, 0.25), PROBLEM, context)
    assert len({t.candidate for t in trials}) == len(trials) == 12
    mine = ThreeOnly(context)
    assert [t.candidate for t in trials[:3]] == mine.left


class Cheapest(ThreeOnly):
    """Looks for the narrowest network, and keeps a state."""

    fills_budget = False
    notes = ("a note",)

    def merit(self, trial):
        return -float(sum(trial.candidate.values()))

    def state(self):
        return suite.SearcherState({}, {"left": len(self.left)})

    def restore(self, state, completed):
        self.left = self.left[-state.about["left"] :]


def test_what_is_best_is_the_searchers_to_say():
    context = make_context(PROBLEM, trials=30)
    made = []

    def factory(context):
        made.append(LocalSearch(context, Cheapest, 0.5))
        return made[-1]

    trials = run_search(factory, PROBLEM, context)
    searcher = made[0]
    assert searcher.notes == (
        "a note",
        "local search around the best candidates: the last 15 trials of 30",
    )
    widths = [searcher.merit(t) for t in trials]
    assert widths == [-float(sum(t.candidate.values())) for t in trials]
    assert max(widths[3:]) > max(widths[:3])
    budget = float(context.budget.limits["macs"].value)
    assert min(t.predicted.macs for t in trials) < 0.95 * budget


def test_a_state_is_the_searchers():
    context = make_context(PROBLEM, trials=30)
    first = LocalSearch(context, Cheapest, 0.5)
    suggested = first.suggest(1)
    done = [make_trial(PROBLEM, context, 0, suggested[0])]
    first.update(done)
    again = LocalSearch(context, Cheapest, 0.5)
    again.restore(first.state(), done)
    assert again.suggest(4) == first.suggest(4)
    assert local()(context).state() is None


@pytest.mark.parametrize(
    ("changes", "share", "begun", "message"),
    [
        ({}, 0.0, 0, "above 0 and below 1, got 0.0"),
        ({}, 1.0, 0, "above 0 and below 1, got 1.0"),
        ({"trials": None}, 0.2, 0, "their number must be given"),
        ({}, 0.2, 19, "two trials or more, got 1"),
        (
            {"objectives": parse_objectives(["accuracy", "macs"])},
            0.2,
            0,
            "several objectives have no single one",
        ),
    ],
)
def test_refused(changes, share, begun, message):
    context = dataclasses.replace(make_context(PROBLEM, trials=20), **changes)
    with pytest.raises(ConfigError, match=message):
        LocalSearch(context, partial(make_searcher, "random"), share, begun)
