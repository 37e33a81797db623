import itertools

import numpy as np
import pytest

from autoprune.searchers.exact import ExactSearcher
from autoprune.searchers.losses import LossFitter, losses_of
from autoprune.searchers.programme import Programme
from autoprune.space.projection import Oracle
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import ShapeCost, SyntheticProblem
from autoprune.testing.searchers import make_context, run_search

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)


def brute_force(space, oracle, table):
    rows = np.array(list(itertools.product(*(range(c) for c in space.counts))))
    rows = rows[oracle.holds(rows)]
    return rows[np.argsort(table[np.arange(len(space)), rows].sum(axis=1), kind="stable")]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_programme_finds_the_optimum_of_coupled_widths(seed):
    space = SearchSpace.from_network(PROBLEM, choices=(0.4, 0.7, 1.0))
    oracle = Oracle(space, PROBLEM.budget(0.5), ShapeCost())
    rng = np.random.default_rng(seed)
    lost = 1 - space.choice(np.repeat([[0], [1], [2]], len(space), 1)).T / space.units[:, None]
    table = rng.lognormal(0, 1, (len(space), 1)) * lost**2
    order = brute_force(space, oracle, table)
    start = np.zeros(len(space), dtype=np.int64)
    found = Programme(oracle).best(table, [start])
    cost = table[np.arange(len(space)), found].sum()
    least = table[np.arange(len(space)), order[0]].sum()
    assert oracle.holds(found[None])[0]
    assert cost <= 1.05 * least
    other = Programme(oracle).best(table, [start], {tuple(found.tolist())})
    assert tuple(other.tolist()) != tuple(found.tolist())
    assert oracle.holds(other[None])[0]


def test_curves_grow_and_are_learned():
    space = SearchSpace.from_network(PROBLEM)
    rng = np.random.default_rng(0)
    weight = rng.lognormal(0, 1, len(space))
    levels = rng.integers(space.counts // 3, space.counts, (60, len(space)))

    def loss(rows):
        return ((1 - space.choice(rows) / space.units) ** 2) @ weight

    model = LossFitter(space).fit(levels, loss(levels))
    assert (np.diff(model.table, axis=1) <= 1e-12).all()  # wider never costs more
    fresh = rng.integers(space.counts // 3, space.counts, (40, len(space)))
    assert np.corrcoef(model.predict(fresh), loss(fresh))[0, 1] > 0.95


def test_losses_of_failures_and_collapse():
    losses = losses_of(np.array([0.9, 0.89, 0.1, -np.inf]))
    assert losses[0] == 0
    assert losses[1] < losses[2] == losses[3]
    assert (losses_of(np.array([-np.inf])) == 0).all()


def test_given_sensitivities_are_used_from_the_first_solution_on():
    space = SearchSpace.from_network(PROBLEM)
    first = space.decisions[1].group
    lost = {d.group: (1 - np.array(d.choices) / d.choices[-1]) ** 2 for d in space.decisions}
    dear = {**lost, first: 1000 * lost[first]}
    kept = []
    for sensitivity in (lost, dear):
        context = make_context(PROBLEM, space=space, trials=2)
        searcher = ExactSearcher(context, probes=1, sensitivity=sensitivity)
        kept.append(run_search(lambda c, s=searcher: s, PROBLEM, context)[-1].candidate[first])
    assert kept[1] > kept[0]


def test_probes_are_as_many_as_said():
    context = make_context(PROBLEM, trials=40)
    searcher = ExactSearcher(context, probes=9)
    solved = []
    searcher._solution = lambda at_random: solved.append(len(searcher._levels)) or None
    run_search(lambda c: searcher, PROBLEM, context)
    assert solved[0] == 9
