"""Pruned networks on disk: `pruned.safetensors` and a readable `plan.json`, no pickle."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor, nn

from autoprune.core.errors import AutopruneError, ConfigError
from autoprune.core.files import write_atomically
from autoprune.graph.network import Network, Selection
from autoprune.graph.trace import trace
from autoprune.pruning._inputs import zeros
from autoprune.pruning._tensors import named_tensors
from autoprune.pruning.record import Patch, PruneRecord, attach, record_of
from autoprune.pruning.surgery import from_plan

#: Version of the file format; a plan with a higher one is refused.
SCHEMA = 1
PLAN, WEIGHTS = "plan.json", "pruned.safetensors"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GroupPlan(_Part):
    """Units of a channel group in the dense network, and the ones that are kept."""

    units: int
    kept: list[NonNegativeInt]


class TensorPlan(_Part):
    """A parameter or buffer: its dense shape, and by dimension the indices that are kept."""

    shape: list[int]
    kept: dict[int, list[NonNegativeInt]] = {}


class PatchPlan(_Part):
    """An attribute of a submodule that was changed."""

    module: str
    attribute: str
    value: int | list[int]


class Plan(_Part):
    """What `plan.json` holds.

    Attributes:
        schema_version: of the format ("schema" in the file).
        autoprune: version that wrote it.
        model: class of the dense model, for the reader.
        form: "module" or "graph", see `PruneRecord`.
        note: why it is a graph.
        groups: by name.
        tensors: by name, every parameter and buffer of the dense model.
        patches: changed attributes.
        tied: name → the name under which the same tensor is stored.
        fixed: parameters that take no gradient.
        inputs: the example inputs' structure, shapes and dtypes.
    """

    schema_version: int
    autoprune: str
    model: str
    form: Literal["module", "graph"]
    note: str
    groups: dict[str, GroupPlan]
    tensors: dict[str, TensorPlan]
    patches: list[PatchPlan]
    tied: dict[str, str]
    fixed: list[str]
    inputs: dict[str, Any]


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write a pruned network to a folder, which is made where there is none.

    Args:
        model: a network that `prune` or `load` gave, trained further or not.
        folder: gets `pruned.safetensors` (every parameter and persistent buffer) and `plan.json`
            (which indices of which tensor of the dense model they are, in a form a person can
            read). Each file appears whole or not at all.

    Raises:
        SurgeryError: the model was not made by `prune`.
        ConfigError: the folder can't be written.
    """
    from safetensors.torch import save as to_bytes

    record = record_of(model)
    stored, tied, fixed = _stored(model)
    plan = Plan(
        schema_version=SCHEMA,
        autoprune=_version(),
        model=record.model,
        form="graph" if record.form == "graph" else "module",
        note=record.note,
        groups={n: GroupPlan(units=record.units[n], kept=list(k)) for n, k in record.kept.items()},
        tensors={
            name: TensorPlan(
                shape=list(shape),
                kept={d: list(i) for d, i in record.indices.get(name, {}).items()},
            )
            for name, shape in record.shapes.items()
        },
        patches=[
            PatchPlan(module=p.module, attribute=p.attribute, value=_plain(p.value))
            for p in record.patches
        ],
        tied=tied,
        fixed=fixed,
        inputs=dict(record.inputs),
    )
    write_atomically(Path(folder) / WEIGHTS, to_bytes(stored), ConfigError)
    write_atomically(Path(folder) / PLAN, _json(plan), ConfigError)


def load(
    folder: str | os.PathLike[str], model: nn.Module, *, network: Network | None = None
) -> nn.Module:
    """Read a pruned network that `save` wrote.

    Args:
        folder: holds `pruned.safetensors` and `plan.json`.
        model: an instance of the dense architecture; its weights don't matter, its mode and
            device are taken over, and it is not changed.
        network: the traced model, for a plan of form "graph"; without it the model is traced
            with zeros of the stored shapes.

    Raises:
        ConfigError: a file is missing, truncated or of a newer schema, or the model is another
            architecture (the message says which tensor differs).
    """
    path = Path(folder)
    plan = _read_plan(path / PLAN)
    tensors = _read_tensors(path / WEIGHTS)
    _same_architecture(plan, model, path)
    if plan.form == "graph" and network is None:
        args, kwargs = zeros(plan.inputs)
        device = next((t.device for _, t in named_tensors(model)), torch.device("cpu"))
        network = trace(model, _to(args, device), _to(kwargs, device))
    record = _record(plan)
    try:
        pruned = from_plan(model, record, network, _selection(plan))
    except AutopruneError as error:
        raise ConfigError(f"{path / PLAN} does not fit the model: {error}") from error
    _fill(pruned, tensors, plan, path)
    attach(pruned, record)
    return pruned


def _version() -> str:
    return importlib.metadata.version("autoprune")


def _plain(value: int | tuple[int, ...]) -> int | list[int]:
    return value if isinstance(value, int) else list(value)


def _stored(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Distinct tensors by name, names of tied ones, and parameters that take no gradient."""
    first: dict[int, str] = {}
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    fixed = []
    transient = _transient(model)
    for name, tensor in named_tensors(model):
        if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
            fixed.append(name)
        if name in transient:
            continue
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        # a copy of its own: safetensors refuses tensors that share or skip memory
        stored[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return stored, tied, fixed


def _transient(model: nn.Module) -> set[str]:
    """Names of buffers that are not saved."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }


def _json(plan: Plan) -> str:
    """Indented, but lists of numbers on one line."""
    data = plan.model_dump()
    data = {"schema": data.pop("schema_version"), **data}
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and value:
            entries = [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            text = "{\n" + ",\n".join(entries) + "\n  }"
        elif isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"    {json.dumps(v)}" for v in value) + "\n  ]"
        else:
            text = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _read_plan(path: Path) -> Plan:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} must be a plan that autoprune saved, but can't be read: {error}"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} must be JSON; it is truncated or was edited: {error}. Save the network again"
        ) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int):
        raise ConfigError(f"{path} must have an integer 'schema', got {schema!r}")
    if schema > SCHEMA:
        raise ConfigError(
            f"{path} has schema {schema}, written by autoprune {data.get('autoprune')}; this one "
            f"({_version()}) reads up to {SCHEMA}. Install the newer autoprune"
        )
    data["schema_version"] = data.pop("schema")
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path} is no valid plan: {where}: {first['msg']}. Save the network again"
        ) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise ConfigError(f"{path} must hold the pruned weights, but: {error}") from error
    except SafetensorError as error:
        raise ConfigError(
            f"{path} must be a safetensors file; it is truncated or damaged: {error}"
        ) from error


def _same_architecture(plan: Plan, model: nn.Module, path: Path) -> None:
    have = {name: list(tensor.shape) for name, tensor in named_tensors(model)}
    for name in dict.fromkeys([*plan.tensors, *have]):
        wanted = plan.tensors[name].shape if name in plan.tensors else None
        if have.get(name) != wanted:
            raise ConfigError(
                f"the model must be the dense {plan.model} that {path} was pruned from; its "
                f"tensor {name!r} must have shape {wanted or 'none (not there)'}, "
                f"got {have.get(name, 'none (not there)')}"
            )


def _selection(plan: Plan) -> Selection:
    import numpy as np

    result = {}
    for name, group in plan.groups.items():
        keep = np.zeros(group.units, dtype=bool)
        if any(index >= group.units for index in group.kept):
            raise ConfigError(f"group {name!r} of the plan keeps a unit that it does not have")
        keep[group.kept] = True
        result[name] = keep
    return result


def _record(plan: Plan) -> PruneRecord:
    return PruneRecord(
        model=plan.model,
        form=plan.form,
        note=plan.note,
        units={name: group.units for name, group in plan.groups.items()},
        kept={name: tuple(group.kept) for name, group in plan.groups.items()},
        shapes={name: tuple(tensor.shape) for name, tensor in plan.tensors.items()},
        indices={
            name: {dim: tuple(kept) for dim, kept in tensor.kept.items()}
            for name, tensor in plan.tensors.items()
            if tensor.kept
        },
        patches=tuple(
            Patch(p.module, p.attribute, tuple(p.value) if isinstance(p.value, list) else p.value)
            for p in plan.patches
        ),
        inputs=plan.inputs,
    )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], plan: Plan, path: Path) -> None:
    """Put the stored tensors into a pruned module, on its device, tied ones as one."""
    transient = _transient(model)
    made: dict[str, Tensor] = {}
    used = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for key, old in list(table.items()):
                name = f"{prefix}.{key}" if prefix else key
                if old is None or name in transient:
                    continue
                source = plan.tied.get(name, name)
                stored = tensors.get(source)
                if stored is None or stored.shape != old.shape:
                    got = "none" if stored is None else list(stored.shape)
                    raise ConfigError(
                        f"{path / WEIGHTS} must hold {source!r} of shape {list(old.shape)}, got "
                        f"{got}; it does not belong to the {PLAN} beside it"
                    )
                used.add(source)
                if source not in made:
                    value = stored.to(old.device)
                    made[source] = (
                        nn.Parameter(value, requires_grad=name not in plan.fixed)
                        if isinstance(old, nn.Parameter)
                        else value
                    )
                table[key] = made[source]
    if extra := sorted(set(tensors) - used):
        raise ConfigError(f"{path / WEIGHTS} holds {extra[0]!r}, which the model does not have")


def _to(values: Any, device: torch.device) -> Any:
    from torch.utils import _pytree as pytree

    return pytree.tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, values)
