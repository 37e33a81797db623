"""`auto` begins with its seeds and never ends below them; `greedy` goes down step by step."""

import numpy as np
import pytest

from autoprune.searchers.auto import AutoSearcher
from autoprune.searchers.greedy import GreedySearcher
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import best_so_far, make_context, run_search

PROBLEM = SyntheticProblem.resnet(blocks=3, trunk=True)


def test_auto_begins_with_profiles_and_ends_above_them():
    context = make_context(PROBLEM, budget=PROBLEM.budget(0.4), trials=45)
    trials = run_search(AutoSearcher, PROBLEM, context)
    curve = best_so_far(trials)
    trunk = [t.candidate["layer3.trunk"] for t in trials[:4]]
    assert max(trunk) == 64  # spared in one of the first
    assert trunk[0] < 64  # the uniform one
    assert curve[-1] > curve[3] + 0.005


@pytest.mark.parametrize("batch", [1, 6])
def test_greedy_reaches_the_budget_and_beats_the_uniform_candidate(batch):
    context = make_context(PROBLEM, budget=PROBLEM.budget(0.4), trials=90)
    searcher = GreedySearcher(context, steps=8, width=3)
    trials = run_search(lambda c: searcher, PROBLEM, context, batch=batch)
    curve = best_so_far(trials)
    assert searcher._arrived
    assert searcher.oracle.holds(searcher._base[None])[0]
    assert curve[-1] > curve[0] + 0.005
    assert np.isfinite(curve).all()


def test_seeds_that_coincide_do_not_end_the_search():
    """On a device with wide plateaus several profiles are one candidate."""
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem, trials=20)

    def make(context):
        searcher = AutoSearcher(context)
        assert len(searcher._seeds) > 1
        searcher._seeds = [*searcher._seeds[:2], *[searcher._seeds[0]] * 6]
        return searcher

    assert len(run_search(make, problem, context)) == 20
