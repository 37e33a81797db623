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
    """Means, and covariances of the inputs with themselves and with the outputs, batch by batch.

    Each batch is centred by itself and merged exactly (Chan et al. 1983, "Algorithms for
    computing the sample variance"), so that memory is that of one batch and of the covariances.

    Args:
        center: whether the means are taken off, for a fit with an intercept.
    """

    def __init__(self, center: bool = True) -> None:
        self.rows = 0
        self._center = center
        self._mean_x = self._mean_y = self._xx = self._xy = torch.zeros(())

    def add(self, x: Tensor, y: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            x: (groups, rows, inputs), overwritten.
            y: (groups, rows, outputs), overwritten; in every batch or in none.
        """
        rows = x.shape[1]
        if not rows:
            return
        kind = torch.float64 if x.shape[-1] <= _DOUBLE else torch.float32
        mean_x = self._take_mean(x)
        xx = _gram(x).to(kind)
        mean_y, xy = torch.zeros(()), torch.zeros(())
        if y is not None:
            mean_y = self._take_mean(y)
            xy = torch.matmul(x.transpose(1, 2), y).to(kind)
        if not self.rows:
            self._mean_x, self._mean_y, self._xx, self._xy = mean_x, mean_y, xx, xy
        else:
            self._xx += xx
            self._xy = self._xy + xy
            if self._center:
                self._merge(mean_x, mean_y, rows, y is not None)
        self.rows += rows

    def _take_mean(self, values: Tensor) -> Tensor:
        if not self._center:
            return torch.zeros_like(values[:, :1])
        mean = values.mean(1, keepdim=True)
        values.sub_(mean)
        return mean

    def _merge(self, mean_x: Tensor, mean_y: Tensor, rows: int, both: bool) -> None:
        """Take a batch's means in, and what their distance adds to the covariances."""
        share = rows / (self.rows + rows)
        step_x = mean_x - self._mean_x
        far = step_x.to(self._xx.dtype)
        self._xx += self.rows * share * (far.transpose(1, 2) @ far)
        if both:
            step_y = mean_y - self._mean_y
            self._xy += self.rows * share * (far.transpose(1, 2) @ step_y.to(self._xy.dtype))
            self._mean_y = self._mean_y + share * step_y
        self._mean_x = self._mean_x + share * step_x

    @property
    def mean_x(self) -> Tensor:
        """(groups, 1, inputs); zeros where the means are not taken off."""
        return self._mean_x

    @property
    def mean_y(self) -> Tensor:
        """(groups, 1, outputs); zeros where the means are not taken off."""
        return self._mean_y

    @property
    def xx(self) -> Tensor:
        """(groups, inputs, inputs) covariance."""
        return self._xx / max(self.rows, 1)

    @property
    def xy(self) -> Tensor:
        """(groups, inputs, outputs) covariance."""
        return self._xy / max(self.rows, 1)


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
    covariance = moments.xx
    start = start.to(covariance.dtype)
    missing = moments.xy - covariance @ start
    return start + torch.cholesky_solve(missing, factor(covariance, ridge, where))
