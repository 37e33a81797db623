"""One run for several budgets: they share the table, the evaluations and what is measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.core.budget import Budget
from autoprune.core.errors import ConfigError
from autoprune.study.conduct import Prepared, finish, open_session, prepare
from autoprune.study.config_files import write_yaml
from autoprune.study.families import folder_names, loosest_first, members
from autoprune.study.family_session import FamilySession
from autoprune.study.folder import SCHEMA, RunFolder
from autoprune.study.shipping import read_result

if TYPE_CHECKING:
    from autoprune.core.trial import Trial
    from autoprune.study.progress import Progress
    from autoprune.study.result import Result
    from autoprune.study.session import Session
    from autoprune.study.task import Task


def conduct_family(task: Task, folder: RunFolder | None, progress: Progress) -> Result:
    """Search for each budget in turn, the loosest first; then ship the best of all for each.

    A searcher for a tighter budget is told of every trial so far. Every trial and measurement
    counts for every budget that it holds, whichever it was made for.

    Raises:
        AutopruneError: as `autoprune.search`.
    """
    budgets = members(task.config.budget)
    if task.searcher is not None and not isinstance(task.searcher, type):
        raise ConfigError(
            "searcher must be a name or a class where there are several budgets: each has one of "
            "its own"
        )
    if task.config.trials < len(budgets):
        raise ConfigError(
            f"trials must be at least one for each of the {len(budgets)} budgets, got "
            f"{task.config.trials}"
        )
    tasks = [_alone(task, budget) for budget in budgets]
    if folder is not None and folder.family.exists():
        return _together(_read(tasks, folder, budgets))
    with prepare(tasks[0], progress) as prepared:
        session = open_session(prepared, tasks[0], folder, FamilySession)
        session.checkpoint = None  # a searcher's state is of one budget
        absolute = [Budget.parse(b).absolute(session.dense_cost) for b in budgets]
        order = loosest_first(absolute)
        for index in order:
            session.aim(Budget.parse(budgets[index]))
        dense_metrics = session.dense_metrics()
        if folder is not None:
            folder.begun = True
        session.budgets = [Budget.parse(budgets[i]) for i in order]
        trials = session.run(prepared.evaluator)
        results = []
        for index in order:
            session.aim(Budget.parse(budgets[index]))
            below = None if folder is None else _below(folder, tasks[index], budgets, index)
            results.append(_finish(prepared, tasks[index], session, trials, dense_metrics, below))
        if folder is not None:
            folder.write_json(folder.family, overview(results, budgets, order, session))
    return _together(results)


def _alone(task: Task, budget: dict[str, float | str]) -> Task:
    return replace(task, config=task.config.model_copy(update={"budget": budget}))


def _below(
    folder: RunFolder, task: Task, budgets: list[dict[str, float | str]], index: int
) -> RunFolder:
    """The folder of one budget, made when its result is ready to be written."""
    below = RunFolder(folder.path / folder_names(budgets)[index])
    below.path.mkdir(parents=True, exist_ok=True)
    config = task.config.model_copy(update={"out": str(below.path)})
    below.write(below.config, write_yaml(config))
    if folder.table.exists() and not below.table.exists():
        shutil.copyfile(folder.table, below.table)
    return below


def _finish(
    prepared: Prepared,
    task: Task,
    session: Session,
    trials: list[Trial],
    dense_metrics: dict[str, float],
    below: RunFolder | None,
) -> Result:
    """A budget's result; what was finished before a kill is only read."""
    if below is not None and below.result.exists():
        return replace(read_result(task, below, below.path.parent), trials=tuple(trials))
    prepared.progress.message(f"budget {session.budget}")
    return finish(prepared, task, session, trials, dense_metrics, below)


def overview(
    results: list[Result],
    budgets: list[dict[str, float | str]],
    order: list[int],
    session: Session,
) -> dict[str, Any]:
    """The content of `family.json`."""
    names = folder_names(budgets)
    return {
        "schema": SCHEMA,
        "held": all(result.held for result in results),
        "objective": session.config.objective,
        "dense": results[0].data["dense"],
        "members": [
            {
                "folder": names[index],
                "budget": result.data["budget"],
                "held": result.held,
                "winner": {k: v for k, v in result.data["winner"].items() if k != "kept"},
            }
            for index, result in zip(order, results, strict=True)
        ],
        "trials": results[-1].data["trials"],
        "verified": results[-1].data["verified"],
        "seed": session.config.seed,
        "device": results[0].data["device"],
        "seconds": results[-1].data["seconds"],
    }


def _read(
    tasks: list[Task], folder: RunFolder, budgets: list[dict[str, float | str]]
) -> list[Result]:
    """The results of a finished family, as they were written."""
    found = []
    names = folder_names(budgets)
    for member in folder.read_json(folder.family)["members"]:
        index = names.index(member["folder"])
        below = RunFolder(folder.path / member["folder"])
        found.append(read_result(tasks[index], below, folder.path))
    return found


def _together(results: list[Result]) -> Result:
    """The result of the tightest budget that holds, with all of them."""
    holding = [result for result in results if result.held]
    return replace((holding or results)[-1], family=tuple(results))
