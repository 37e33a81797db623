"""Sensitivities as searchers ask for them."""

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.errors import ConfigError
from autoprune.searchers.exact import ExactSearcher
from autoprune.searchers.sensitivity import best_by, known_losses, loss_table
from autoprune.space.projection import Oracle
from autoprune.space.space import Decision, SearchSpace
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context, run_search

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)


class Given:
    """Losses as a search computes them; notes what is asked for."""

    def __init__(self, space, usual="fisher"):
        self.usual, self.asked = usual, []
        share = {d.group: 1 - np.array(d.choices) / d.choices[-1] for d in space.decisions}
        self.losses = {name: (i + 1) * lost**2 for i, (name, lost) in enumerate(share.items())}

    def __call__(self, kind):
        self.asked.append(kind)
        return self.losses


def context_with(usual="fisher"):
    context = make_context(PROBLEM, trials=12)
    given = Given(context.space, usual)
    return replace(context, sensitivity=given), given


def test_what_is_asked_for_is_computed_and_nothing_else():
    context, given = context_with()
    assert known_losses(context, "trials") is None
    assert given.asked == []
    found = known_losses(context, "reconstruction")
    assert given.asked == ["reconstruction"]
    assert found.keys() == given.losses.keys()
    known_losses(context, None)
    assert given.asked[-1] == "fisher"
    context, given = context_with(usual="trials")
    assert known_losses(context, None) is None
    assert known_losses(make_context(PROBLEM), None) is None


def test_wrong_kinds():
    context, _ = context_with()
    with pytest.raises(ConfigError, match=r"one of divergence, .*, got 'taylor'"):
        known_losses(context, "taylor")
    with pytest.raises(ConfigError, match="computed by a search"):
        known_losses(make_context(PROBLEM), "fisher")


def test_the_best_by_known_losses_hold_the_budget_in_order():
    context, given = context_with()
    oracle = Oracle(context.space, context.budget, context.cost_model, context.z)
    found = best_by(oracle, given.losses, 4)
    assert len({tuple(levels) for levels in found}) == 4
    assert oracle.holds(np.array(found)).all()
    table = loss_table(context.space, given.losses)
    sums = [table[np.arange(len(table)), levels].sum() for levels in found]
    assert sums[0] == min(sums)
    rng = np.random.default_rng(0)
    rows = np.array([rng.integers(0, context.space.counts) for _ in range(3000)])
    held = rows[oracle.holds(rows)]
    assert len(held)
    assert sums[0] <= table[np.arange(len(table)), held].sum(axis=1).min()
    again = best_by(oracle, given.losses, 1, avoid=[found[0]])[0]
    assert tuple(again) != tuple(found[0])


def test_rows_are_filled_up_with_the_last_choice():
    space = SearchSpace(
        PROBLEM.kernels,
        [Decision(PROBLEM.kernels.groups[0], (1, 2, 4)), Decision(PROBLEM.kernels.groups[1], (8,))],
    )
    table = loss_table(space, {PROBLEM.kernels.groups[0]: np.array([3.0, 1.0, 0.0])})
    assert table.tolist() == [[3, 1, 0], [0, 0, 0]]


def test_exact_begins_with_the_answer_to_what_is_known():
    context, given = context_with()
    oracle = Oracle(context.space, context.budget, context.cost_model, context.z)
    first = context.space.candidate(best_by(oracle, given.losses)[0])
    assert ExactSearcher(context).suggest()[0] == first
    assert ExactSearcher(context, sensitivity="trials").suggest()[0] != first


def test_true_sensitivities_help():
    """Losses of the problem itself, group by group, against learning them from 12 trials."""
    context = make_context(PROBLEM, trials=12)
    dense = PROBLEM.evaluate(PROBLEM.kernels.dense)["accuracy"]
    losses = {}
    for decision in context.space.decisions:
        kept = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))
        scores = []
        for count in decision.choices:
            one = type(PROBLEM.kernels.dense).of({**kept, decision.group: count})
            scores.append(max(dense - PROBLEM.evaluate(one)["accuracy"], 0.0))
        losses[decision.group] = np.maximum.accumulate(scores[::-1])[::-1]

    def best(**options):
        trials = run_search(lambda c: ExactSearcher(c, **options), PROBLEM, context)
        return max(trial.score("accuracy") for trial in trials)

    assert best(sensitivity=losses) > best(sensitivity="trials")
