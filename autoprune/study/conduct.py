"""From a task to its result: trace, table, search, finish, write down."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from autoprune.core.cost import Cost
from autoprune.core.device import DeviceSpec
from autoprune.core.errors import AutopruneError, ConfigError, ProfilerError, SearchError
from autoprune.core.trial import Trial
from autoprune.cost.analytic import AnalyticCost
from autoprune.cost.base import Combined, CostModel
from autoprune.graph import trace
from autoprune.space.space import SearchSpace
from autoprune.study.calibration import for_search, importance_of
from autoprune.study.device import DeviceMeasure
from autoprune.study.evaluation import CandidateEvaluator, Phases
from autoprune.study.finish import Finisher, Shipped
from autoprune.study.folder import RunFolder
from autoprune.study.progress import Progress
from autoprune.study.remote import check_workers
from autoprune.study.result import Result, result_data
from autoprune.study.session import Session
from autoprune.study.store import Store
from autoprune.study.table import (
    bounds_latency,
    check_metrics,
    make_profiler,
    prepare_table,
    table_edges,
)
from autoprune.study.verify import holds

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.study.task import Task

#: Packages whose versions a result tells.
_PACKAGES = ("autoprune", "torch", "numpy", "optuna", "stable-baselines3", "onnx", "onnxruntime")


def conduct(task: Task, folder: RunFolder | None, progress: Progress) -> Result:
    """Do all of a task; in a locked folder, what is there already is not done again."""
    start = time.perf_counter()
    if folder is not None and folder.result.exists():
        return read_result(task, folder)
    config = task.config
    check_batches(task)
    check_searcher(task)
    check_workers(task)
    check_metrics(task)
    progress.begin(config.objective)
    phases = Phases()
    notes: list[str] = []
    progress.stage("tracing the network")
    with phases("trace"):
        network = trace(task.model, task.example_inputs)
    if not network.groups:
        raise ConfigError(
            "the network has no channel group that may be pruned; see `autoprune inspect` for why"
        )
    with phases("calibrate"):
        evaluator = CandidateEvaluator(
            network,
            task.evaluate,
            objective=config.objective,
            importance=importance_of(task),
            calibration=for_search(task.calibration),
            reconstruct=config.reconstruct,
        )
    if not task.calibration:
        notes.append(
            "no calibration batches: BatchNorm statistics and consuming layers stay as they were"
        )
    device = _device(task, network, evaluator, notes)
    with phases("table"):
        table = prepare_table(task, network, device, folder, progress)
    models: list[CostModel] = [AnalyticCost(), *([table] if table is not None else [])]
    store = Store(*_storage(task, folder), _units(network))
    session = Session(
        task,
        network,
        store,
        cost_model=Combined(*models),
        space=_space(task, network, table),
        device=device,
        reference_ms=getattr(table, "reference_ms", None),
        progress=progress,
        phases=phases,
        checkpoint=None if folder is None else folder.checkpoint,
    )
    dense_metrics = session.dense_metrics()
    trials = session.run(evaluator)
    finisher = Finisher(
        evaluator,
        task.evaluate,
        objective=config.objective,
        calibration=task.calibration if config.reconstruct else None,
        train=task.train,
        recover=config.recover,
        loss=task.loss,
        seed=config.seed,
        checkpoints=None if folder is None else folder.recovery,
        device=device,
        reference_ms=session.reference_ms,
        limits=session.limits,
        progress=progress,
        phases=phases,
    )
    shipped = _ship(session, finisher, trials)
    note = getattr(shipped.model, "autoprune_note", "")
    if note:
        notes.append(str(note))
    seconds = {name: round(value, 3) for name, value in phases.seconds.items()}
    about: dict[str, Any] = {
        "table": _table_error(session),
        "seconds": {**seconds, "total": round(time.perf_counter() - start, 3)},
        "seed": config.seed,
        "searcher": config.searcher.model_dump(),
        "device": _device_data(device),
        "versions": versions(),
        "notes": notes,
    }
    result = _result(task, session, shipped, trials, dense_metrics, about, folder)
    if folder is not None:
        _write(result, shipped, network, folder)
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

    named = task.config.searcher
    target = task.searcher
    if target is None:
        target = resolve(named.name, registry.GROUP, registry.BUILTIN, what="searcher")
    if isinstance(target, type):
        registry.check_options(target, named.options)


def _device(
    task: Task, network: Network, evaluator: CandidateEvaluator, notes: list[str]
) -> DeviceMeasure | None:
    """The device, where one is given and there; it must be there for a budget on latency."""
    config = task.config
    if task.profiler is None and config.device is None:
        return None
    try:
        profiler = task.profiler or make_profiler(config)
        # A device far away is reached here, not when the search is over.
        spec = profiler.device
    except AutopruneError as error:
        if bounds_latency(config.budget):
            raise
        notes.append(f"nothing was measured: {error}")
        return None
    if not isinstance(spec, DeviceSpec):
        raise ProfilerError(
            f"`device` of the profiler {type(profiler).__name__} must be a DeviceSpec, got {spec!r}"
        )
    return DeviceMeasure(network, profiler, evaluator.select, config.verify, config.seed)


def _storage(task: Task, folder: RunFolder | None) -> tuple[Any, str]:
    run = task.config.run
    name = run.study if run is not None else "autoprune"
    if task.config.storage is not None:
        if run is None:
            raise ConfigError("storage needs a run folder to resume from; give one by `out`")
        return task.config.storage, name
    return (None if folder is None else folder.journal), name


def _units(network: Network) -> dict[str, int]:
    return {group.name: group.units for group in network.groups}


def _space(task: Task, network: Network, table: CostModel | None) -> SearchSpace:
    if task.space is not None:
        return task.space
    edges = table_edges(table, network)
    if task.config.space is None:
        return SearchSpace.from_network(network, edges=edges)
    from autoprune.space.schema import load_space

    beside = task.base / task.config.space
    return load_space(beside if beside.is_file() else task.config.space).build(network, edges)


def _ship(session: Session, finisher: Finisher, trials: list[Trial]) -> Shipped:
    """The best of the winners that hold as they are exported; else the one that comes nearest."""
    top = session.winners()[: session.config.verify.top]
    built = [finisher.build(trial) for trial in top]
    holding = [shipped for shipped in built if holds(violations(session, shipped))]
    if holding:
        objective = session.config.objective
        return finisher.recover(max(holding, key=lambda shipped: shipped.metrics[objective]))
    if not built:
        nearest = session.nearest()
        if nearest is None:
            errors = [t.error for t in trials if t.error]
            raise SearchError(
                f"no evaluation gave a figure in {len(trials)} trials"
                + (f"; the last: {errors[-1]}" if errors else "")
                + ". Mend it and search anew, in another folder"
            )
        built.append(finisher.build(nearest))
    best = min(built, key=lambda s: max(0.0, *violations(session, s).values()))
    return finisher.recover(best)


def violations(session: Session, shipped: Shipped) -> dict[str, float]:
    """By how much what is shipped breaks each bound; above 0 is broken."""
    if shipped.verification is not None:
        return shipped.verification.violations(session.limits, shipped.trial.predicted)
    return session.limits.violations(shipped.trial.predicted)


def _result(
    task: Task,
    session: Session,
    shipped: Shipped,
    trials: Sequence[Trial],
    dense_metrics: Mapping[str, float],
    about: Mapping[str, Any],
    folder: RunFolder | None,
) -> Result:
    trial, verification = shipped.trial, shipped.verification
    units = _units(session.network)
    broken = violations(session, shipped)
    result = Result(
        model=shipped.model,
        candidate=trial.candidate,
        held=holds(broken),
        cost=trial.predicted if verification is None else verification.cost(trial.predicted),
        predicted=trial.predicted,
        dense_cost=_dense_cost(session, shipped),
        metrics=shipped.metrics,
        metrics_before_recovery=shipped.built_metrics,
        dense_metrics=dense_metrics,
        budget=session.budget,
        limits=session.limits,
        violations=broken,
        objective=session.config.objective,
        example_inputs=task.example_inputs,
        kept={name: (trial.candidate[name], units[name]) for name in trial.candidate},
        verification=verification,
        dense_verification=shipped.dense_verification,
        trials=tuple(trials),
        folder=None if folder is None else folder.path,
    )
    verified = {
        str(number): {
            "held": holds(session.broken(measured)),
            "cost": found.cost(measured.predicted).to_dict(),
        }
        for number, found in session.verified.items()
        for measured in [session.trial(number)]
    }
    data = result_data(result, trial.number, {"verified": verified, **about})
    return replace(result, data=data)


def _dense_cost(session: Session, shipped: Shipped) -> Cost:
    known: Cost = session.dense_cost
    if shipped.dense_verification is None or "latency_ms" in known.estimates:
        return known
    return shipped.dense_verification.cost(known)


def _table_error(session: Session) -> dict[str, Any] | None:
    """How far the table was off on what was verified, each predicted before it was measured."""
    if not session.errors:
        return None
    off = [abs(predicted / measured - 1.0) for predicted, measured in session.errors]
    return {"verified": len(off), "median_error": median(off), "worst_error": max(off)}


def _device_data(device: DeviceMeasure | None) -> dict[str, Any] | None:
    if device is None:
        return None
    from dataclasses import asdict

    return {**asdict(device.spec), "text": str(device.spec)}


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _write(result: Result, shipped: Shipped, network: Network, folder: RunFolder) -> None:
    """The network's files first, `result.json` last: it says that the run is finished."""
    from autoprune.pruning.plan import save

    save(result.model, folder.path)
    if shipped.onnx is not None and shipped.dense_onnx is not None:
        folder.write(folder.onnx, shipped.onnx)
        folder.write(folder.dense_onnx, shipped.dense_onnx)
    else:
        result.export(folder.onnx)
    folder.write_result(result.data)
    shutil.rmtree(folder.recovery, ignore_errors=True)


def read_result(task: Task, folder: RunFolder) -> Result:
    """The result of a finished run, its network loaded from the folder."""
    from autoprune.pruning.plan import load
    from autoprune.study.reading import result_of

    data = folder.read_result()
    model = load(folder.path, task.model)
    store = Store(*_storage(task, folder), {n: k["of"] for n, k in data["winner"]["kept"].items()})
    trials = [stored.trial for stored in store.trials()]
    return result_of(data, model, task.example_inputs, trials, folder.path)
