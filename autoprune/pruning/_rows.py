"""Samples of a layer's input and output: rows of a regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

#: Index of each sampled position along each dimension of an output but the channels'.
Positions = tuple[Tensor, ...]


@dataclass(frozen=True)
class Window:
    """What a convolution reads: spatial settings, one entry for each spatial dimension.

    A linear layer is a window of no dimensions. A transposed convolution reads, for each offset
    of its kernel, the input that this offset carries to the output's position, if there is one.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False

    @property
    def offsets(self) -> int:
        """Kernel positions."""
        return int(np.prod(self.kernel, dtype=int))


def draw(shape: Sequence[int], channel: int, count: int, generator: torch.Generator) -> Positions:
    """Draw positions of an output uniformly, each at most once.

    Args:
        shape: of the output.
        channel: its channel dimension.
        count: positions; all are taken where there are no more.
        generator: what draws.
    """
    sizes = [size for dim, size in enumerate(shape) if dim != channel]
    total = int(np.prod(sizes, dtype=int))
    if count >= total:
        flat = torch.arange(total)
    elif count * 4 > total:
        flat = torch.randperm(total, generator=generator)[:count].sort().values
    else:
        flat = torch.randint(0, total, (count + count // 3,), generator=generator)
        flat = torch.unique(flat)
        if len(flat) > count:
            chosen = torch.randperm(len(flat), generator=generator)[:count]
            flat = flat[chosen.sort().values]
    return tuple(torch.from_numpy(part) for part in np.unravel_index(flat.numpy(), sizes))


def at(tensor: Tensor, channel: int, positions: Positions) -> Tensor:
    """(rows, channels) the vectors of a tensor at positions; broadcast dimensions are allowed."""
    return _vectors(tensor.movedim(channel, -1), positions)


def _vectors(x: Tensor, index: Positions) -> Tensor:
    """`x[index]`, for indices of every dimension but the last."""
    if not x.is_contiguous():
        return x[index]
    # The same, several times faster.
    flat = index[0]
    for size, part in zip(x.shape[1:-1], index[1:], strict=True):
        flat = flat * size + part
    rows = x.view(-1, x.shape[-1]).index_select(0, flat.flatten().to(x.device))
    return rows.view(*flat.shape, x.shape[-1])


def renumbered(
    positions: Positions, kept: Sequence[npt.NDArray[np.bool_] | None]
) -> tuple[Positions, Tensor | None]:
    """Positions of a dense output in the pruned one, and which rows are still there.

    Args:
        positions: in the dense output.
        kept: for each of these dimensions which indices are kept, or None for all.
    """
    if all(mask is None for mask in kept):
        return positions, None
    rows = torch.ones(len(positions[0]), dtype=torch.bool)
    moved = []
    for index, mask in zip(positions, kept, strict=True):
        if mask is None:
            moved.append(index)
            continue
        stays = torch.from_numpy(mask)
        rows &= stays[index]
        moved.append((stays.cumsum(0) - 1)[index])
    return tuple(index[rows] for index in moved), rows


def patches(x: Tensor, window: Window, positions: Positions, groups: int = 1) -> Tensor:
    """(groups, rows, offsets × channels / groups) what a layer reads at output positions.

    A row is ordered by kernel offset, then by channel.

    Args:
        x: the layer's input: (batch, channels, *spatial), or (..., channels) for a linear layer.
        window: the layer's.
        positions: of its output.
        groups: of a grouped convolution.
    """
    if not window.kernel:
        return _vectors(x, positions)[None]
    if window.transposed:
        return _grouped(_spread(x.movedim(1, -1), window, positions), groups)
    dims = len(window.kernel)
    pad = [n for d in reversed(range(dims)) for n in (window.before[d], window.after[d])]
    x = x.movedim(1, -1)
    if any(pad):
        x = F.pad(x, (0, 0, *pad))
    sample, *places = positions
    index = [sample.view(-1, *[1] * dims)]
    for d, place in enumerate(places):
        offset = torch.arange(window.kernel[d]) * window.dilation[d]
        shape = [1] * (dims + 1)
        shape[d + 1] = -1
        index.append((place * window.stride[d]).view(-1, *[1] * dims) + offset.view(shape))
    return _grouped(_vectors(x, tuple(index)).flatten(1, -2), groups)


def _spread(x: Tensor, window: Window, positions: Positions) -> Tensor:
    """(rows, offsets, channels) what reaches output positions of a transposed convolution.

    Output q gets input p by the offset k with q = p · stride - padding + k · dilation.
    """
    dims = len(window.kernel)
    sample, *places = positions
    index = [sample.view(-1, *[1] * dims)]
    there = torch.ones([1] * (dims + 1), dtype=torch.bool)
    for d, place in enumerate(places):
        shape = [1] * (dims + 1)
        shape[d + 1] = -1
        offset = (torch.arange(window.kernel[d]) * window.dilation[d]).view(shape)
        moved = (place + window.before[d]).view(-1, *[1] * dims) - offset
        source = moved // window.stride[d]
        there = there & (moved % window.stride[d] == 0) & (source >= 0) & (source < x.shape[d + 1])
        index.append(source.clamp(0, x.shape[d + 1] - 1))
    read = _vectors(x, tuple(index)) * there.unsqueeze(-1)
    return read.flatten(1, -2)


def _grouped(read: Tensor, groups: int) -> Tensor:
    """(groups, rows, offsets × channels / groups) of (rows, offsets, channels)."""
    if groups == 1:
        return read.flatten(1)[None]
    split = read.reshape(*read.shape[:2], groups, -1)
    return split.permute(2, 0, 1, 3).flatten(2)


def as_matrix(weight: Tensor, groups: int) -> Tensor:
    """(groups, offsets × channels, outputs) a weight as `patches` orders its inputs."""
    outputs, channels = weight.shape[:2]
    split = weight.reshape(groups, outputs // groups, channels, -1)
    return split.permute(0, 3, 2, 1).flatten(1, 2)


def as_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_matrix`."""
    outputs, channels = shape[:2]
    split = matrix.reshape(len(matrix), -1, channels, matrix.shape[-1])
    return split.permute(0, 3, 2, 1).reshape(outputs, channels, *shape[2:])
