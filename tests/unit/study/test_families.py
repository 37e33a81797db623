"""Several budgets: how they are written, ordered and named."""

import pytest

from autoprune.core.budget import Budget
from autoprune.core.errors import BudgetError, ConfigError
from autoprune.study.config import budget_settings, validate
from autoprune.study.families import (
    family_settings,
    folder_names,
    is_family,
    loosest_first,
    members,
)


def test_lists_are_taken_side_by_side_and_the_rest_holds_for_all():
    found = members({"latency": ["0.9x", "0.5x"], "memory": ["0.8x", 4096], "params": "60%"})
    assert found == [
        {"latency_ms": "0.9x", "params": "0.6x", "memory_bytes": "0.8x"},
        {"latency_ms": "0.5x", "params": "0.6x", "memory_bytes": 4096.0},
    ]
    assert folder_names(found) == ["latency-0.9x_memory-0.8x", "latency-0.5x_memory-4096"]


def test_settings_of_a_family_can_be_read_again():
    given = {"latency": ("0.9x", "2.5ms"), "macs": "0.5x"}
    settings = family_settings(given)
    assert settings == {"latency_ms": ["0.9x", 2.5], "macs": "0.5x"}
    assert members(settings) == members(given)
    assert is_family(given)
    assert not is_family({"macs": "0.5x"})


def test_a_family_may_be_text():
    text = "latency=[0.9x, 2.5ms],macs=0.5x"
    assert budget_settings(text) == {"latency_ms": ["0.9x", 2.5], "macs": "0.5x"}
    listed = {"latency": ["0.9x", "2.5ms"], "macs": "0.5x"}
    assert members(validate({"budget": text}, "test").budget) == members(listed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency=[0.9x,0.5x", "got 'latency=\\[0.9x'"),
        ("latency=0.9x,0.5x]", "got '0.5x\\]'"),
        ("[0.9x,0.5x]", r"name=\[bound,bound\]"),
        ("latency=a[0.9x,0.5x]", r"name=\[bound,bound\]"),
        ("macs=[0.9x,0.5x],macs=0.5x", "twice"),
        ("latency=[0.9x]", "two or more"),
        ("latency=[]", "latency has 0"),
        ("latency=[0.9x,]", "must be a number"),
    ],
)
def test_a_family_of_text_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(BudgetError, match=said):
        budget_settings(text)
    with pytest.raises(ConfigError, match=said):
        validate({"budget": text}, "test")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"latency": ["0.9x"]}, "two or more"),
        ({"latency": []}, "two or more"),
        ({"latency": ["0.9x", "0.5x"], "macs": ["0.9x", "0.8x", "0.7x"]}, "macs has 3"),
        ({"latency": ["0.5x", 0.4, "50%"]}, "twice"),
        ({"latency": ["0.5x", "fast"]}, "fast"),
    ],
)
def test_a_family_that_makes_no_sense_is_refused(budget, said):
    with pytest.raises(BudgetError, match=said):
        members(budget)
    with pytest.raises(ConfigError, match=said):
        validate({"budget": budget}, "test")


def test_the_loosest_comes_first_whatever_was_written():
    budgets = [Budget(macs=5.0, params=3.0), Budget(macs=9.0, params=9.0), Budget(macs=1, params=1)]
    assert loosest_first(budgets) == [1, 0, 2]


def test_objectives_bring_their_objective_and_a_budget_that_all_hold():
    config = validate({"objectives": ["top1", "latency"]}, "test")
    assert config.objective == "top1"
    assert config.budget == {"macs": "1x"}
    assert validate(config.model_dump(), "again") == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objectives": ["accuracy", "macs"], "objective": "top1"}, "first of the objectives"),
        ({"objectives": ["accuracy"]}, "two or more"),
        ({"objectives": "accuracy,macs"}, "must be a list"),
        ({"objectives": ["accuracy", "macs"], "budget": {"macs": ["0.9x", "0.5x"]}}, "single one"),
        ({"objectives": ["accuracy", "macs"], "front": {"points": 1}}, "front.points"),
        ({}, "budget"),
    ],
)
def test_settings_that_contradict_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        validate(settings, "test")
