"""Least squares by normal equations."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.core.errors import SurgeryError

#: Beyond this many inputs the equations are solved in float32: float64 gets slow.
_DOUBLE = 2048

#: Columns of a panel: narrow enough to save work, wide enough for a fast matrix product.
_PANEL = 96


class Moments:
    """Means, and covariances of the inputs with themselves and with the outputs.

    Args:
        x: (groups, rows, inputs), overwritten.
        y: (groups, rows, outputs), overwritten.
        center: whether the means are taken off, for a fit with an intercept.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None, center: bool = True) -> None:
        kind = torch.float64 if x.shape[-1] <= _DOUBLE else torch.float32
        rows = x.shape[1]
        self.rows = rows
        self.mean_x = x.mean(1, keepdim=True) if center else torch.zeros_like(x[:, :1])
        if center:
            x.sub_(self.mean_x)
        transposed = x.transpose(1, 2)
        self.xx = _gram(x).to(kind).div_(rows)
        if y is not None:
            self.mean_y = y.mean(1, keepdim=True) if center else torch.zeros_like(y[:, :1])
            if center:
                y.sub_(self.mean_y)
            self.xy = torch.matmul(transposed, y).to(kind).div_(rows)


def _gram(x: Tensor) -> Tensor:
    """(groups, inputs, inputs) XᵀX; only the upper half is computed, panel by panel."""
    width = x.shape[-1]
    result = x.new_empty(len(x), width, width)
    for start in range(0, width, _PANEL):
        panel = x[..., start : start + _PANEL].transpose(1, 2) @ x[..., start:]
        result[:, start : start + _PANEL, start:] = panel
        result[:, start:, start : start + _PANEL] = panel.transpose(1, 2)
    return result


def factor(xx: Tensor, ridge: float, where: str) -> Tensor:
    """Cholesky factor of (groups, inputs, inputs) covariances plus a ridge.

    The ridge is relative to the mean of the diagonal, and is raised tenfold where rounding leaves
    the sum indefinite.

    Args:
        xx: covariances; not changed.
        ridge: relative to the mean diagonal.
        where: the layer, for messages.

    Raises:
        SurgeryError: the covariances are not finite.
    """
    if not bool(torch.isfinite(xx).all()):
        raise SurgeryError(
            f"the inputs of {where} must be finite on the calibration batches, but some are not; "
            "look for NaN or infinity in the batches, or in the network's weights"
        )
    diagonal = xx.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp_min(1e-30)
    while True:
        loaded = xx.clone()
        loaded.diagonal(dim1=-2, dim2=-1).add_(ridge * diagonal)
        result, info = torch.linalg.cholesky_ex(loaded)
        if not bool(info.any()):
            return torch.as_tensor(result)
        ridge = max(ridge * 10, 1e-12)


def solve(moments: Moments, start: Tensor, ridge: float, where: str) -> Tensor:
    """(groups, inputs, outputs) weights W that minimise |XW - Y|² + ridge·|W - start|².

    Directions that the data do not show keep the starting weights.

    Args:
        moments: of inputs and outputs.
        start: (groups, inputs, outputs).
        ridge: relative to the mean variance of the inputs.
        where: the layer, for messages.

    Raises:
        SurgeryError: the inputs are not finite.
    """
    start = start.to(moments.xx.dtype)
    missing = moments.xy - moments.xx @ start
    return start + torch.cholesky_solve(missing, factor(moments.xx, ridge, where))
