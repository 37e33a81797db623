"""Searchers that learn find better networks than those that don't, on a made-up problem."""

import functools

import numpy as np
import pytest

from autoprune.core.budget import Budget
from autoprune.searchers.registry import make_searcher
from autoprune.testing.problems import StaircaseCost, SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, run_search

SEEDS = (0, 1, 2)
TRIALS = 60


@functools.cache
def best(name, latency=False, batch=1, **options):
    """Mean over seeds of the best accuracy, 9 groups, half of the MACs or of the latency."""
    found = []
    for seed in SEEDS:
        problem = SyntheticProblem.resnet(blocks=3, seed=seed)
        budget, model = None, None
        if latency:
            model = StaircaseCost()
            dense = model.predict(problem.kernels.workloads([problem.kernels.dense]))[0]
            budget = Budget(latency_ms="0.6x").absolute(dense)
        context = make_context(problem, budget=budget, cost_model=model, trials=TRIALS, seed=seed)
        trials = run_search(
            lambda c: make_searcher(name, c, **options), problem, context, batch=batch
        )
        found.append(best_so_far(trials)[-1])
    return float(np.mean(found))


@pytest.mark.parametrize("name", ["tpe", "evolve"])
@pytest.mark.parametrize("latency", [False, True])
def test_learners_beat_uniform_and_random(name, latency):
    assert best(name, latency) > max(best("uniform", latency), best("random", latency)) + 0.005


def test_evolve_stays_strong_in_batches():
    assert best("evolve", batch=6) > max(best("uniform"), best("random")) + 0.005


def test_amc_beats_uniform_and_learns():
    early, late, ahead = [], [], []
    for seed in SEEDS:
        problem = SyntheticProblem.resnet(blocks=3, seed=seed)
        context = make_context(problem, trials=TRIALS, seed=seed)
        trials = run_search(
            lambda c: make_searcher("amc", c, hidden=32, updates=25), problem, context
        )
        scores = [trial.score() for trial in trials]
        early.append(np.mean(scores[1:16]))
        late.append(np.mean(scores[-15:]))
        ahead.append(max(scores))
    assert np.mean(ahead) > best("uniform")
    assert np.mean(late) > np.mean(early) + 0.01
