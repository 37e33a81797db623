"""Example inputs as plain JSON values, and zeros of the same structure back from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from autoprune.core.errors import ConfigError


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Structure, shapes and dtypes of inputs, as plain JSON values."""
    return {
        "args": [_describe(value) for value in args],
        "kwargs": {name: _describe(value) for name, value in kwargs.items()},
    }


def _describe(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"dict": {str(k): _describe(v) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_describe(v) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    return {"unknown": type(value).__qualname__}


def zeros(inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of the described structure, every tensor zero.

    Raises:
        ConfigError: a value that JSON can't hold was among them.
    """
    return (
        tuple(_zeros(value) for value in inputs["args"]),
        {name: _zeros(value) for name, value in inputs["kwargs"].items()},
    )


def _zeros(value: Mapping[str, Any]) -> Any:
    if "tensor" in value:
        dtype = getattr(torch, value["dtype"])
        return torch.zeros([int(s) for s in value["tensor"]], dtype=dtype)
    if "dict" in value:
        return {k: _zeros(v) for k, v in value["dict"].items()}
    if "list" in value:
        return [_zeros(v) for v in value["list"]]
    if "tuple" in value:
        return tuple(_zeros(v) for v in value["tuple"])
    if "value" in value:
        return value["value"]
    raise ConfigError(
        f"the example inputs held a {value.get('unknown')}, which a plan can't store; trace the "
        "dense model yourself and give load(folder, model, network=...)"
    )
