"""Measuring and checking latency tables from a config alone, without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import ConfigError
from autoprune.cost.table import LatencyTable
from autoprune.profile.checked import device_of
from autoprune.study.table import make_profiler, measure_table

if TYPE_CHECKING:
    from autoprune.cost.check import TableCheck
    from autoprune.study.progress import Progress


def profile_config(
    path: Path | None, options: Mapping[str, Any], settings: Sequence[str], progress: Progress
) -> LatencyTable:
    """Measure a table of a config's network on its device.

    Raises:
        AutopruneError: the config is wrong, the network can't be traced, or the device can't
            measure.
    """
    from autoprune.graph import trace
    from autoprune.pruning.selection import selector
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.task import model_from_config

    model, inputs, config = model_from_config(path, options, settings)
    profiler = make_profiler(config)
    progress.stage("tracing the network")
    network = trace(model, inputs)
    if not network.groups:
        raise ConfigError(
            "the network has no channel group that may be pruned; see `autoprune inspect` for why"
        )
    device = DeviceMeasure(network, profiler, selector(network), config.verify, config.seed)
    base = None if path is None else path.absolute().parent
    return measure_table(config, network, device, progress, base)


def check_config(
    table_path: Path,
    path: Path | None,
    options: Mapping[str, Any],
    progress: Progress,
    *,
    samples: int,
    timeout_s: float,
    seed: int,
) -> TableCheck:
    """Measure a fresh sample of a table's network, on its device.

    Args:
        table_path: of the table; what neither the config nor the options say of network and
            device is as the table's header says.
        path: of a config, or None.
        options: `model`, `inputs`, `device`.
        progress: told of what goes on.
        samples: candidates at most.
        timeout_s: seconds it may take.
        seed: of the candidates.

    Raises:
        AutopruneError: as `profile_config`; the table can't be read, or is of another device or
            network.
    """
    from autoprune.cost.check import check_table as check
    from autoprune.graph import trace
    from autoprune.pruning.selection import selector
    from autoprune.study.device import DeviceMeasure
    from autoprune.study.task import model_from_config

    stored = LatencyTable.load(table_path).info
    names: tuple[str, ...] = ("model", "inputs", "device") if path is None else ()
    told: dict[str, Any] = {name: stored[name] for name in names if name in stored}
    model, inputs, config = model_from_config(path, {**told, **options}, ())
    profiler = make_profiler(config)
    spec = device_of(profiler)
    table = LatencyTable.load(table_path, spec)
    progress.message(f"device: {spec}")
    progress.stage("tracing the network")
    network = trace(model, inputs)
    device = DeviceMeasure(network, profiler, selector(network), config.verify, seed)
    progress.stage("measuring a fresh sample", samples)
    return check(
        table,
        network.kernels,
        device.for_table,
        samples=samples,
        timeout_s=timeout_s,
        seed=seed,
        on_progress=progress.step,
    )
