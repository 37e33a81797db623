"""`trace`: from a model and its inputs to its channel groups and symbolic kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autoprune.core.errors import TraceError
from autoprune.graph.export import Export, export
from autoprune.graph.groups import Units, channel_groups, gather
from autoprune.graph.kernels import kernel_graph
from autoprune.graph.network import Labels, Network
from autoprune.graph.propagate import Propagation, named, propagate, storage
from autoprune.graph.removable import removable
from autoprune.graph.resolve import resolve


def trace(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
) -> Network:
    """Find which channels of a model are coupled, and the kernels that it runs.

    The model is exported in evaluation mode from a copy: it is not changed.

    Args:
        model: any module that `torch.export` takes.
        example_inputs: a tensor, a tuple of the positional inputs of `forward`, or a mapping of
            its keyword inputs. Dimension 0 of the first tensor is the batch.
        example_kwargs: further keyword inputs of `forward`.
        strict: raise on an op without a coupling rule, instead of freezing what reaches it.

    Returns:
        The traced network.

    Raises:
        TraceError: `torch.export` refuses the model.
        UnsupportedOpError: an op without a rule, with `strict`.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"model must be an nn.Module; got {type(model).__name__}")
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        example_inputs, example_kwargs = (), {**example_inputs, **(example_kwargs or {})}
    if not isinstance(example_inputs, list | tuple):
        raise TraceError(
            "example_inputs must be a tensor, a tuple of forward's positional inputs or a mapping "
            f"of its keyword inputs; got {type(example_inputs).__name__}"
        )
    inputs, kwargs = tuple(example_inputs), dict(example_kwargs or {})
    exported = export(model, inputs, kwargs)
    found = propagate(exported, strict)
    units = gather(found, resolve(found.atoms))
    raw = _parameters(exported, found)
    parameters = {name: units.labels(labels) for name, labels in raw.items()}
    groups = channel_groups(units, parameters, raw, found.atoms.consumed)
    labels = _labels(found, units)
    kernels = kernel_graph(exported, found, units, parameters)
    removed = removable(exported.program, exported.model, groups, labels)
    return Network(
        model=model,
        program=exported.program,
        example_inputs=inputs,
        example_kwargs=kwargs,
        groups=groups,
        frozen=units.frozen,
        kernels=replace(kernels, removable=frozenset(removed)),
        labels=labels,
        parameters=parameters,
        removable=removed,
        fixed_batch=exported.batch if exported.fixed else None,
    )


def _labels(found: Propagation, units: Units) -> dict[str, Labels | tuple[Labels, ...]]:
    return {
        name: tuple(units.labels(item.labels) for item in value)
        if isinstance(value, list)
        else units.labels(value.labels)
        for name, value in found.values.items()
    }


def _parameters(exported: Export, found: Propagation) -> dict[str, Labels]:
    """Every name of every parameter and buffer → its atoms, tied ones under all their names."""
    model = exported.model
    known = {}
    for name, labels in found.parameters.items():
        tensor = named(model, name)
        if tensor is not None:
            known[storage(tensor)] = labels
    result: dict[str, Labels] = {}
    for kind in (model.named_parameters, model.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            result[name] = known.get(storage(tensor), (None,) * tensor.ndim)
    return result
