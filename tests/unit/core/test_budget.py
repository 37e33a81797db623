import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core import Budget, Cost, Costs, Estimate, Limit
from autoprune.core.errors import BudgetError

DENSE = Cost({"latency_ms": Estimate(4.0, 0.1, "table"), "macs": Estimate(125e6)})


@pytest.mark.parametrize(
    ("text", "metric", "value", "relative"),
    [
        ("latency=2.5ms", "latency_ms", 2.5, False),
        ("latency_ms=2.5", "latency_ms", 2.5, False),
        ("latency=150us", "latency_ms", 0.15, False),
        ("latency=0.6x", "latency_ms", 0.6, True),
        ("latency=60%", "latency_ms", 0.6, True),
        ("macs=60M", "macs", 60e6, False),
        ("flops=60M", "macs", 30e6, False),
        ("flops=0.5x", "macs", 0.5, True),
        ("params=0.85M", "params", 0.85e6, False),
        ("memory=1.5MiB", "memory_bytes", 1.5 * 2**20, False),
        ("weight_bytes=2kB", "weight_bytes", 2000.0, False),
        ("energy=3mJ", "energy_mj", 3.0, False),
        ("co2=12", "co2", 12.0, False),
    ],
)
def test_parse(text: str, metric: str, value: float, relative: bool) -> None:
    limits = Budget.parse(text).limits
    assert list(limits) == [metric]
    assert limits[metric].value == pytest.approx(value)
    assert limits[metric].relative is relative


def test_parse_several_and_mapping_agree() -> None:
    assert Budget.parse("latency=0.6x, macs=60M") == Budget.parse({"latency": "0.6x", "macs": 60e6})


@pytest.mark.parametrize(
    "text",
    ["", "latency", "latency=", "latency=fast", "latency=2.5MB", "macs=-1", "macs=0", "macs=nan",
     "latency=1ms,latency_ms=2ms", "macs=1M,flops=1M"],
)  # fmt: skip
def test_what_can_not_be_read_is_refused(text: str) -> None:
    with pytest.raises(BudgetError):
        Budget.parse(text)


def test_message_names_the_units() -> None:
    with pytest.raises(BudgetError, match=r"ms.*0\.6x.*'fast'"):
        Budget.parse("latency=fast")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.5, r"must be text such as latency=0\.6x, .* got 0\.5"),
        ([("macs", "0.5x")], "must be text such as"),
        ({"macs": 0.5}, r"share of the dense network, which is written 0\.5x; got 0\.5"),
        ("params=0.6", r"written 0\.6x; got '0\.6'"),
        ("memory=0.25", r"memory_bytes must be 1 or more"),
    ],
)
def test_what_is_meant_as_a_share(budget: object, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(budget)  # type: ignore[arg-type]
    assert Budget.parse("latency=0.5").limits["latency_ms"].value == 0.5


@pytest.mark.parametrize("value", [True, math.inf, [1]])
def test_numbers_must_be_numbers(value: object) -> None:
    with pytest.raises(BudgetError):
        Budget(macs=value)  # type: ignore[arg-type]


def test_absolute_uses_the_dense_cost() -> None:
    budget = Budget.parse("latency=0.5x,macs=60M").absolute(DENSE)
    assert budget.limits == {"latency_ms": Limit(2.0), "macs": Limit(60e6)}


def test_absolute_needs_the_metric() -> None:
    with pytest.raises(BudgetError, match="energy_mj"):
        Budget.parse("energy=1mJ").absolute(DENSE)


@given(st.floats(0.01, 100), st.floats(0, 1), st.floats(0, 3))
def test_violation_is_positive_exactly_above_the_limit(mean: float, std: float, z: float) -> None:
    cost = Cost({"latency_ms": Estimate(mean, std)})
    violation = Budget(latency_ms=2.0).violations(cost, z)["latency_ms"]
    assert (violation > 1e-12) == (mean + z * std > 2.0 * (1 + 1e-12))


def test_relative_budget_has_no_violations() -> None:
    with pytest.raises(BudgetError, match="relative"):
        Budget(macs="0.5x").violations(DENSE)


def test_costs_are_a_sequence_and_merge() -> None:
    costs = Costs.exact({"macs": [1.0, 2.0]}).merged(Costs.exact({"params": [3.0, 4.0]}))
    assert len(costs) == 2
    assert costs[1].macs == 2.0
    assert costs[1].params == 4.0
    assert [c.macs for c in costs[:1]] == [1.0]
    assert Cost.from_dict(costs[0].to_dict()) == costs[0]
