"""The zero-masked dense network of a selection: what pruning must be equal to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoprune.core.candidate import Candidate
from autoprune.graph.network import Network, Selection
from autoprune.pruning._copy import copy_module
from autoprune.pruning._sites import Keep, arguments_of, op_name
from autoprune.pruning._statistics import STATISTICS, mask_of, masked
from autoprune.pruning._tensors import exchanged, named_tensors, zeroed
from autoprune.pruning.empty import silence
from autoprune.pruning.graph_module import GraphNetwork
from autoprune.pruning.importance import Importance
from autoprune.pruning.selection import as_selection


def mask(
    network: Network, candidate: Candidate | Selection, importance: str | Importance = "l1"
) -> nn.Module:
    """The dense network with every entry zero that surgery would remove.

    A normalisation that takes statistics over a pruned dimension (LayerNorm, GroupNorm, RMSNorm,
    or one written out with a mean or a variance) takes them over what is kept; then the result is
    a `GraphNetwork`, otherwise a module of the model's own class. Running means are zero and
    running variances one at removed channels. The model is not changed.

    Args:
        network: the traced network.
        candidate: how many units of each group are kept, or which (a selection).
        importance: which units go first: "l1", "l2", "bn_scale" or an `Importance`.

    Raises:
        CandidateError: the candidate does not fit the network.
    """
    selection = as_selection(network, candidate, importance)
    keep = network.keep(selection)
    kept = network.kept_indices(selection)
    copy = copy_module(network.model, dict(exchanged(named_tensors(network.model), kept, zeroed)))
    silence(copy, network.silenced(selection))
    masks = _masks(network, keep)
    if not masks:
        return copy
    buffers = {f"mask_{name}": values for name, values in masks.items()}

    def replace(graph: fx.Graph, node: fx.Node, new: Callable[[fx.Node], fx.Node]) -> Any:
        if node.name not in masks:
            return None
        values = arguments_of(node)
        where = graph.get_attr(f"mask_{node.name}")
        if op_name(node) in STATISTICS:
            return masked(node, graph, new(values["self"]), where)
        given = [
            new(values[key]) if isinstance(values.get(key), fx.Node) else None
            for key in ("input", "weight", "bias")
        ]
        if op_name(node) == "group_norm":
            return graph.call_function(
                masked_group_norm, (*given, where, values["num_groups"], values["eps"])
            )
        dims = len(values["normalized_shape"])
        if op_name(node) == "layer_norm":
            return graph.call_function(masked_layer_norm, (*given, where, dims, values["eps"]))
        return graph.call_function(masked_rms_norm, (*given[:2], where, dims, values["eps"]))

    for name, values in buffers.items():
        copy.register_buffer(name, values, persistent=False)
    note = "a graph module, because norms take their statistics over the kept channels only"
    return GraphNetwork(network, copy, {}, replace, note)


def _masks(network: Network, keep: Keep) -> dict[str, Tensor]:
    """Norm node → its mask over the normalised dimensions, where it is not all ones."""
    result = {}
    for node in network.program.graph.nodes:
        op = op_name(node)
        if op in STATISTICS and (statistic := mask_of(network, node, keep)) is not None:
            result[node.name] = statistic
        if op not in ("layer_norm", "rms_norm", "group_norm"):
            continue
        values = arguments_of(node)
        labels: Any = network.labels.get(values["input"].name, ())
        if not labels:
            continue
        rank = len(values["normalized_shape"]) if op != "group_norm" else 0
        dims = labels[1:2] if op == "group_norm" else labels[len(labels) - rank :]
        shape = node.meta["val"].shape
        sizes = shape[1:2] if op == "group_norm" else shape[len(shape) - rank :]
        parts = [
            torch.ones(int(size)) if label is None else torch.from_numpy(keep[label]).float()
            for size, label in zip(sizes, dims, strict=True)
        ]
        found = parts[0]
        for part in parts[1:]:
            found = found.unsqueeze(-1) * part
        if not bool(found.all()):
            result[node.name] = found.to(node.meta["val"].device)
    return result


def masked_layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, where: Tensor, dims: int, eps: float
) -> Tensor:
    """LayerNorm over the kept entries of the last `dims` dimensions; zero elsewhere."""
    where = where.to(x.dtype)
    axes = tuple(range(-dims, 0))
    count = where.sum()
    mean = (x * where).sum(axes, keepdim=True) / count
    centred = (x - mean) * where
    variance = centred.square().sum(axes, keepdim=True) / count
    y = centred * torch.rsqrt(variance + eps)
    return _affine(y, weight, bias) * where


def masked_rms_norm(
    x: Tensor, weight: Tensor | None, where: Tensor, dims: int, eps: float | None
) -> Tensor:
    """RMSNorm over the kept entries of the last `dims` dimensions; zero elsewhere."""
    where = where.to(x.dtype)
    small = torch.finfo(x.dtype).eps if eps is None else eps
    square = (x * where).square().sum(tuple(range(-dims, 0)), keepdim=True) / where.sum()
    return _affine(x * torch.rsqrt(square + small), weight, None) * where


def masked_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, where: Tensor, groups: int, eps: float
) -> Tensor:
    """GroupNorm over the kept channels of each group; zero elsewhere."""
    where = where.to(x.dtype)
    y = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    parts = where.reshape(1, groups, -1, 1)
    count = (parts.sum(2, keepdim=True) * y.shape[-1]).clamp(min=1)
    mean = (y * parts).sum((2, 3), keepdim=True) / count
    centred = (y - mean) * parts
    variance = centred.square().sum((2, 3), keepdim=True) / count
    y = (centred * torch.rsqrt(variance + eps)).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = y * (1 if weight is None else weight.reshape(shape))
    return (y if bias is None else y + bias.reshape(shape)) * where.reshape(shape)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
