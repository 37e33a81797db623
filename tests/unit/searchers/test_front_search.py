"""Searchers for Pareto fronts: what they cover, and what any searcher must keep to."""

import dataclasses

import numpy as np
import pytest

from autoprune.core.errors import ConfigError
from autoprune.core.objectives import losses, parse_objectives
from autoprune.core.pareto import hypervolume
from autoprune.searchers.random import RandomSearcher
from autoprune.searchers.registry import make_searcher
from autoprune.testing.problems import ShapeCost, SyntheticProblem
from autoprune.testing.searchers import make_context, make_trial, run_search

FRONTS = ["evolve", "auto", "random", "tpe", "nsga2", "nsga3"]


def context_of(problem, trials, seed=0, budget=1.0, names=("accuracy", "macs")):
    context = make_context(problem, budget=problem.budget(budget), trials=trials, seed=seed)
    return dataclasses.replace(context, objectives=parse_objectives(names))


def covered(name, seed, trials=50):
    """The hypervolume of what a search found, against a network that is dense and by chance."""
    problem = SyntheticProblem.resnet(blocks=3, seed=seed)
    context = context_of(problem, trials, seed)
    found = run_search(lambda c: make_searcher(name, c), problem, context)
    points = losses(context.objectives, found)
    dense = ShapeCost().predict(problem.kernels.workloads([problem.kernels.dense]))[0]
    points = np.stack([(0.93 + points[:, 0]) / 0.83, points[:, 1] / dense.macs], axis=1)
    return hypervolume(points, np.ones(2))


def test_evolve_covers_more_than_random():
    for seed in (0, 1, 2):
        assert covered("evolve", seed) > covered("random", seed) + 0.01


def test_evolve_goes_on_from_what_is_worth_a_place():
    problem = SyntheticProblem.resnet(blocks=3, seed=0)
    plain = context_of(problem, 40)
    accuracy, macs = plain.objectives
    bounded = dataclasses.replace(accuracy, worst=0.88), macs
    contexts = plain, dataclasses.replace(plain, objectives=bounded)
    worthy = []
    for context in contexts:
        found = run_search(lambda c: make_searcher("evolve", c), problem, context)
        worthy.append(sum(trial.metrics["accuracy"] >= 0.88 for trial in found))
    assert worthy[1] > 1.5 * worthy[0]


@pytest.mark.parametrize("name", FRONTS)
def test_suggestions_hold_the_budget_and_never_repeat(name):
    problem = SyntheticProblem.resnet(blocks=2, trunk=True)
    context = context_of(problem, 24, budget=0.6, names=("accuracy", "macs", "params"))
    trials = run_search(lambda c: make_searcher(name, c), problem, context, batch=3)
    assert len({trial.candidate for trial in trials}) == 24
    assert all(max(context.budget.violations(t.predicted).values()) <= 0 for t in trials)
    # They spread below the budget too.
    macs = [trial.predicted.macs for trial in trials]
    assert min(macs) < 0.3 * max(macs)


@pytest.mark.parametrize("name", FRONTS)
def test_the_same_calls_give_the_same_suggestions(name):
    problem = SyntheticProblem.resnet(blocks=2)
    context = context_of(problem, 20, seed=3)
    one, two = (
        [t.candidate for t in run_search(lambda c: make_searcher(name, c), problem, context)]
        for _ in range(2)
    )
    assert one == two


@pytest.mark.parametrize("name", ["evolve", "tpe"])
def test_failures_are_survived(name):
    problem = SyntheticProblem.resnet(blocks=1)
    context = context_of(problem, 20)
    searcher = make_searcher(name, context)
    for number in range(20):
        trial = make_trial(problem, context, number, searcher.suggest(1)[0])
        if number < 7 or number % 3 == 0:
            trial = dataclasses.replace(trial, metrics={}, error="failed")
        searcher.update([trial])


@pytest.mark.parametrize("name", ["gp", "cmaes", "amc", "uniform", "greedy", "exact", "qmc"])
def test_others_refuse_and_name_those_that_can(name):
    problem = SyntheticProblem.resnet(blocks=1)
    with pytest.raises(ConfigError, match="auto, evolve, nsga2, nsga3, random, tpe"):
        make_searcher(name, context_of(problem, 20))


def test_an_instance_for_one_objective_is_refused():
    problem = SyntheticProblem.resnet(blocks=1)
    one = RandomSearcher(make_context(problem))
    with pytest.raises(ConfigError, match="RandomSearcher has one objective"):
        make_searcher(one, context_of(problem, 20))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evolve", {"startup": 0}),
        ("evolve", {"rounds": 0}),
        ("evolve", {"explore": -1.0}),
        ("evolve", {"surrogate": False}),
        ("random", {"block": 0}),
        ("tpe", {"startup": 0}),
        ("nsga2", {"options": {"population_size": "many"}}),
    ],
)
def test_options_that_can_not_be_are_refused(name, options):
    problem = SyntheticProblem.resnet(blocks=1)
    with pytest.raises(ConfigError):
        make_searcher(name, context_of(problem, 20), **options)


def test_parents_of_a_tighter_budget_are_not_those_of_a_looser_one():
    """Told of a looser budget's trials, which are all better, it goes on from those that hold."""
    problem = SyntheticProblem.resnet(blocks=3, seed=1)
    loose = run_search(
        lambda c: make_searcher("evolve", c),
        problem,
        make_context(problem, budget=problem.budget(0.9), trials=20),
    )
    context = make_context(problem, budget=problem.budget(0.4), trials=60)
    for name in ("evolve", "tpe"):
        searcher = make_searcher(name, context)
        searcher.update(loose)
        own = []
        for number in range(25):
            trial = make_trial(problem, context, 20 + number, searcher.suggest(1)[0])
            searcher.update([trial])
            own.append(trial.score())
        assert np.mean(own[-8:]) > np.mean(own[:8]), name
