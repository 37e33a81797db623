"""The latency table of a search: loaded, or measured on the device before it begins."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.budget import Budget, metric_name
from autoprune.core.data import data_folders
from autoprune.core.device import DeviceSpec, Profiler
from autoprune.core.errors import BudgetError, ConfigError, TableMismatchError
from autoprune.cost import locate
from autoprune.cost.analytic import AnalyticCost
from autoprune.cost.base import CostModel
from autoprune.cost.table import LatencyTable
from autoprune.study.config import SearchConfig
from autoprune.study.verify import MEASURED

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.folder import RunFolder
    from autoprune.study.progress import Progress
    from autoprune.study.task import Task

#: The setting `table` that stands for one of the tables that come with autoprune.
SHIPPED = "shipped"


def bounds_latency(budget: Mapping[str, float | str] | str | Budget) -> bool:
    """Whether a budget bounds what only a device can tell."""
    return any(metric in MEASURED for metric in Budget.parse(budget).limits)


def tells(config: SearchConfig) -> bool:
    """Whether a search needs to know beforehand what only a device can tell."""
    objectives = {metric_name(name) for name in config.objectives or ()}
    return bounds_latency(config.single_budget) or not objectives.isdisjoint(MEASURED)


def check_metrics(task: Task) -> None:
    """Refuse a budget on what nothing here predicts, before anything is measured.

    Raises:
        BudgetError: names the metric, and the nearest that there is.
    """
    known = [*AnalyticCost().metrics]
    if task.table is not None:
        known += task.table.metrics
    else:
        device = task.profiler is not None or task.config.device is not None
        known += ["latency_ms", "energy_mj"] if device else ["latency_ms"]
    for metric in task.config.single_budget.limits:
        if metric in known:
            continue
        near = difflib.get_close_matches(metric, [*known, "latency", "memory", "flops"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BudgetError(
            f"budget {metric} can't be predicted here{hint} (there are: {', '.join(known)}); for "
            "a metric of your own, give a cost model that predicts it by `table`"
        )


def make_profiler(config: SearchConfig, calibration: Sequence[Any] | None = None) -> Profiler:
    """The config's device.

    Args:
        config: names it.
        calibration: batches of inputs, for a device that quantises networks by itself.

    Raises:
        ConfigError: none is named, or no profiler has that name.
        ProfilerError: it can't run here.
    """
    from autoprune.profile import registry

    if config.device is None:
        raise ConfigError("a device must be named; `autoprune devices` lists them")
    name, options = config.device.name, dict(config.device.options)
    if calibration and registry.takes(name, "calibration"):
        options.setdefault("calibration", calibration)
    return registry.make_profiler(name, **options)


def prepare_table(
    task: Task,
    network: Network,
    device: DeviceMeasure | None,
    folder: RunFolder | None,
    progress: Progress,
) -> CostModel | None:
    """The cost model of latency, where the budget needs one.

    In a run folder the table is written down as it is before the search, so that a resumed run
    begins with the same.

    Raises:
        ConfigError: the budget needs a device and none is given, or there is no such table.
        TableError: the table can't be read, or is of another device or network.
    """
    if task.table is not None:
        return _energy_fixed(task.table, device)
    if not tells(task.config):
        return None
    if device is None:
        raise ConfigError(
            "a budget on latency or energy needs a device to measure on; give one by `device` "
            "(`autoprune devices` lists them)"
        )
    if folder is not None and folder.table.exists():
        kept = LatencyTable.load(folder.table, device.spec)
        return _energy_fixed(check_table(kept, network, folder.table), device)
    if task.config.table == SHIPPED:
        table = _shipped(network, device)
    elif task.config.table is not None:
        path = find_table(task.config.table, task.base)
        table = check_table(LatencyTable.load(path, device.spec), network, path)
    else:
        table = measure_table(task.config, network, device, progress, task.base)
    if wants_energy(task.config) and "energy_mj" not in table.metrics:
        raise BudgetError(
            f"budget energy_mj needs a table whose candidates' energy was measured, the one of "
            f"{table.device} has none; leave `table` out to measure one on a device that tells "
            "energy (docs/how-to/energy.md)"
        )
    if folder is not None:
        table.save(folder.table)
    return _energy_fixed(table, device)


def wants_energy(config: SearchConfig) -> bool:
    """Whether a search's budget or objectives ask for energy."""
    objectives = {metric_name(name) for name in config.objectives or ()}
    return "energy_mj" in config.single_budget.limits or "energy_mj" in objectives


def require_energy(device: DeviceMeasure) -> None:
    """Refuse a device that tells no energy, before a table is measured on it.

    Raises:
        BudgetError: says why it does not, and what to do.
    """
    why = device.no_energy()
    if why:
        raise BudgetError(
            f"a budget on energy_mj can't be held on {device.spec}: {why}. Read a meter beside it "
            "(its option meter; `autoprune devices` lists meters), use a profiler that tells "
            "energy, or state power_w, from which energy is modelled (docs/how-to/energy.md)"
        )


def _energy_fixed(table: CostModel, device: DeviceMeasure | None) -> CostModel:
    """The table, whose dense network's energy the device's measurements are told against."""
    if isinstance(table, LatencyTable) and table.reference_energy is not None and device:
        device.reference_energy_mj = table.reference_energy.mj
    return table


def measure_table(
    config: SearchConfig,
    network: Network,
    device: DeviceMeasure,
    progress: Progress,
    base: Path | None = None,
) -> LatencyTable:
    """Measure a table of the network on the device.

    Args:
        config: its `profile` section counts.
        network: traced.
        device: measures.
        progress: told of what goes on.
        base: paths of tables to reuse start here; the working directory where None.

    Raises:
        ProfilerError: the dense network can't be measured.
        TableError: too few candidates could be measured.
    """
    from autoprune.cost.build import build_table

    settings = config.profile
    progress.message(f"device: {device.spec}")
    if wants_energy(config):
        require_energy(device)
    reuse = _reused(settings.reuse, base or Path.cwd(), device.spec)
    progress.stage("measuring a latency table", settings.candidates)
    before = device.conditions()
    table = build_table(
        network.kernels,
        device.for_table,
        device.spec,
        candidates=settings.candidates,
        budget_s=settings.timeout_s,
        target_error=settings.error,
        seed=config.seed,
        on_progress=progress.step,
        info=_info(config, network, device),
        reuse=reuse,
    )
    if before:
        table.info["conditions"] = {"before": before, "after": device.conditions()}
    reused = told_reused(table)
    if reused:
        progress.message(reused)
    if settings.reuse is True:
        locate.remember(table)
    return table


def told_reused(table: LatencyTable) -> str:
    """What a table took over from others, in words; "" for nothing."""
    build = table.info.get("build") or {}
    names = build.get("reused_tables") or []
    if not names:
        return ""
    several = "s" if len(names) > 1 else ""
    return (
        f"kernel times reused of {len(names)} table{several} of this device ({', '.join(names)}): "
        f"they cover {build['reused_share']:.0%} of the network's time (profile.reuse=false "
        "measures all anew)"
    )


def _info(config: SearchConfig, network: Network, device: DeviceMeasure) -> dict[str, Any]:
    """What a table's header tells of how it was measured."""
    section = config.model_dump(mode="json", exclude_defaults=True)
    names: tuple[str, ...] = ("model", "inputs", "device")
    named = {name: section[name] for name in names if name in section}
    protocol = asdict(device.table_protocol())
    del protocol["kernels"]  # each candidate tells whether they were profiled
    return {"network": type(network.model).__name__, **named, "protocol": protocol}


def _reused(setting: bool | tuple[str, ...], base: Path, device: DeviceSpec) -> list[LatencyTable]:
    if isinstance(setting, bool):
        return locate.tables_of(device) if setting else []
    return [LatencyTable.load(find_table(name, base), device) for name in setting]


def _shipped(network: Network, device: DeviceMeasure) -> LatencyTable:
    """The table of this network and device among those that come with autoprune."""
    table = locate.find_table(None, device.spec, network.kernels)
    if table is None:
        nearest = locate.nearest_mismatch(device.spec)
        raise ConfigError(
            f"no shipped latency table is of this network on {device.spec}"
            + (f" (the nearest one: {nearest})" if nearest else "")
            + "; leave `table` out to measure one"
        )
    return table


def find_table(name: str, base: Path) -> Path:
    """A table's file: as a path from the config's folder, or among the tables that are shipped.

    Raises:
        ConfigError: there is none.
    """
    places = [base, *data_folders("latency_models")]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigError(
        f"there is no latency table {name!r} in {', '.join(str(place) for place in places)}; "
        "measure one with `autoprune profile`"
    )


def check_table(table: LatencyTable, network: Network, path: Path) -> LatencyTable:
    """Refuse a table whose ratios are to another network's dense form.

    Raises:
        TableMismatchError: says so.
    """
    own = table.layout(network.kernels).fingerprint
    if table.reference.fingerprint != own:
        raise TableMismatchError(
            f"the latency table {path} was measured relative to another network or batch size; "
            "measure one for this network with `autoprune profile`"
        )
    return table


def table_edges(table: CostModel | None, network: Network) -> Callable[[str], Sequence[int]] | None:
    """Group → the kept counts worth offering on the table's device."""
    if not isinstance(table, LatencyTable):
        return None
    measured = table

    def edges(group: str) -> Sequence[int]:
        return measured.plateau_edges(network.kernels, group)

    return edges
