"""Calibration batches: what a user gives, as arguments of a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from autoprune.core.errors import ConfigError, SurgeryError

#: Positional and keyword arguments of one forward pass.
Call = tuple[tuple[Any, ...], dict[str, Any]]
T = TypeVar("T")


def as_call(batch: Any) -> Call:
    """One batch as arguments: a tensor, a tuple or list of positional ones, or a mapping.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(batch, torch.Tensor):
        return (batch,), {}
    if isinstance(batch, tuple | list):
        return tuple(batch), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    raise ConfigError(
        "a calibration batch must be a tensor, a tuple of positional inputs or a mapping of "
        f"keyword inputs, got {type(batch).__name__}; give what model(batch) takes"
    )


def as_pair(batch: Any) -> tuple[Any, Any]:
    """A training batch: inputs and targets.

    Raises:
        ConfigError: it is no pair.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    many = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
    raise ConfigError(
        "a training batch must be a pair of inputs and targets, got "
        f"{type(batch).__name__}{many}; several inputs are a tuple, or a mapping of keyword "
        "inputs, as the first of the pair"
    )


def as_calls(batches: Iterable[Any]) -> list[Call]:
    """All batches as arguments.

    Raises:
        ConfigError: there is none, or one is of a wrong kind.
    """
    if isinstance(batches, torch.Tensor):
        raise ConfigError(
            "calibration batches must be a sequence of batches, got one tensor; give [tensor]"
        )
    calls = [as_call(batch) for batch in batches]
    if not calls:
        raise ConfigError("calibration needs at least one batch of inputs, got none")
    return calls


def recut(calls: Sequence[T], size: int | None) -> Sequence[T]:
    """The same samples in batches of a size; what is left over is filled up with the first ones.

    Args:
        calls: batches, each with its samples along dimension 0 of its tensors.
        size: samples that a graph takes, or None where it takes any number of them.
    """
    if size is None:
        return calls
    found: list[T] = []
    for call in calls:
        count = next((len(x) for x in pytree.tree_leaves(call) if _batched(x)), None)
        for start in range(0, count or 0, size):
            chosen = torch.arange(start, start + size) % (count or 1)

            def cut(x: Any, count: int | None = count, chosen: torch.Tensor = chosen) -> Any:
                return x[chosen.to(x.device)] if _batched(x) and len(x) == count else x

            found.append(pytree.tree_map(cut, call))
        if count is None:
            found.append(call)
    return found


def _batched(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def flat_inputs(program: ExportedProgram, call: Call) -> dict[str, Any]:
    """Placeholder of a user input → its value.

    Mappings are matched by their keys, in whatever order these stand; an input that was traced as
    a positional one may be given by its name, and the other way round where there is one only.

    Raises:
        SurgeryError: the inputs are not structured like the ones that were traced.
    """
    spec = program.call_spec.in_spec
    names = [str(name) for name in program.graph_signature.user_inputs]
    labels = _labels(spec, names)
    positional = spec.child(0).num_children
    args, kwargs = call
    known = dict(zip(labels, args, strict=False)) | kwargs
    fits = len(args) <= max(positional, 1 if len(labels) == 1 else 0)
    if fits and len(args) + len(kwargs) == len(known) and set(known) == set(labels):
        ordered = [known[label] for label in labels]
        named = dict(zip(labels[positional:], ordered[positional:], strict=True))
        try:
            leaves = spec.flatten_up_to((tuple(ordered[:positional]), named))
        except ValueError:  # lists or mappings that hold something else
            leaves = []
        if len(leaves) == len(names):
            return dict(zip(names, leaves, strict=True))
    got = ", ".join([type(value).__name__ for value in args] + list(kwargs))
    how = "inputs alone" if positional else "a mapping of these names"
    raise SurgeryError(
        f"a calibration batch must hold the {len(names)} inputs that the network was traced with "
        f"({', '.join(names)}), got {len(args) + len(kwargs)} ({got}); give {how}, without labels"
    )


def _labels(spec: Any, names: list[str]) -> list[str]:
    """What the inputs of a traced network are called: positional ones first, then keywords."""
    labels, at = [], 0
    for index in range(spec.child(0).num_children):
        child = spec.child(0).child(index)
        named = child.is_leaf() and names.count(names[at]) == 1  # each None is called None
        labels.append(names[at] if named else f"({index})")
        at += child.num_leaves
    return [*labels, *map(str, spec.child(1).context or ())]
