"""What surgery did to a network: a small record that goes with every pruned module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autoprune.core.errors import SurgeryError

#: The attribute of a pruned module that holds its `PruneRecord`.
ATTRIBUTE = "autoprune_record"


@dataclass(frozen=True)
class Patch:
    """One attribute of one submodule that was set to a new value.

    Attributes:
        module: dotted path of the submodule; "" is the root.
        attribute: its name.
        value: an int, or a tuple of ints (set as a list where the old value was one).
    """

    module: str
    attribute: str
    value: int | tuple[int, ...]


@dataclass(frozen=True)
class PruneRecord:
    """How a pruned network differs from the dense one; `pruned.autoprune_record`.

    Attributes:
        model: class of the dense model.
        form: "module" where the result is of the user's own class, "graph" where its forward
            hard-codes a width and the result runs the traced graph instead.
        note: "" or, for a graph, which widths are hard-coded, in words.
        units: group → its units in the dense network.
        kept: group → indices of the units that are kept.
        shapes: tensor name → its shape in the dense network, every parameter and buffer.
        indices: tensor name → dimension → the indices that are kept, where some are not.
        patches: attributes that were changed.
        inputs: the example inputs' structure, shapes and dtypes, as plain JSON values.
    """

    model: str
    form: str
    note: str
    units: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    indices: Mapping[str, Mapping[int, tuple[int, ...]]] = field(repr=False)
    patches: tuple[Patch, ...] = field(repr=False)
    inputs: Mapping[str, Any] = field(repr=False)


def attach(model: nn.Module, record: PruneRecord) -> None:
    """Put a record on a module."""
    object.__setattr__(model, ATTRIBUTE, record)
    object.__setattr__(model, "autoprune_note", record.note)


def record_of(model: nn.Module) -> PruneRecord:
    """The record of a pruned module.

    Raises:
        SurgeryError: the module was not made by `autoprune.prune` (or `load`).
    """
    record = getattr(model, ATTRIBUTE, None)
    if not isinstance(record, PruneRecord):
        raise SurgeryError(
            f"the model must be one that autoprune pruned (it then has an attribute "
            f"{ATTRIBUTE!r}); got a {type(model).__name__} without one"
        )
    return record
