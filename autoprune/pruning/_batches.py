"""Calibration batches: what a user gives, as arguments of a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from autoprune.core.errors import ConfigError

#: Positional and keyword arguments of one forward pass.
Call = tuple[tuple[Any, ...], dict[str, Any]]


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
