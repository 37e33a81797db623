"""Small but faithful versions of the architectures that autoprune is tested on.

`ZOO` maps a name to a function that gives `(model, example_inputs)`: random weights from a fixed
seed, BatchNorm statistics and every affine parameter randomised (a fresh BatchNorm is the identity
and would hide mistakes), eval mode, float32. `build(name)` is the same with a clear skip for
architectures whose library is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo_conv
import zoo_sequence
import zoo_written
from torch import nn

Build = Callable[[], tuple[nn.Module, tuple[Any, ...]]]

ZOO: dict[str, Build] = {**zoo_conv.ZOO, **zoo_sequence.ZOO, **zoo_written.ZOO}

#: Those that need the transformers package.
NEEDS_TRANSFORMERS = frozenset(zoo_sequence.NEEDS_TRANSFORMERS)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random affine parameters and statistics of norms, random biases; from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1 and "bias" in name:
                    uniform(parameter, -0.1, 0.5)
                elif parameter.ndim == 1:
                    uniform(parameter, 0.5, 1.5)
                else:  # as large as what comes in, so that every layer has a say in the output
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
                    parameter.mul_((2 / parameter[0].numel()) ** 0.5)
            for name, buffer in module.named_buffers(recurse=False):
                if name == "running_mean":
                    uniform(buffer, -0.5, 0.5)
                elif name == "running_var":
                    uniform(buffer, 0.5, 2.0)
    return model


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Any, ...]]:
    """The architecture in eval mode with its example inputs, the same at every call."""
    if name in NEEDS_TRANSFORMERS:
        pytest.importorskip("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = ZOO[name]()
    randomise(model)
    return model.to(dtype).eval(), cast(inputs, dtype)


def cast(inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Floating-point inputs in another dtype."""
    return tuple(
        x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    )


def with_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Other inputs of the same kind at another batch size (dimension 0 of each)."""
    generator = torch.Generator().manual_seed(batch)

    def one(x: torch.Tensor) -> torch.Tensor:
        shape = (batch, *x.shape[1:])
        if x.is_floating_point():
            return torch.randn(shape, generator=generator).to(x.dtype)
        return torch.randint(0, int(x.max()) + 1, shape, generator=generator)

    return tuple(one(x) for x in inputs)
