"""Any Optuna sampler by one bridge: by name, by class, by instance."""

import sys

import optuna
import pytest

from autoprune.core.errors import ConfigError
from autoprune.searchers.optuna_bridge import OptunaSearcher
from autoprune.searchers.registry import make_searcher
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context, run_search

PROBLEM = SyntheticProblem.resnet(blocks=1)


def candidates(**options):
    context = make_context(PROBLEM, trials=24)
    trials = run_search(lambda c: OptunaSearcher(c, **options), PROBLEM, context)
    return [trial.candidate for trial in trials]


def test_an_instance_is_used_and_its_seed_is_its_own():
    first, again, other = (
        candidates(sampler=optuna.samplers.RandomSampler(seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first[8:] != other[8:]
    with pytest.raises(ConfigError, match="options must be left out"):
        candidates(sampler=optuna.samplers.RandomSampler(), options={"seed": 1})


def test_a_sampler_may_stand_in_for_a_searcher():
    sampler = optuna.samplers.NSGAIISampler(seed=1, population_size=6)
    searcher = make_searcher(sampler, make_context(PROBLEM, trials=24))
    assert isinstance(searcher, OptunaSearcher)
    assert searcher._sampler is sampler
    assert searcher.suggest(2)


def test_a_class_by_reference():
    assert len(candidates(sampler="optuna.samplers:RandomSampler", options={"seed": 3})) == 24
    with pytest.raises(ConfigError, match=r"subclass of optuna.samplers.BaseSampler"):
        candidates(sampler="collections:OrderedDict")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match="needs a package that is not installed"):
        candidates(sampler="cmaes")


@pytest.mark.parametrize("sampler", ["nsga2", "qmc"])
def test_history_stays_bounded(sampler):
    problem = SyntheticProblem.resnet(blocks=3)
    context = make_context(problem, trials=230)
    searcher = OptunaSearcher(context, sampler, history=50)
    trials = run_search(lambda c: searcher, problem, context)
    assert len({trial.candidate for trial in trials}) == 230
    assert len(searcher._study.study.get_trials(deepcopy=False)) < 200


def test_generations_come_of_what_was_evaluated():
    context = make_context(PROBLEM, trials=40)
    searcher = OptunaSearcher(context, "nsga2", {"population_size": 6})
    run_search(lambda c: searcher, PROBLEM, context)
    done = searcher._study.study.get_trials(False, (optuna.trial.TrialState.COMPLETE,))
    generations = [t.system_attrs["NSGAIISampler:generation"] for t in done]
    assert max(generations) >= 3


def test_gaussian_process_proposes():
    context = make_context(PROBLEM, trials=6)
    trials = run_search(lambda c: make_searcher("gp", c, startup=4), PROBLEM, context)
    assert len({trial.candidate for trial in trials}) == 6
