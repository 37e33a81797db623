"""How important each unit of each channel group is, from weights or from gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.graph.network import ChannelGroup, Member, Network
from autoprune.pruning._copy import copy_module

Scores = dict[str, npt.NDArray[np.float64]]


class Importance(ABC):
    """Scores the units of every group; subclass it to bring your own."""

    @abstractmethod
    def scores(self, network: Network) -> Scores:
        """Group name → (units,) scores; the units with the highest are kept.

        Only the order within a group counts.
        """


def scores(network: Network, importance: str | Importance = "l1") -> Scores:
    """Score the units of every group.

    Args:
        network: the traced network.
        importance: "l1", "l2", "bn_scale", or an `Importance` (`Taylor(batches, loss)` needs
            data, so it has no short name).

    Raises:
        ConfigError: an unknown name, or "taylor" without its data.
    """
    if isinstance(importance, Importance):
        return importance.scores(network)
    if importance == "taylor":
        raise ConfigError(
            "importance 'taylor' needs data: give an instance, "
            "autoprune.pruning.Taylor(batches, loss=lambda model, batch: ...)"
        )
    if importance not in _NAMES:
        known = ", ".join(_NAMES)
        raise ConfigError(
            f"importance must be one of {known}, or with data reconstruction or taylor, or an "
            f"Importance; got {importance!r}"
        )
    return _NAMES[importance]().scores(network)


def _per_unit(values: Tensor, member: Member) -> npt.NDArray[np.float64]:
    """(units,) sum of a tensor's values over everything that each unit owns of it."""
    other = [d for d in range(values.ndim) if d != member.dim]
    line = values.sum(dim=other) if other else values
    result: npt.NDArray[np.float64] = line.double().cpu().numpy()[member.indices].sum(axis=1)
    return result


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


def _weights(network: Network, group: ChannelGroup) -> Iterator[tuple[Member, Tensor]]:
    """Members of a group that are weights: trainable tensors that are no biases."""
    tensors = _tensors(network.model)
    for member in group.members:
        tensor = tensors.get(member.tensor)
        if tensor is not None and not (tensor.ndim == 1 and member.tensor.endswith("bias")):
            yield member, tensor


def _mean_of_normalised(parts: list[npt.NDArray[np.float64]], units: int) -> npt.NDArray[Any]:
    """Mean over members of each one's scores divided by their mean over the units."""
    parts = [part / part.mean() for part in parts if part.mean() > 0]
    return np.mean(parts, axis=0) if parts else np.zeros(units)


class Norm(Importance):
    """L1 or L2 norm of a unit's weights (Li et al. 2017, "Pruning filters for efficient convnets").

    Each member of the group, those that make the channels and those that consume them, is scored
    by the norm of what the unit owns of it (biases left out), divided by the mean over the units,
    so that a large layer does not drown a small one; the score is the mean over the members. It
    is DepGraph's group importance (Fang et al. 2023) with the normalisation done per member.

    Args:
        p: 1 or 2.

    Raises:
        ConfigError: another p.
    """

    def __init__(self, p: int = 1) -> None:
        if p not in (1, 2):
            raise ConfigError(f"the norm's p must be 1 or 2, got {p!r}")
        self.p = p

    def scores(self, network: Network) -> Scores:
        """See `Importance.scores`."""
        result: Scores = {}
        for group in network.groups:
            parts = []
            for member, tensor in _weights(network, group):
                total = _per_unit(tensor.detach().double().abs() ** self.p, member)
                parts.append(total ** (1 / self.p))
            result[group.name] = _mean_of_normalised(parts, group.units)
        return result


class BatchNormScale(Importance):
    """Magnitude of the BatchNorm scales (Liu et al. 2017, network slimming).

    Several BatchNorms in a group are combined like the members in `Norm`.

    Args:
        fallback: what scores a group without a BatchNorm that has a scale (L2 norm unless told);
            None makes such a group an error.
    """

    def __init__(self, fallback: str | Importance | None = "l2") -> None:
        self.fallback = fallback

    def scores(self, network: Network) -> Scores:
        """See `Importance.scores`.

        Raises:
            ConfigError: a group has no BatchNorm and `fallback` is None.
        """
        scales = _batch_norm_scales(network)
        result: Scores = {}
        without = []
        for group in network.groups:
            parts = [
                _per_unit(tensor.detach().double().abs(), member)
                for member, tensor in _weights(network, group)
                if member.tensor in scales
            ]
            if parts:
                result[group.name] = _mean_of_normalised(parts, group.units)
            else:
                without.append(group.name)
        if without and self.fallback is None:
            raise ConfigError(
                "importance bn_scale needs a BatchNorm in every group; there is none in "
                f"{', '.join(without)}. Give BatchNormScale(fallback='l2') or another importance"
            )
        if without and self.fallback is not None:
            other = scores(network, self.fallback)
            result.update({name: other[name] for name in without})
        return {group.name: result[group.name] for group in network.groups}


def _batch_norm_scales(network: Network) -> set[str]:
    """Names of the tensors that the graph uses as BatchNorm scales."""
    signature = network.program.graph_signature
    names = signature.inputs_to_parameters
    found = set()
    for node in network.program.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("aten.batch_norm"):
            scale = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
            if scale is not None and scale.name in names:
                found.add(names[scale.name])
    return found


class Taylor(Importance):
    """First-order Taylor expansion of the loss (Molchanov et al. 2019).

    A unit's score is |sum of weight times gradient| over what it owns of a member, summed over
    the batches and over the members of its group: by how much the loss would change, to first
    order, without it. Gradients are taken on a copy in eval mode; the model is not changed.

    Args:
        batches: what `loss` takes; gone through once per call of `scores`.
        loss: (model, batch) → scalar tensor.
    """

    def __init__(self, batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor]) -> None:
        self.batches = batches
        self.loss = loss

    def scores(self, network: Network) -> Scores:
        """See `Importance.scores`.

        Raises:
            EvaluationError: the loss is not a finite scalar tensor, or there is no batch.
        """
        model = copy_module(network.model, {}).eval()
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.requires_grad_(True)
        named = {k: p for k, p in _tensors(model).items() if p.requires_grad}
        unique = {id(p): p for p in named.values()}
        result = {group.name: np.zeros(group.units) for group in network.groups}
        count = 0
        for count, batch in enumerate(self.batches, 1):  # noqa: B007
            products = self._products(model, batch, unique)
            for group in network.groups:
                for member in group.members:
                    parameter = named.get(member.tensor)
                    if parameter is not None and id(parameter) in products:
                        value = _per_unit(products[id(parameter)], member)
                        result[group.name] += np.abs(value)
        if not count:
            raise EvaluationError("Taylor importance needs at least one batch, got none")
        return result

    def _products(
        self, model: nn.Module, batch: Any, unique: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        with torch.enable_grad():
            loss = self.loss(model, batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(loss.isfinite()):
                raise EvaluationError(
                    f"the loss of Taylor importance must be a finite scalar tensor, got {loss!r}"
                )
            if not loss.requires_grad:
                raise EvaluationError(
                    "the loss of Taylor importance must depend on the model's parameters; it was "
                    "computed without gradients (torch.no_grad, or detached)"
                )
            gradients = torch.autograd.grad(loss, list(unique.values()), allow_unused=True)
        return {
            key: (parameter.detach() * gradient).double()
            for (key, parameter), gradient in zip(unique.items(), gradients, strict=True)
            if gradient is not None
        }


_NAMES: Mapping[str, Callable[[], Importance]] = {
    "l1": lambda: Norm(1),
    "l2": lambda: Norm(2),
    "bn_scale": BatchNormScale,
}
