"""What a kernel's time is made of: non-negative functions of its channel counts that step."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints
from autoprune.cost.context import REGIMES, ragged, regimes

BLOCKS = (4, 8, 16, 32, 64, 128)
#: Counts beyond the second that are no multiple of the first may take another, slower kernel.
RAGGED = ((4, 4), (4, 16), (8, 8), (16, 16))
#: Of the columns of `_steps`: 1, c, and c rounded up to each block; where those of `RAGGED` begin.
_RAGGED_FROM = 2 + 2 * len(BLOCKS)
_PLAIN = [0, 1, *range(2, _RAGGED_FROM, 2)]


def basis(x: npt.NDArray[np.integer] | Floats) -> Floats:
    """(N, B) non-negative functions of (N, D) channel counts that do not decrease in any."""
    columns = [_steps(x[:, d]) for d in range(x.shape[1])]
    if len(columns) == 1:
        return columns[0]
    if len(columns) == 2:
        return _products(*columns)
    product = np.prod(x.astype(np.float64), axis=1, keepdims=True)
    pairs = [
        (x[:, i] * x[:, j]).astype(np.float64)[:, None]
        for i, j in itertools.combinations(range(x.shape[1]), 2)
    ]
    return np.hstack([columns[0], *(c[:, 1:] for c in columns[1:]), *pairs, product])


def basis_by_regime(x: Ints, merged: tuple[int, ...], block: int) -> Floats:
    """(N, B) as `basis`, of (N, 2) channel counts read and written, apart for each regime.

    Where a runtime takes another algorithm, time neither rises with the counts nor steps like the
    other's (see `context.regimes`).

    Args:
        x: channel counts.
        merged: what each regime counts as.
        block: channels in a block.
    """
    read = _steps(x[:, 0])[:, _PLAIN]
    regime = np.array(merged)[regimes(x[:, 0], block)]
    apart = np.hstack([read * (regime == r)[:, None] for r in sorted(set(merged))])
    return _products(apart, _steps(x[:, 1])[:, :_RAGGED_FROM])


def merge_regimes(x: Ints, fewest: int, block: int) -> tuple[int, ...]:
    """What each regime counts as: the commonest where fewer than so many of the shapes have it."""
    count = np.bincount(regimes(x[:, 0], block), minlength=REGIMES)
    common = int(np.argmax(count))
    return tuple(r if count[r] >= fewest else common for r in range(REGIMES))


def surrounded(counts: Ints, flags: Ints, block: int) -> list[Floats]:
    """What a change of layout adds: proportional to either end's channels, or to their product.

    Where a kernel works on plain tensors itself, its surroundings count the other way round.
    """
    sizes = np.stack([np.ones(len(counts)), counts[:, 0], counts[:, -1], volume(counts)], axis=1)
    own = ragged(counts[:, 0], block)
    found = []
    for flag in flags.T > 0:
        found += [sizes * gate[:, None] for gate in (flag & own, flag & ~own, own & ~flag)]
    return found


def _steps(c: npt.NDArray[np.integer] | Floats) -> Floats:
    """(N, 2 + 2·blocks): 1, c, c rounded up to each block, and the same but c below one block."""
    result = [np.ones(len(c)), c.astype(np.float64)]
    for block in BLOCKS:
        up = (-(-c // block) * block).astype(np.float64)
        result += [up, np.where(c < block, c, up)]
    for multiple, beyond in RAGGED:
        off = ((c > beyond) & (c % multiple != 0)).astype(np.float64)
        result += [off, off * c]
    return np.stack(result, axis=1)


def _products(a: Floats, b: Floats) -> Floats:
    """(N, A·B) of (N, A) and (N, B)."""
    return np.asarray((a[:, :, None] * b[:, None, :]).reshape(len(a), -1))


def volume(x: Ints) -> Floats:
    """(N,) product of (N, D) channel counts."""
    return np.asarray(np.prod(x.astype(np.float64), axis=1))
