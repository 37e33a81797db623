"""From a task to its result: trace, table, search, finish, write down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.core.device import Profiler
from autoprune.core.errors import AutopruneError, ConfigError, PluginError
from autoprune.core.trial import Trial
from autoprune.cost.analytic import AnalyticCost
from autoprune.cost.base import Combined, CostModel
from autoprune.evaluate.quiet import evaluating
from autoprune.graph import trace
from autoprune.profile.checked import device_of
from autoprune.space.space import SearchSpace
from autoprune.study.calibration import for_search, importance_of
from autoprune.study.device import DeviceMeasure
from autoprune.study.evaluation import CandidateEvaluator, Phases
from autoprune.study.families import is_family
from autoprune.study.finish import Finisher
from autoprune.study.folder import RunFolder
from autoprune.study.front import FrontSession, check_metric_objectives, check_objectives
from autoprune.study.progress import Progress
from autoprune.study.racing import Race, check_racing, race_of
from autoprune.study.remote import check_workers
from autoprune.study.result import Result
from autoprune.study.session import Session
from autoprune.study.shipping import (
    Searched,
    device_data,
    make_result,
    read_result,
    ship,
    storage_of,
    table_error,
    units_of,
    versions,
    write_result,
)
from autoprune.study.store import Store
from autoprune.study.table import check_metrics, make_profiler, prepare_table, table_edges, tells
from autoprune.study.training import check_training

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.study.task import Task

#: A kind of session.
S = TypeVar("S", bound=Session)


@dataclass
class Prepared:
    """What a search needs before its first trial.

    Attributes:
        network: traced.
        evaluator: of candidates.
        device: measures, or None.
        progress: is told.
        phases: counts seconds.
        notes: for the result.
        own_device: whether the device's profiler was made here; it is closed at the end of the
            `with` block, however that comes.
        start: when it began (`time.perf_counter`).
    """

    network: Network
    evaluator: CandidateEvaluator
    device: DeviceMeasure | None
    progress: Progress
    phases: Phases = field(default_factory=Phases)
    notes: list[str] = field(default_factory=list)
    own_device: bool = True
    start: float = field(default_factory=time.perf_counter)

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        if self.device is not None and self.own_device:
            self.device.close()


def conduct(task: Task, folder: RunFolder | None, progress: Progress) -> Result:
    """Do all of a task; in a locked folder, what is there already is not done again."""
    check_racing(task)
    if is_family(task.config.budget):
        from autoprune.study.family_run import conduct_family

        return conduct_family(task, folder, progress)
    if folder is not None and folder.result.exists():
        return read_result(task, folder)
    if task.config.study is not None:
        from autoprune.study.shared_run import conduct_shared

        return conduct_shared(task, folder, progress)
    race = race_of(task, None if folder is None else folder.racing)
    with prepare(task, progress, race) as prepared:
        kind = FrontSession if task.config.objectives else Session
        session = open_session(prepared, task, folder, kind)
        dense_metrics = session.dense_metrics()
        if folder is not None:
            folder.begun = True
        trials = session.run(prepared.evaluator)
        front = session.close() if isinstance(session, FrontSession) else None
        return finish(prepared, task, session, trials, dense_metrics, folder, front)


def prepare(task: Task, progress: Progress, race: Race | None = None) -> Prepared:
    """Check a task, trace its network and reach its device.

    Args:
        task: the search.
        progress: is told.
        race: evaluates the candidates, or None.

    Raises:
        AutopruneError: as `autoprune.search`, for all that can be told before a table is measured.
    """
    start = time.perf_counter()
    config = task.config
    check_batches(task)
    check_searcher(task)
    check_workers(task)
    check_metrics(task)
    check_objectives(task)
    progress.begin(config.objective)
    phases, notes = Phases(), list[str]()
    profiler = _profiler(task, notes)
    progress.stage("tracing the network")
    with evaluating():
        check_training(task)
    with phases("trace"), evaluating():
        network = trace(task.model, task.example_inputs)
    if not network.groups:
        raise ConfigError(
            "the network has no channel group that may be pruned; see `autoprune inspect` for why"
        )
    with phases("calibrate"), evaluating():
        evaluator = CandidateEvaluator(
            network,
            task.evaluate,
            objective=config.objective,
            importance=importance_of(task),
            calibration=for_search(task.calibration),
            reconstruct=config.reconstruct,
            race=race,
        )
    if not task.calibration:
        notes.append(
            "no calibration batches: BatchNorm statistics and consuming layers stay as they were"
        )
    device = None
    if profiler is not None:
        device = DeviceMeasure(network, profiler, evaluator.select, config.verify, config.seed)
    for note in notes:
        progress.message(note)
    own = task.profiler is None
    return Prepared(network, evaluator, device, progress, phases, notes, own, start)


def open_session(
    prepared: Prepared,
    task: Task,
    folder: RunFolder | None,
    kind: type[S],
    store: Store | None = None,
) -> S:
    """The session of a task, with its store, its latency table and its space."""
    network, device, progress = prepared.network, prepared.device, prepared.progress
    store = store or Store(*storage_of(task, folder), units_of(network))
    store.name_values(task.config.objective)
    if task.config.objectives:
        check_metric_objectives(task, network, store, progress)
    with prepared.phases("table"):
        table = prepare_table(task, network, device, folder, progress)
    models: list[CostModel] = [AnalyticCost(), *([table] if table is not None else [])]
    return kind(
        task,
        network,
        store,
        cost_model=Combined(*models),
        space=_space(task, network, table),
        device=device,
        reference_ms=getattr(table, "reference_ms", None),
        progress=progress,
        phases=prepared.phases,
        checkpoint=None if folder is None else folder.checkpoint,
    )


def finish(
    prepared: Prepared,
    task: Task,
    searched: Searched,
    trials: Sequence[Trial],
    dense_metrics: Mapping[str, float],
    folder: RunFolder | None,
    front: dict[str, Any] | None = None,
) -> Result:
    """Build, measure and write down the best of a search.

    Args:
        prepared: the network and its device.
        task: whose config says how winners are recovered.
        searched: the session.
        trials: every one.
        dense_metrics: of the dense network.
        folder: to write to, or None.
        front: the content of `pareto.json`, where a front was searched for.
    """
    config = task.config
    finisher = Finisher(
        prepared.evaluator,
        task.evaluate,
        objective=config.objective,
        calibration=task.calibration if config.reconstruct else None,
        train=task.train,
        recover=config.recover,
        loss=task.loss,
        seed=config.seed,
        checkpoints=None if folder is None else folder.recovery,
        device=prepared.device,
        reference_ms=searched.reference_ms,
        limits=searched.limits,
        progress=prepared.progress,
        phases=prepared.phases,
    )
    shipped = ship(searched, finisher, trials)
    note = getattr(shipped.model, "autoprune_note", "")
    seconds = {name: round(value, 3) for name, value in prepared.phases.seconds.items()}
    about: dict[str, Any] = {
        "table": table_error(searched),
        "seconds": {**seconds, "total": round(time.perf_counter() - prepared.start, 3)},
        "seed": config.seed,
        "searcher": config.searcher.model_dump(),
        "device": device_data(prepared.device),
        "versions": versions(),
        "notes": [*prepared.notes, *([str(note)] if note else [])],
    }
    result = make_result(task, searched, shipped, trials, dense_metrics, about, folder, front)
    if folder is not None:
        write_result(result, shipped, folder)
    return result


def check_batches(task: Task) -> None:
    """Refuse what needs batches where there are none, before anything is spent.

    Raises:
        ConfigError: says what needs them, and which.
    """
    config = task.config
    given = task.importance is None
    taylor = given and config.importance == "taylor"
    if given and config.importance == "reconstruction" and not task.calibration:
        raise ConfigError(
            "importance reconstruction needs batches of inputs: give them by `calibration`"
        )
    for needed, what in ((config.recover is not None, "recover"), (taylor, "importance taylor")):
        if needed and task.train is None:
            raise ConfigError(f"{what} needs (inputs, labels) batches: give them by `train`")


def check_searcher(task: Task) -> None:
    """Refuse a searcher that there is none of, or an option it lacks, before anything is spent.

    Raises:
        PluginError: no searcher has that name.
        ConfigError: an option that it does not have.
    """
    from autoprune.core.plugins import resolve
    from autoprune.searchers import registry
    from autoprune.searchers.base import Searcher
    from autoprune.searchers.local import before_local

    named = task.config.searcher
    target = task.searcher
    if target is None:
        target = resolve(named.name, registry.GROUP, registry.BUILTIN, what="searcher")
    if isinstance(target, type):
        if task.config.objectives and issubclass(target, Searcher):
            target = registry.for_front(target)
        config = task.config
        own = before_local(config.trials, config.local_search) if config.local_search else None
        registry.check_options(target, named.options, own or config.trials)


def _profiler(task: Task, notes: list[str]) -> Profiler | None:
    """What measures, where it is given and can; it must be there for a budget on latency."""
    config = task.config
    if task.profiler is None and config.device is None:
        return None
    try:
        profiler = task.profiler or make_profiler(config, task.calibration)
        # A device far away is reached here, not when the search is over.
        device_of(profiler)
    except AutopruneError as error:
        if tells(config) or isinstance(error, PluginError):  # no device has that name
            raise
        notes.append(f"nothing was measured: {error}")
        return None
    return profiler


def _space(task: Task, network: Network, table: CostModel | None) -> SearchSpace:
    if task.space is not None:
        return task.space
    edges = table_edges(table, network)
    if task.config.space is None:
        return SearchSpace.from_network(network, edges=edges)
    from autoprune.space.schema import load_space

    beside = task.base / task.config.space
    return load_space(beside if beside.is_file() else task.config.space).build(network, edges)
