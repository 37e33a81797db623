import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.budget import Budget
from autoprune.core.cost import Costs
from autoprune.core.errors import BudgetError, ConfigError, InfeasibleBudgetError
from autoprune.cost.base import Combined, CostModel
from autoprune.space.projection import check_feasible, least_possible, project
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import ShapeCost, StaircaseCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)
SPACE = SearchSpace.from_network(PROBLEM)
BOTH = Combined(ShapeCost(), StaircaseCost(noise=0.03))


def cost(candidate, model=BOTH):
    return model.predict(PROBLEM.kernels.workloads([candidate]))[0]


DENSE = cost(SPACE.dense)


class Falling(CostModel):
    """A latency that falls with the width of the last group."""

    metrics = ("latency_ms",)

    def predict(self, workloads):
        kept = workloads.kept.astype(float)
        return Costs.exact({"latency_ms": kept[:, :-1].sum(axis=1) - kept[:, -1]})


points = st.lists(st.floats(0, 1), min_size=len(SPACE), max_size=len(SPACE)).map(np.array)


@given(
    x=points,
    fraction=st.floats(0.4, 1.0),
    text=st.sampled_from(
        ["macs={}x", "latency={}x", "macs={}x,latency=0.6x", "params={}x,macs=0.5x"]
    ),
    fill=st.sampled_from(["none", "target", "budget"]),
)
@settings(max_examples=30, deadline=None)
def test_every_projection_holds_every_bound(x, fraction, text, fill):
    budget = Budget.parse(text.format(fraction)).absolute(DENSE)
    candidate = SPACE.project(x, budget, BOTH, fill=fill)
    assert max(budget.violations(cost(candidate), z=1.645).values()) <= 0
    assert SPACE.project(x, budget, BOTH, fill=fill) == candidate


@given(x=points)
@settings(max_examples=12, deadline=None)
def test_a_point_that_holds_is_itself(x):
    budget = Budget(macs="1x").absolute(DENSE)
    for fill in ("none", "target"):
        assert SPACE.project(x, budget, BOTH, fill=fill) == SPACE.decode(x)


@given(x=points, fraction=st.floats(0.2, 0.9))
@settings(max_examples=12, deadline=None)
def test_fill(x, fraction):
    budget = Budget(macs=f"{fraction}x").absolute(DENSE)
    target = SPACE.levels(SPACE.decode(x))
    levels = {
        fill: SPACE.levels(SPACE.project(x, budget, BOTH, fill=fill))
        for fill in ("none", "target", "budget")
    }
    assert (levels["none"] <= target).all()
    assert (levels["none"] <= levels["target"]).all()
    assert (levels["target"] <= target).all()
    for fill, limit in (("target", target), ("budget", SPACE.counts - 1)):
        for index in np.flatnonzero(levels[fill] < limit):
            row = levels[fill].copy()
            row[index] += 1  # no single step that was asked for still fits
            assert budget.violations(cost(SPACE.candidate(row)))["macs"] > 0


def test_uniform_is_scaled_by_one_factor():
    budget = Budget(macs="0.5x").absolute(DENSE)
    candidate = SPACE.project(np.ones(len(SPACE)), budget, BOTH, fill="none")
    ratios = np.array(list(candidate.values())) / PROBLEM.kernels.units
    assert np.ptp(ratios) <= 1 / 16
    assert ratios.mean() == pytest.approx(0.7, abs=0.04)  # MACs are about quadratic in width


def test_a_cost_that_falls_with_width_is_still_held():
    # The smallest candidate breaks this bound; only a wide last group holds it.
    model = Falling()
    assert model.predict(PROBLEM.kernels.workloads([SPACE.smallest]))[0].latency_ms > -40
    budget = Budget(extra={}, latency_ms=2.0)
    candidate = SPACE.project(np.full(len(SPACE), 0.1), budget, model)
    assert cost(candidate, model).latency_ms <= 2.0
    tight = Budget(latency_ms=1.0)
    found = check_feasible(SPACE, tight, model)
    assert cost(found, model).latency_ms <= 1.0


def test_impossible_budgets_say_what_is_possible():
    least = cost(SPACE.smallest)
    budget = Budget(macs=f"{least.macs / DENSE.macs / 2}x").absolute(DENSE)
    share = f"{least.macs / DENSE.macs:.3g}x"
    with pytest.raises(InfeasibleBudgetError, match=f"macs: {share} .* is the least, got"):
        check_feasible(SPACE, budget, BOTH, DENSE)
    with pytest.raises(InfeasibleBudgetError, match="is the least"):
        project(SPACE, np.ones(len(SPACE)), budget, BOTH)
    assert least_possible(SPACE, budget, BOTH) == {"macs": least.macs}


def test_bounds_that_exclude_each_other():
    class Opposed(CostModel):
        metrics = ("latency_ms", "energy_mj")

        def predict(self, workloads):
            kept = workloads.kept.sum(axis=1).astype(float)
            return Costs.exact({"latency_ms": kept, "energy_mj": 400 - kept})

    budget = Budget(latency_ms=100, energy_mj=150)
    with pytest.raises(InfeasibleBudgetError, match="alone but not all at once"):
        check_feasible(SPACE, budget, Opposed())


def test_a_feasible_budget_gives_a_candidate():
    budget = Budget(macs="0.3x").absolute(DENSE)
    assert check_feasible(SPACE, budget, BOTH, DENSE) == SPACE.smallest


def test_wrong_questions():
    x = np.ones(len(SPACE))
    with pytest.raises(BudgetError, match="must be absolute"):
        SPACE.project(x, Budget(macs="0.5x"), BOTH)
    with pytest.raises(BudgetError, match="this one predicts macs, params"):
        SPACE.project(x, Budget(energy_mj=1.0), BOTH)
    with pytest.raises(ConfigError, match="fill must be"):
        SPACE.project(x, Budget(macs=1e9), BOTH, fill="all")


def test_the_upper_bound_counts():
    budget = Budget(latency_ms="0.7x").absolute(DENSE)
    x = np.ones(len(SPACE))
    careful = SPACE.project(x, budget, BOTH, fill="budget", z=5.0)
    bold = SPACE.project(x, budget, BOTH, fill="budget", z=0.0)
    assert cost(careful).latency_ms < cost(bold).latency_ms <= budget.limits["latency_ms"].value
