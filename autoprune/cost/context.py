"""What of a kernel's surroundings decides its time, besides its own channel counts.

A runtime keeps tensors in blocks of channels where it can, and works on plain ones where a count
does not divide; between the two it puts a change of layout, whose time is charged to the kernel
that comes next. So a kernel is slower where what made its input, or the tensor that is added to
its output, works in another layout. That shows in how many channels *that* kernel reads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoprune.core.device import DeviceSpec
from autoprune.core.workload import Ints

if TYPE_CHECKING:
    from autoprune.cost.signatures import KernelLayout

#: Flags of a kernel: whether what made its input, and what made the tensor that is added to its
#: output, reads a ragged number of channels.
FLAGS = 2
#: Ways in which a kernel works (see `regimes`).
REGIMES = 3
#: Channels in a block; and those of onnxruntime on a CPU whose vectors are half as long.
BLOCK, SHORT_BLOCK = 16, 8
#: A count beyond one block that is no multiple of this is ragged.
_MULTIPLE = 4


def channel_block(device: DeviceSpec) -> int:
    """How many channels a runtime keeps together; onnxruntime as many as a CPU's vector has floats.

    Of OpenVINO, tables of a CPU without AVX-512 predict better with the longer block.
    """
    instructions = device.details.get("instructions", "").split()
    short = device.runtime == "onnxruntime" and instructions and "avx512f" not in instructions
    return SHORT_BLOCK if short else BLOCK


def regimes(counts: Ints, block: int) -> Ints:
    """Which of three ways a kernel works, by the channels that it reads.

    0 below one block (they are read plain), 1 in blocks, 2 ragged (plain throughout).
    """
    return np.where(counts < block, 0, np.where(ragged(counts, block), 2, 1))


def ragged(counts: Ints, block: int) -> npt.NDArray[np.bool_]:
    """Whether channel counts keep a runtime from working in blocks of so many channels."""
    return np.asarray((counts >= block) & (counts % _MULTIPLE != 0))


def makers(kernels: Sequence[KernelLayout], heavy: Collection[str]) -> npt.NDArray[np.intp]:
    """(K, FLAGS) which kernel made the tensor of each flag; -1 where none is known.

    A table keeps no edges: it is the last heavy kernel before that writes the same channels.

    Args:
        kernels: of a network, in the order of execution.
        heavy: ops that are never fused into another.
    """
    last: dict[object, int] = {}
    result = np.full((len(kernels), FLAGS), -1, dtype=np.intp)
    for index, kernel in enumerate(kernels):
        if not kernel.base:
            continue
        result[index, 0] = last.get(_channels(kernel, 0), -1)
        _, _, follows = kernel.signature.partition(" then ")
        if "add" in follows.split(">"):
            result[index, 1] = last.get(_channels(kernel, -1), -1)
        if kernel.op in heavy:
            last[_channels(kernel, -1)] = index
    return result


def _channels(kernel: KernelLayout, row: int) -> object:
    return kernel.base[row], tuple(sorted(kernel.weight[row].items()))
