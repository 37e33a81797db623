"""What every searcher must do; run these checks on your own.

>>> from autoprune.testing.searchers import check_searcher
>>> check_searcher(lambda context: MySearcher(context))  # doctest: +SKIP
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.trial import Trial
from autoprune.cost.base import CostModel
from autoprune.searchers.base import SearchContext, Searcher, SearcherState
from autoprune.space.space import SearchSpace
from autoprune.testing.errors import ContractError as ContractError
from autoprune.testing.problems import ShapeCost, StaircaseCost, SyntheticProblem

#: Makes the searcher under test.
Factory = Callable[[SearchContext], Searcher]


def make_context(
    problem: SyntheticProblem,
    *,
    budget: Budget | None = None,
    cost_model: CostModel | None = None,
    space: SearchSpace | None = None,
    trials: int | None = None,
    seed: int = 0,
) -> SearchContext:
    """A context for a made-up problem: half the MACs of the dense network by default."""
    return SearchContext(
        space=space or SearchSpace.from_network(problem),
        budget=budget or problem.budget(0.5),
        cost_model=cost_model or ShapeCost(),
        trials=trials,
        seed=seed,
    )


def make_trial(
    problem: SyntheticProblem, context: SearchContext, number: int, candidate: Candidate
) -> Trial:
    """Evaluate a candidate on a made-up problem."""
    predicted = context.cost_model.predict(problem.kernels.workloads([candidate]))[0]
    return Trial(number, candidate, predicted, metrics=problem.evaluate(candidate))


def run_search(
    factory: Factory, problem: SyntheticProblem, context: SearchContext, *, batch: int = 1
) -> list[Trial]:
    """Search a made-up problem until `context.trials` are done or nothing is left to try."""
    searcher = factory(context)
    trials: list[Trial] = []
    total = context.trials or 100
    while len(trials) < total:
        suggested = searcher.suggest(min(batch, total - len(trials)))
        if not suggested:
            break
        done = [
            make_trial(problem, context, len(trials) + i, candidate)
            for i, candidate in enumerate(suggested)
        ]
        searcher.update(done)
        trials += done
    return trials


def best_so_far(trials: Sequence[Trial], objective: str = "accuracy") -> list[float]:
    """The best score up to each trial."""
    best: list[float] = []
    for trial in trials:
        best.append(max(trial.score(objective), best[-1] if best else float("-inf")))
    return best


def check_holds_budget(factory: Factory, trials: int = 24) -> None:
    """Every suggestion holds every bound by the cost model's upper bound, exact or not."""
    problem = SyntheticProblem.resnet(blocks=2, trunk=True)
    dense = StaircaseCost().predict(problem.kernels.workloads([problem.kernels.dense]))[0]
    cases: list[tuple[Budget, CostModel]] = [
        (problem.budget(0.4), ShapeCost()),
        (Budget(latency_ms="0.6x").absolute(dense), StaircaseCost()),
    ]
    for budget, model in cases:
        context = make_context(problem, budget=budget, cost_model=model, trials=trials)
        for trial in run_search(factory, problem, context, batch=3):
            broken = {m: v for m, v in budget.violations(trial.predicted, z=1.645).items() if v > 0}
            _require(not broken, f"suggestion {trial.number} breaks the budget {budget}: {broken}")


def check_never_repeats(factory: Factory, trials: int = 40) -> None:
    """No candidate is suggested twice, whether or not its trial is back yet."""
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem, trials=trials)
    searcher = factory(context)
    first = searcher.suggest(8)
    _require(len(first) > 0, "a searcher must suggest something before its first update")
    _require(len(first) <= 8, f"suggest(8) must give 8 candidates at most, got {len(first)}")
    searcher.update([], pending=first)
    second = searcher.suggest(8)
    _require(len(set(first + second)) == len(first + second), "a pending candidate came again")
    done = [make_trial(problem, context, i, c) for i, c in enumerate(first + second)]
    searcher.update(done)
    seen = set(first + second)
    while len(seen) < trials:
        new = searcher.suggest(1)
        if not new:
            break
        _require(new[0] not in seen, "a candidate was suggested twice")
        seen.add(new[0])
        searcher.update([make_trial(problem, context, len(seen), new[0])])


def check_respects_others(factory: Factory) -> None:
    """Trials and pending candidates of other searchers are taken, and not suggested again."""
    problem = SyntheticProblem.resnet(blocks=1)
    context = make_context(problem, trials=20)
    theirs = run_search(factory, problem, context)[:6]
    searcher = factory(context)
    searcher.update(theirs[:4], pending=[trial.candidate for trial in theirs[4:]])
    dense = make_trial(problem, context, 99, problem.kernels.dense)
    searcher.update([dense])
    known = {trial.candidate for trial in theirs} | {dense.candidate}
    for candidate in searcher.suggest(8):
        _require(candidate not in known, "a candidate that another searcher tried came again")


def check_reproducible(factory: Factory, trials: int = 30) -> None:
    """The same context and calls give the same suggestions; another seed may not."""
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem, trials=trials, seed=3)
    for batch in (1, 4):
        runs = [run_search(factory, problem, context, batch=batch) for _ in range(2)]
        one, two = ([trial.candidate for trial in run] for run in runs)
        _require(one == two, f"the same seed and calls gave other suggestions (batch of {batch})")


def check_survives_failures(factory: Factory, trials: int = 24) -> None:
    """Failed trials, all of them at first, are no reason to stop or to raise."""
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem, trials=trials)
    searcher = factory(context)
    for number in range(trials):
        suggested = searcher.suggest(1)
        _require(bool(suggested), f"nothing was suggested after {number} trials, some failed")
        trial = make_trial(problem, context, number, suggested[0])
        if number < 5 or number % 3 == 0:
            trial = dataclasses.replace(trial, metrics={}, error="evaluate raised ValueError")
        searcher.update([trial])


def check_exhausts(factory: Factory) -> None:
    """In a space of a few candidates it stops with [], having suggested each once at most."""
    problem = SyntheticProblem.resnet(blocks=1)
    space = SearchSpace.from_network(problem, choices=(0.5, 1.0))
    context = make_context(problem, space=space, budget=problem.budget(0.8), trials=50)
    searcher = factory(context)
    seen: list[Candidate] = []
    for _ in range(space.size + 1):
        suggested = searcher.suggest(2)
        if not suggested:
            break
        seen += suggested
        searcher.update([make_trial(problem, context, len(seen), c) for c in suggested])
    else:
        raise ContractError("suggest must give [] when nothing is left to try")
    _require(len(set(seen)) == len(seen), "a candidate was suggested twice")
    _require(searcher.suggest(1) == [], "an exhausted searcher must stay exhausted")


def check_resumes(factory: Factory, trials: int = 33) -> None:
    """One that need not be asked again goes on as before when it is told of everything at once.

    Trials are told out of order, some are pending. Where the searcher gives a state, a new one
    that takes it half of the way goes on as before too.
    """
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem, trials=trials, seed=1)
    searcher = factory(context)
    if searcher.replays:
        return  # a resumed run asks it everything again
    pending: list[Candidate] = []
    done: list[Trial] = []
    states: dict[int, SearcherState] = {}
    number: dict[Candidate, int] = {}
    while len(done) < trials:
        for candidate in searcher.suggest(3 - len(pending)) if len(pending) < 3 else []:
            number[candidate] = len(number)
            pending.append(candidate)
        if len(done) in (2, trials // 2, trials - 1):
            _goes_on(factory, context, searcher, done, pending, states)
        if not pending:
            break
        candidate = pending.pop(len(done) * 7 % len(pending))
        done.append(make_trial(problem, context, number[candidate], candidate))
        searcher.update(done[-1:], pending)
        state = searcher.state()
        if state is not None and len(done) == trials // 3:
            states[len(done)] = state


def _goes_on(
    factory: Factory,
    context: SearchContext,
    searcher: Searcher,
    done: Sequence[Trial],
    pending: Sequence[Candidate],
    states: Mapping[int, SearcherState],
) -> None:
    """Compare what comes next with what new searchers suggest that are told of all before."""
    expected = copy.deepcopy(searcher).suggest(2)
    for begun in (0, *(count for count in states if count <= len(done))):
        other = factory(context)
        if begun:
            other.restore(states[begun], done[:begun])
        other.update(done[begun:], pending)
        _require(
            other.suggest(2) == expected,
            f"told of {len(done) - begun} trials at once it did not go on as one that suggested "
            "them; set `replays` to True, or draw each suggestion's random numbers anew",
        )


#: Every check, by name.
CHECKS: dict[str, Callable[[Factory], None]] = {
    "holds_budget": check_holds_budget,
    "never_repeats": check_never_repeats,
    "respects_others": check_respects_others,
    "reproducible": check_reproducible,
    "survives_failures": check_survives_failures,
    "exhausts": check_exhausts,
    "resumes": check_resumes,
}


def check_searcher(factory: Factory) -> None:
    """Run every check.

    Args:
        factory: makes a searcher of a `SearchContext`; the class itself will do.

    Raises:
        ContractError: the first check that fails, with what was wrong.
    """
    for check in CHECKS.values():
        check(factory)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)
