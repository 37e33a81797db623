"""Kernels that a candidate has no channels for, because a group was removed whole.

A runtime never runs them: the network was written without. The light ops that would have been
fused into such a kernel (the residual sum behind a block, its ReLU) stand alone then, and take time
of their own. So both are pooled apart, under their signature with `EMPTY` behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from autoprune.cost.signatures import KernelLayout

#: Behind the signature of a kernel without channels, or fused into one with channels.
EMPTY = " without channels"


def followers(
    kernels: Sequence[KernelLayout], heavy: Collection[str]
) -> list[tuple[int, tuple[int, ...]]]:
    """Each heavy kernel with the light ones that its signature says follow it.

    Args:
        kernels: of a network, in the order of execution.
        heavy: ops that are never fused into another.
    """
    result = []
    for index, kernel in enumerate(kernels):
        if kernel.op not in heavy:
            continue
        _, _, text = kernel.signature.partition(" then ")
        found: list[int] = []
        at = index + 1
        for op in text.split(">") if text else []:
            while at < len(kernels) and kernels[at].op != op:
                at += 1
            if at == len(kernels):
                break
            found.append(at)
            at += 1
        result.append((index, tuple(found)))
    return result


def spread(
    own: npt.NDArray[np.bool_], chains: Sequence[tuple[int, tuple[int, ...]]]
) -> npt.NDArray[np.bool_]:
    """(N, K) kernels without channels, and those that follow one, of (N, K) without channels."""
    result = own.copy()
    for head, chain in chains:
        if chain and own[:, head].any():
            result[:, list(chain)] |= own[:, head, None]
    return result
