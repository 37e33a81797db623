"""What is done with a finished run: measured again, exported again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Budget
from autoprune.core.cost import Cost
from autoprune.core.device import Artifact, Measurement, ModuleCall
from autoprune.core.errors import ConfigError, ProfilerError, RunError
from autoprune.study.config import SearchConfig, validate
from autoprune.study.config_files import read_yaml
from autoprune.study.device import verifying
from autoprune.study.folder import RunFolder
from autoprune.study.progress import Progress
from autoprune.study.quietly import measure_quietly
from autoprune.study.result import export_model, measured
from autoprune.study.table import make_profiler
from autoprune.study.task import task_from_config
from autoprune.study.verify import (
    MEASURED,
    Verification,
    holds,
    measure_network_until_decided,
)


@dataclass(frozen=True)
class Again:
    """A finished run, measured again.

    Attributes:
        held: whether the budget holds by the new measurement.
        violations: by how much each bound is broken, as a fraction.
        verification: the new measurement.
        before: the run's own, as `result.json` has it.
        limits: the budget, absolute.
        device: what was measured on.
    """

    held: bool
    violations: dict[str, float]
    verification: Verification
    before: dict[str, Any] | None
    limits: dict[str, float]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "held": self.held,
            "limits": self.limits,
            "violations": {m: v if math.isfinite(v) else None for m, v in self.violations.items()},
            "measured": measured(self.verification),
            "before": self.before,
            "device": self.device,
        }

    def lines(self) -> list[str]:
        """For people."""
        low, high = self.verification.interval_ms
        ratio = self.verification.measurement.ratio_interval
        lines = [
            f"device: {self.device}",
            f"measured now: {self.verification.latency_ms:.4g} ms ({low:.4g} to {high:.4g}), "
            f"{ratio[0]:.3f} to {ratio[1]:.3f} of the dense network's",
        ]
        if self.before is not None and self.before["error"] is None:
            low, high = self.before["interval_ms"]
            lines.append(
                f"in the run: {self.before['latency_ms']:.4g} ms ({low:.4g} to {high:.4g})"
            )
        found = self.verification.measurement
        energy = self.verification.energy_interval_mj
        if energy is not None:
            lines.append(
                f"energy, {found.energy_source} now: {found.energy_mj:.4g} mJ ({energy[0]:.4g} to "
                f"{energy[1]:.4g})"
            )
        lines += [f"measuring: {note}" for note in found.told]
        for metric, over in self.violations.items():
            word, side = ("held", "below") if over <= 0 else ("not held", "above")
            # What is measured is held to its upper end.
            end = ("at least " if over <= 0 else "up to ") if metric in MEASURED else ""
            lines.append(
                f"budget {word}: {metric} {end}{abs(over):.1%} {side} {self.limits[metric]:.6g}"
            )
        return lines


def run_config(folder: RunFolder) -> SearchConfig:
    """The settings of a run."""
    return validate(read_yaml(folder.config), str(folder.config))


def verify_run(run: Path, progress: Progress) -> Again:
    """Measure the network of a finished run against the dense one, as they were exported.

    Raises:
        RunError: no finished run is there, or it was not measured on a device.
        ProfilerError: the device can't measure now.
    """
    folder = RunFolder.open(run)
    data = folder.read_result()
    config = run_config(folder)
    if not folder.dense_onnx.is_file() or not folder.onnx.is_file():
        raise RunError(
            f"the run {folder.path} has no measured network (dense.onnx and pruned.onnx); it was "
            "searched without a device. Search with a device to measure on"
        )
    profiler = make_profiler(config)
    progress.stage("measuring again")
    artifacts = exported(folder, config)
    cost = data["dense"]["cost"]
    reference, energy = (cost.get(m, {}).get("mean") for m in ("latency_ms", "energy_mj"))

    def measure(effort: float) -> tuple[Measurement, Measurement]:
        protocol = verifying(config.verify, config.seed, effort)
        dense, pruned = measure_quietly(profiler, artifacts, protocol)
        if energy is not None and pruned.energy_ratio is not None:
            pruned = replace(pruned, energy_mj=pruned.energy_ratio * energy)
        # Whether the machine was steady is told with the dense network.
        return dense, replace(pruned, notes=tuple(dict.fromkeys((*dense.notes, *pruned.notes))))

    limits = Budget.parse(data["budget"]["limits"])
    verification, beside = measure_network_until_decided(measure, limits, reference)
    for found in (verification.measurement, beside.measurement):
        if not found.ok:
            raise ProfilerError(f"the network can't be measured: {found.error}")
    broken = verification.violations(limits, Cost.from_dict(data["winner"]["cost"]))
    return Again(
        held=holds(broken),
        violations=broken,
        verification=verification,
        before=data["winner"]["measured"],
        limits=data["budget"]["limits"],
        device=str(profiler.device),
    )


def exported(folder: RunFolder, config: SearchConfig) -> list[Artifact]:
    """A finished run's dense network and its winner, as they were exported.

    Their modules, which PyTorch measures, can be made where the config names the network.
    """
    named = config.model is not None and config.run is not None
    return [
        Artifact(
            path.stem,
            path.read_bytes(),
            drawn_inputs(path),
            path,
            call=partial(_call, folder, config, pruned=path == folder.onnx) if named else None,
        )
        for path in (folder.dense_onnx, folder.onnx)
    ]


def _call(folder: RunFolder, config: SearchConfig, *, pruned: bool) -> ModuleCall:
    from autoprune.pruning._batches import as_call
    from autoprune.pruning.plan import load

    task = task_from_config(config, Path(config.run.base if config.run else "."))
    model = load(folder.path, task.model) if pruned else task.model
    return ModuleCall(model.eval(), *as_call(task.example_inputs))


def drawn_inputs(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Inputs of the shapes and types that an ONNX file asks for."""
    import onnx

    rng = np.random.default_rng(0)
    found: dict[str, npt.NDArray[np.generic]] = {}
    for value in onnx.load(path).graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        floating = np.issubdtype(kind, np.floating)
        found[value.name] = (
            rng.standard_normal(shape).astype(kind) if floating else np.zeros(shape, kind)
        )
    return found


def export_run(run: Path, path: Path, format: str | None) -> Path:
    """Write a finished run's network to a file.

    Raises:
        RunError: no finished run is there.
        ConfigError: the format is unknown, or the run was begun from Python and can't be built
            here.
    """
    from autoprune.pruning.plan import load

    folder = RunFolder.open(run)
    folder.read_result()
    config = run_config(folder)
    if config.model is None or config.run is None:
        raise ConfigError(
            f"the run {folder.path} was begun from Python, so its network can't be built here; "
            "export it there: autoprune.load(run, model), or copy its pruned.onnx"
        )
    task = task_from_config(config, Path(config.run.base))
    return export_model(load(folder.path, task.model), task.example_inputs, path, format)
