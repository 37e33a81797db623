"""The parents of evolution among thousands of trials, most of them of a looser budget."""

import numpy as np

from autoprune.searchers.evolve import HISTORY, EvolveSearcher
from autoprune.searchers.random import RandomSearcher
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context, make_trial, run_search

PROBLEM = SyntheticProblem.resnet(blocks=2)
TIGHT = make_context(PROBLEM, budget=PROBLEM.budget(0.3), trials=HISTORY + 200)
LOOSE = make_context(PROBLEM, budget=PROBLEM.budget(0.8), trials=HISTORY + 100, seed=1)


def told(own):
    """A searcher that is told of many trials of a looser budget and of some of its own."""
    searcher = EvolveSearcher(TIGHT)
    loose = run_search(RandomSearcher, PROBLEM, LOOSE)
    assert len(loose) > HISTORY
    rng = np.random.default_rng(0)
    tight = [searcher._hold(searcher.space.units * rng.uniform(0.2, 1.0, 6)) for _ in range(own)]
    candidates = [searcher.space.candidate(levels) for levels in tight]
    trials = [make_trial(PROBLEM, TIGHT, len(loose) + i, c) for i, c in enumerate(candidates)]
    searcher.update([*loose, *trials])
    asked = []
    holds = searcher.oracle.holds
    searcher.oracle.holds = lambda rows: (asked.append(len(rows)), holds(rows))[1]
    return searcher, trials, asked


def test_those_that_hold_the_budget_are_found_though_others_score_better():
    searcher, trials, asked = told(own=6)
    best = sorted(trials, key=lambda t: -t.score())[:4]
    parents = [searcher.space.candidate(searcher._levels[i]) for i in searcher._best()]
    assert parents == [t.candidate for t in best]
    assert sum(asked) <= HISTORY


def test_where_none_holds_it_only_so_many_are_predicted():
    searcher, _, asked = told(own=0)
    order = np.argsort(-np.array(searcher._scores), kind="stable")
    assert searcher._best() == order[:4].tolist()
    assert sum(asked) == HISTORY
    assert (
        TIGHT.budget.violations(make_trial(PROBLEM, TIGHT, 0, searcher.suggest(1)[0]).predicted)[
            "macs"
        ]
        <= 0
    )
