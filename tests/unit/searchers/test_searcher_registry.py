import importlib.metadata
import sys

import pytest

from autoprune.core.errors import ConfigError, InfeasibleBudgetError, PluginError
from autoprune.core.plugins import resolve
from autoprune.searchers import Searcher, make_searcher, names
from autoprune.searchers.random import RandomSearcher
from autoprune.searchers.registry import BUILTIN, GROUP, check_options
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context

PROBLEM = SyntheticProblem.resnet(blocks=1)
CONTEXT = make_context(PROBLEM, trials=10)


class Mine(Searcher):
    def suggest(self, count=1):
        return [self.context.space.smallest]

    def update(self, completed, pending=()):
        pass


def test_names():
    assert {"amc", "evolve", "random", "tpe", "uniform"} <= set(names())


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in(name):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    searcher = make_searcher(name, CONTEXT)
    assert isinstance(searcher, Searcher)
    assert searcher.context is CONTEXT


def test_classes_instances_and_references(monkeypatch):
    assert isinstance(make_searcher(Mine, CONTEXT), Mine)
    mine = Mine(CONTEXT)
    assert make_searcher(mine, CONTEXT) is mine
    monkeypatch.setitem(sys.modules, "my_searchers", sys.modules[__name__])
    assert isinstance(make_searcher("my_searchers:Mine", CONTEXT), Mine)
    assert make_searcher(RandomSearcher, CONTEXT, block=3).block == 3


def test_installed_searchers(monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "my_searchers:Mine", "autoprune.searchers")
    monkeypatch.setitem(sys.modules, "my_searchers", sys.modules[__name__])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert "mine" in names()
    assert isinstance(make_searcher("mine", CONTEXT), Mine)
    clash = importlib.metadata.EntryPoint("tpe", "my_searchers:Mine", "autoprune.searchers")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [clash])
    with pytest.raises(PluginError, match=r"'tpe' of autoprune.searchers stands for both"):
        make_searcher("tpe", CONTEXT)


def test_unknown_names_and_options():
    with pytest.raises(PluginError, match=r"one of amc, auto.*got 'tpee'. Did you mean 'tpe'"):
        make_searcher("tpee", CONTEXT)
    with pytest.raises(ConfigError, match=r"RandomSearcher has no option 'blok'; it has block"):
        make_searcher("random", CONTEXT, blok=3)
    with pytest.raises(PluginError, match=r"must be a subclass of autoprune.Searcher"):
        make_searcher("autoprune.core.budget:Budget", CONTEXT)
    with pytest.raises(ConfigError, match="given to the searcher's constructor"):
        make_searcher(Mine(CONTEXT), CONTEXT, block=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("random", {"block": 0}, "block must be at least 1, got 0"),
        ("tpe", {"startup": 0}, "startup must be at least 1, got 0"),
        ("tpe", {"explore": 0}, "explore must be at least 1, got 0"),
        ("evolve", {"parents": 0}, "parents must be at least 1, got 0"),
        ("evolve", {"explore": -1.0}, "explore must be at least 0, got -1.0"),
        ("exact", {"probes": 0}, "probes must be at least 1, got 0"),
        ("exact", {"sensitivity": {"nowhere": [1.0]}}, "groups that the search chooses for"),
        ("exact", {"sensitivity": {"layer1.0.conv1": [1.0]}}, r"16 losses, one for each"),
        ("exact", {"sensitivity": {"layer1.0.conv1": [-1.0] * 16}}, "losses of at least 0"),
        ("greedy", {"steps": 0}, "steps must be at least 1, got 0"),
        ("auto", {"exact": -1}, "exact must be at least 0, got -1"),
        ("auto", {"rounds": 0}, "rounds must be at least 1, got 0"),
        ("optuna", {"sampler": "gpp"}, "sampler must be one of tpe, gp, cmaes"),
        ("optuna", {"startup": 11}, "at most the 10 trials planned, got 11"),
        ("nsga2", {"options": {"population_size": 1}}, "refuses its options"),
        ("amc", {"warmup": 10}, "warmup must be below the 10 trials planned, got 10"),
    ],
)
def test_wrong_values(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_searcher(name, CONTEXT, **options)


@pytest.mark.parametrize("name", BUILTIN)
def test_impossible_budgets_are_refused_at_once(name):
    context = make_context(PROBLEM, budget=PROBLEM.budget(0.0001))
    with pytest.raises(InfeasibleBudgetError, match="is the least"):
        make_searcher(name, context)


@pytest.mark.parametrize("name", BUILTIN)
def test_counts_below_one(name):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    with pytest.raises(ConfigError, match="count must be at least 1, got 0"):
        make_searcher(name, CONTEXT).suggest(0)


@pytest.mark.parametrize(("name", "option"), [("amc", "warmup"), ("tpe", "startup")])
def test_a_warm_up_as_long_as_the_search_is_refused_before_it(name, option):
    searcher = resolve(name, GROUP, BUILTIN, what="searcher")
    check_options(searcher, {option: 9}, 10)
    with pytest.raises(ConfigError, match=f"{option} of searcher .* below the 10 trials planned"):
        check_options(searcher, {option: 10}, 10)
