import pytest

from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.searchers.base import SearchContext
from autoprune.searchers.tpe import TpeSearcher
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=3)


def make(**options):
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), seed=1
    )
    return TpeSearcher(context, explore=8, **options)


def drive(searcher, count):
    """Two at a time, told late: one is always pending."""
    cost, found, pending = ShapeCost(), [], []
    while len(found) < count:
        pending += searcher.suggest(2 - len(pending))
        candidate = pending.pop(0)
        predicted = cost.predict(PROBLEM.kernels.workloads([candidate]))[0]
        metrics = PROBLEM.evaluate(candidate)
        found.append(Trial(len(found), candidate, predicted, metrics=metrics))
        searcher.update(found[-1:], pending)
    return found


def test_what_it_looks_back_on_stays_bounded_and_holds_the_best_and_the_pending():
    searcher = make(history=50)
    found = drive(searcher, 260)
    trials = searcher._study.study.get_trials(deepcopy=False)
    assert len(trials) < 4 * 50
    assert len({trial.candidate for trial in found}) == 260
    best = max(trial.score() for trial in found)
    assert best in [trial.value for trial in trials]
    running = [trial for trial in trials if trial.state.name == "RUNNING"]
    assert len(running) == len(searcher._study._open) == 1


def test_the_same_calls_give_the_same_suggestions_past_it():
    first, again = (drive(make(history=50), 160) for _ in range(2))
    assert first == again


def test_until_it_is_reached_nothing_is_forgotten():
    assert drive(make(history=50), 50) == drive(make(history=None), 50)


def test_it_must_leave_something_to_learn_from():
    with pytest.raises(ConfigError, match="history must be at least 50"):
        make(history=10)
