"""What a rule sees of a tensor: its shape and the labels of its dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor while labels are propagated.

    Attributes:
        shape: with the user's own batch size.
        labels: for each dimension None (inert) or the atoms of its indices. A dimension of size 1
            is always inert, so that broadcasting needs no special case.
        weight: whether it is a parameter, or made of parameters in a way that zeros stay zeros,
            so that a sum over a pruned dimension of it gets nothing from that dimension.
        known: its numbers, where they are constants of the graph.
    """

    shape: tuple[int, ...]
    labels: Labels
    weight: bool = False
    known: Ints | None = None

    def __post_init__(self) -> None:
        labels = tuple(
            None if size == 1 else label
            for size, label in zip(self.shape, self.labels, strict=True)
        )
        for size, label in zip(self.shape, labels, strict=True):
            if label is not None and len(label) != size:
                raise ValueError(f"{len(label)} labels for a dimension of size {size}")
        object.__setattr__(self, "labels", labels)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def live(self) -> list[Ints]:
        """The labels of the dimensions that carry any."""
        return [label for label in self.labels if label is not None]


def inert(shape: tuple[int, ...]) -> Value:
    """A tensor none of whose dimensions can be pruned."""
    return Value(shape, (None,) * len(shape))
