from collections import deque

import pytest

from autoprune.core.errors import EvaluationError, RunError
from autoprune.evaluate import EvaluatorPool, LocalPool, Outcome
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.checkpoints import Checkpoints
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


class Killed(Exception):
    """Stands for SIGKILL: nothing of the process survives but its files."""


class SeveralAtOnce(EvaluatorPool):
    """Three at a time, the last submitted done first."""

    def __init__(self, work):
        self.work, self.line = work, deque()

    @property
    def slots(self):
        return 3

    def submit(self, ticket, candidate):
        self.line.append((ticket, candidate))

    def results(self):
        ticket, candidate = self.line.pop()
        return [(ticket, self.work(candidate))]

    def close(self):
        self.line.clear()


def make_loop(
    store, work=None, *, searcher="tpe", seed=0, pool=LocalPool, max_failures=3, checkpoints=None
):
    space = SearchSpace.from_network(PROBLEM)
    cost = ShapeCost()
    context = SearchContext(space, PROBLEM.budget(0.5), cost, seed=seed)
    work = work or (lambda c: Outcome(PROBLEM.evaluate(c)))
    options = {"hidden": 8, "updates": 1, "warmup": 5} if searcher == "amc" else {}
    return Loop(
        make_searcher(searcher, context, **options),
        cost,
        pool(work),
        store,
        objective="accuracy",
        max_failures=max_failures,
        progress=Progress(),
        phases=Phases(),
        checkpoints=checkpoints,
    )


def memory():
    return Store(None, "run", UNITS)


def test_goes_on_until_there_are_so_many_trials():
    store = memory()
    loop = make_loop(store)
    assert loop.run(5)
    assert loop.run(8)
    assert [t.number for t in loop.trials] == list(range(8))
    assert [s.trial for s in store.trials()] == loop.trials
    assert loop.best == max(loop.trials, key=lambda t: t.score())
    assert all(t.predicted.macs is not None for t in loop.trials)


def test_an_exhausted_searcher_ends_it():
    assert not make_loop(memory(), searcher="uniform").run(10_000)


@pytest.mark.parametrize("pool", [LocalPool, SeveralAtOnce])
@pytest.mark.parametrize("searcher", ["random", "greedy", "tpe", "auto", "amc"])
@pytest.mark.parametrize("killed_after", [0, 1, 11, 24])
def test_resumed_it_finishes_as_if_never_stopped(tmp_path, pool, searcher, killed_after):
    whole = make_loop(memory(), searcher=searcher, pool=pool)
    whole.run(25)
    calls = []

    def evaluate(candidate):
        if len(calls) == killed_after:
            raise Killed
        calls.append(candidate)
        return Outcome(PROBLEM.evaluate(candidate))

    path = tmp_path / "journal.log"
    with pytest.raises(Killed):
        make_loop(Store(path, "run", UNITS), evaluate, searcher=searcher, pool=pool).run(25)
    killed_after = -1
    loop = make_loop(Store(path, "run", UNITS), evaluate, searcher=searcher, pool=pool)
    loop.run(25)
    assert loop.trials == whole.trials
    assert len(calls) == 25
    assert len({c.key for c in calls}) == 25


@pytest.mark.parametrize("pool", [LocalPool, SeveralAtOnce])
@pytest.mark.parametrize("searcher", ["evolve", "amc"])
def test_what_is_stored_need_not_be_asked_for_again(tmp_path, searcher, pool):
    path = tmp_path / "journal.log"
    kept = tmp_path / "searcher.safetensors"

    def loop():
        store = Store(path, "run", UNITS)
        checkpoints = Checkpoints(kept, "accuracy", every=4)
        return make_loop(store, searcher=searcher, pool=pool, checkpoints=checkpoints)

    first = loop()
    first.run(10)
    first.run(21)
    again = loop()
    asked, told, taken = [], [], []
    suggest, update, restore = (
        getattr(again._searcher, name) for name in ("suggest", "update", "restore")
    )
    again._searcher.suggest = lambda count: asked.append(count) or suggest(count)
    again._searcher.update = lambda done, pending=(): (
        told.append(len(done)) or update(done, pending)
    )
    again._searcher.restore = lambda state, done: taken.append(len(done)) or restore(state, done)
    again.run(10)  # as a search that was corrected in between goes its way
    assert again.trials == first.trials[:10]
    assert not asked
    assert not told
    again.run(24)
    known = 20 if pool is LocalPool else 18  # the last of them was asked for after so many
    checkpoint = known // 4 * 4 if searcher == "amc" else 0
    assert taken == ([checkpoint] if checkpoint else [])
    assert told == [known - checkpoint] + [1] * (24 - known)
    whole = make_loop(memory(), searcher=searcher, pool=pool)
    whole.run(10)
    whole.run(21)
    whole.run(24)
    assert again.trials == whole.trials


def test_another_seed_does_not_go_on_with_the_stored_trials(tmp_path):
    path = tmp_path / "journal.log"
    make_loop(Store(path, "run", UNITS)).run(6)
    with pytest.raises(RunError, match="not what this search suggests"):
        make_loop(Store(path, "run", UNITS), seed=1).run(10)


def failing(number_of_failures):
    calls = []

    def work(candidate):
        calls.append(candidate)
        if len(calls) <= number_of_failures:
            return Outcome(error="evaluate raised ValueError: no data")
        return Outcome(PROBLEM.evaluate(candidate))

    return work


def test_failed_evaluations_are_trials_and_the_search_goes_on():
    loop = make_loop(memory(), failing(2))
    loop.run(6)
    assert [t.ok for t in loop.trials] == [False, False, True, True, True, True]
    assert loop.trials[0].error == "evaluate raised ValueError: no data"


def test_so_many_failures_in_a_row_stop_it_and_say_what_the_last_one_was():
    loop = make_loop(memory(), failing(3))
    with pytest.raises(EvaluationError, match=r"3 evaluations in a row.*no data.*resume"):
        loop.run(6)


def test_after_mending_it_goes_on(tmp_path):
    path = tmp_path / "journal.log"
    with pytest.raises(EvaluationError):
        make_loop(Store(path, "run", UNITS), failing(99)).run(6)
    loop = make_loop(Store(path, "run", UNITS))
    loop.run(6)
    assert [t.ok for t in loop.trials] == [False, False, False, True, True, True]


def test_a_candidate_that_comes_again_is_not_evaluated_again():
    from autoprune.searchers.base import Searcher

    class Stubborn(Searcher):
        def suggest(self, count=1):
            return [self.context.space.smallest] * count

        def update(self, completed, pending=()):
            pass

    calls = []

    def work(candidate):
        calls.append(candidate)
        return Outcome({"accuracy": 0.25})

    loop = make_loop(memory(), work, searcher=Stubborn)
    loop.run(4)
    assert len(calls) == 1
    assert [t.score() for t in loop.trials] == [0.25] * 4


def test_progress_hears_of_every_trial_and_the_best():
    heard = []

    class Listener(Progress):
        def trial(self, trial, best, done, total):
            heard.append((trial.number, best.number, done, total))

    loop = make_loop(memory())
    loop._progress = Listener()
    loop.run(4)
    assert [h[2:] for h in heard] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert heard[-1][1] == loop.best.number


def test_the_best_is_the_best_of_those_that_hold_the_budget_searched_for():
    loop = make_loop(memory())
    loop.run(6)
    loosest = loop.best
    tight = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.3), ShapeCost(), trials=12
    )
    loop.use(make_searcher("uniform", tight))
    assert loop.best is None  # all of them spend what the first budget allows
    loop.run(7)
    assert loop.best == loop.trials[6]
    assert loop.best.score() < loosest.score()


def test_many_are_asked_for_in_portions_each_evaluated_at_once():
    happened = []

    class Many(SeveralAtOnce):
        slots = 40

        def submit(self, ticket, candidate):
            happened.append("submitted")
            super().submit(ticket, candidate)

    loop = make_loop(memory(), searcher="random", pool=Many)
    suggest = loop._searcher.suggest
    loop._searcher.suggest = lambda count: happened.append(count) or suggest(count)
    loop.run(40)
    asked = [count for count in happened if count != "submitted"]
    assert asked == [16, 16, 8]
    assert happened.index("submitted") == 1
    assert len(loop.trials) == 40
