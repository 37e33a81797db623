"""Running networks on the example inputs and comparing what they give."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.graph.network import Network

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs_of(model: nn.Module, network: Network) -> list[Tensor]:
    """Every tensor in the output on the network's example inputs, in eval mode."""
    args, kwargs = copy.deepcopy((network.example_inputs, dict(network.example_kwargs)))
    with evaluating(model), torch.no_grad():
        output = model(*args, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def difference(wanted: list[Tensor], got: list[Tensor]) -> float:
    """The largest difference, relative to each output's scale; infinite where shapes differ."""
    if [t.shape for t in wanted] != [t.shape for t in got]:
        return float("inf")
    worst = 0.0
    for a, b in zip(wanted, got, strict=True):
        if a.numel():
            a, b = a.detach().double(), b.detach().double()
            scale = float(a.abs().max()) or 1.0
            found = float((a - b).abs().max()) / scale
            worst = found if found > worst or found != found else worst
    return worst


def tolerance(network: Network) -> float:
    """The relative difference that rounding may cause, by the least precise dtype of the graph."""
    dtypes = set()
    for node in network.program.graph.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                dtypes.add(leaf.dtype)
    return max((_TOLERANCE.get(dtype, 2e-2) for dtype in dtypes), default=0.0)
