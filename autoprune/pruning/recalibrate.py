"""BatchNorm statistics, estimated anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.pruning._batches import as_call


class Running:
    """Mean and unbiased variance of each channel over any number of batches, in float64.

    Batches are merged exactly, whatever their sizes (Chan et al. 1983, "Algorithms for computing
    the sample variance").
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(())
        self._squares = torch.zeros(())

    def add(self, value: Tensor) -> None:
        """Add a batch (batch, channels, ...)."""
        other = [dim for dim in range(value.ndim) if dim != 1]
        count = value.numel() // max(value.shape[1], 1)
        if count == 0:
            return
        value = value.detach().to(torch.promote_types(value.dtype, torch.float32))
        mean = value.mean(other, keepdim=True)
        squares = (value - mean).square_().mean(other).double() * count
        mean = mean.flatten().double()
        if self.count == 0:
            self._mean, self._squares = mean, squares
        else:
            total = self.count + count
            delta = mean - self._mean
            self._mean = self._mean + delta * (count / total)
            self._squares = self._squares + squares + delta**2 * (self.count * count / total)
        self.count += count

    def store(self, mean: Tensor, variance: Tensor) -> None:
        """Copy the statistics into buffers; nothing happens without at least two values."""
        if self.count > 1:
            mean.copy_(self._mean)
            variance.copy_(self._squares / (self.count - 1))

    def shift(
        self,
        mean: Tensor,
        variance: Tensor,
        *,
        since: Running,
        kept: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Move known statistics in place, by as much as these differ from earlier ones.

        The difference of the means is added, the ratio of the variances multiplied, so that an
        error that both samples share cancels. A variance that was 0 is replaced.

        Args:
            mean: (channels,) to be changed.
            variance: (channels,) to be changed.
            since: the earlier statistics, of the same batches.
            kept: (channels,) where these channels are among the earlier ones; None: all, in order.
        """
        if self.count < 2 or since.count < 2:
            return
        index = slice(None) if kept is None else torch.from_numpy(kept)
        mean.add_(self._mean - since._mean[index])
        now, before = self._squares / (self.count - 1), since._squares[index] / (since.count - 1)
        known = before > 1e-12 * now.clamp_min(1e-30)
        variance.copy_(torch.where(known, variance * now / torch.where(known, before, 1), now))


def recalibrate(
    model: nn.Module, batches: Iterable[Any], *, layers: Collection[str] | None = None
) -> tuple[str, ...]:
    """Estimate the running statistics of BatchNorm layers anew, in place.

    While it runs, these layers normalise each batch by its own statistics, as in training, and
    everything else is in evaluation mode (dropout is off); the mean and variance over all
    batches together become the running ones. Every module's mode is restored afterwards. A
    layer that is never called keeps what it has.

    A network that `Reconstructor` has refitted needs no recalibration.

    Args:
        model: any module; a pruned one in either form. BatchNorm layers of any make are known by
            their `running_mean` and `running_var` (torch's own, SyncBatchNorm, timm's with an
            activation, torchvision's frozen ones).
        batches: inputs; each a tensor, a tuple of positional inputs or a mapping of keyword ones.
        layers: dotted names of the BatchNorm layers to do; None does all that keep statistics.

    Returns:
        Dotted names of the layers whose statistics were estimated.

    Raises:
        ConfigError: there is no batch, a batch is of a wrong kind, or a name is no BatchNorm
            layer that keeps statistics.
        EvaluationError: the statistics are not finite, or a batch holds one value per channel.
    """
    norms = _norms(model, layers)
    found = {name: Running() for name in norms}
    modes = {module: module.training for module in model.modules()}
    before = {name: (n.running_mean.clone(), n.running_var.clone()) for name, n in norms.items()}
    count = 0
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(_restore, modes)
        model.eval()
        for name, norm in norms.items():
            handle = norm.register_forward_pre_hook(_observer(found[name], name))
            stack.callback(handle.remove)
        try:
            for count, batch in enumerate(batches, 1):  # noqa: B007
                args, kwargs = as_call(batch)
                model(*args, **kwargs)
        finally:
            for name, norm in norms.items():
                norm.running_mean.copy_(before[name][0])
                norm.running_var.copy_(before[name][1])
        if norms and not count:
            raise ConfigError("calibration needs at least one batch of inputs, got none")
        for name, norm in norms.items():
            found[name].store(norm.running_mean, norm.running_var)
    return tuple(name for name, running in found.items() if running.count > 1)


def _norms(model: nn.Module, layers: Collection[str] | None) -> dict[str, Any]:
    """Layers that normalise by running statistics of their channels, by name."""
    found = {name: module for name, module in model.named_modules() if _keeps_statistics(module)}
    if layers is None:
        return found
    unknown = sorted(set(layers) - set(found))
    if unknown:
        raise ConfigError(
            "layers must name BatchNorm layers that keep running statistics; these do not: "
            f"{', '.join(unknown)}"
        )
    return {name: module for name, module in found.items() if name in set(layers)}


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a BatchNorm of any make: told by its buffers.

    InstanceNorm has them too, but they are of single samples.
    """
    mean, variance = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return (
        isinstance(mean, Tensor)
        and isinstance(variance, Tensor)
        and mean.ndim == 1
        and mean.shape == variance.shape
        and not isinstance(module, _InstanceNorm)
    )


def _observer(running: Running, name: str) -> Any:
    def observe(module: Any, args: tuple[Any, ...]) -> None:
        value = args[0]
        if value.ndim < 2 or value.shape[1] != len(module.running_mean):
            raise EvaluationError(
                f"the input of {name!r} must have its {len(module.running_mean)} channels in "
                f"dimension 1, got shape {tuple(value.shape)}; leave this layer out by `layers`"
            )
        if value.numel() <= value.shape[1]:
            raise EvaluationError(
                f"a calibration batch must hold at least two values per channel where it reaches "
                f"{name!r}, got shape {tuple(value.shape)}; give larger batches"
            )
        if not bool(torch.isfinite(value).all()):
            raise EvaluationError(
                f"the input of {name!r} must be finite on the calibration batches, got NaN or "
                "infinity; look at the batches and at the network's weights"
            )
        running.add(value)
        # In evaluation mode it then normalises this batch by the batch's own statistics, as
        # training would; training mode itself can want a GPU or other processes (SyncBatchNorm).
        one = Running()
        one.add(value)
        one.store(module.running_mean, module.running_var)
        module.running_var.mul_((one.count - 1) / one.count)

    return observe


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode
