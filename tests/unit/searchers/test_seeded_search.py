"""`auto` begins with its seeds and never ends below them; `greedy` goes down step by step."""

import numpy as np
import pytest

from autoprune.searchers.auto import AutoSearcher
from autoprune.searchers.greedy import GreedySearcher
from autoprune.searchers.sensitivity import loss_table
from autoprune.space.profiles import known_profiles
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


def known_from(problem, space):
    """What the problem loses with one group pruned and all others whole."""
    whole = space.units.copy()
    losses = {}
    for index, decision in enumerate(space.decisions):
        kept = np.tile(whole, (len(decision.choices), 1))
        kept[:, index] = decision.choices
        scores = np.array([problem.accuracy(row) for row in kept])
        losses[decision.group] = np.maximum(scores[-1] - scores, 0.0)
    return losses


def test_with_known_losses_the_best_profile_is_a_seed_before_the_uniform_one():
    problem = SyntheticProblem.resnet(blocks=3)
    context = make_context(problem, trials=60)
    losses = known_from(problem, context.space)
    searcher = AutoSearcher(context, sensitivity=losses)
    table = loss_table(context.space, losses)
    profiles = known_profiles(searcher.oracle)
    lost = [table[np.arange(len(table)), levels].sum() for levels in profiles]
    best = int(np.argmin(lost))
    assert best != 0
    seeds = [tuple(levels.tolist()) for levels in searcher._seeds]
    assert len(set(seeds)) == len(seeds)
    solved = table[np.arange(len(table)), searcher._seeds[0]].sum()
    assert solved <= min(lost)
    at = seeds.index(tuple(profiles[best].tolist()))
    assert 0 < at < seeds.index(tuple(profiles[0].tolist()))
    for levels, loss in zip(profiles, lost, strict=True):
        assert (tuple(levels.tolist()) in seeds) == (loss <= lost[0])


def test_known_losses_bring_only_the_uniform_profile_where_no_other_is_better():
    context = make_context(PROBLEM, budget=PROBLEM.budget(0.4), trials=60)
    flat = {d.group: np.zeros(len(d.choices)) for d in context.space.decisions}
    searcher = AutoSearcher(context, sensitivity=flat)
    seeds = [tuple(levels.tolist()) for levels in searcher._seeds]
    found = [tuple(levels.tolist()) in seeds for levels in known_profiles(searcher.oracle)]
    assert found[0]
    assert not any(found[1:])
