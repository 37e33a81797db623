"""What tracing gives: the coupled channel groups of a network and its symbolic kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.export import ExportedProgram

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError
from autoprune.core.workload import Ints, KernelGraph, Workloads

#: Which units of each group are kept: group name → (units,) bool.
Selection = Mapping[str, npt.NDArray[np.bool_]]

#: One tensor's labels: for each dimension None (never pruned) or an array of the dimension's
#: length that holds each index's global unit, -1 for an index that is always kept.
Labels = tuple[Ints | None, ...]


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter (or module buffer) that a group runs through.

    Attributes:
        tensor: dotted name of the parameter or buffer, as in `state_dict()`.
        dim: the dimension.
        indices: (units, multiplicity) the indices of that dimension that each unit owns.
        role: "out" where the dimension makes the channels (a convolution's weight dim 0, its
            bias, a norm's scale), "in" where it consumes them (weight dim 1).
    """

    tensor: str
    dim: int
    indices: Ints
    role: str


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are pruned together: every member loses the same units.

    Attributes:
        name: of the first layer that makes these channels ("layer1.0.conv1"), unique.
        units: how many there are in the dense network, at least 2.
        members: the parameter dimensions that are sliced.
    """

    name: str
    units: int
    members: tuple[Member, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A traced network; `autoprune.trace` makes it. The user's model is never changed.

    Attributes:
        model: the user's own module, as it was given.
        program: its exported graph (ATen, torch.export's training IR, traced in eval mode).
        example_inputs: positional inputs it was traced with.
        example_kwargs: keyword inputs it was traced with.
        groups: what may be pruned, in graph order.
        frozen: layers (or groups of them) that may not be pruned, and why, in words.
        kernels: symbolic kernels; its `groups` are the names of `groups`, in the same order.
        labels: graph node name → labels of its output (a tuple of Labels for a node with several
            outputs); placeholders of parameters and inputs are nodes too.
        parameters: dotted tensor name → its labels.
        removable: groups that may keep no unit at all → dotted names of the biases and running
            means that are zero then, so that the branch adds nothing.
        fixed_batch: samples that the graph takes, where it takes no other number of them; the
            model itself may take any.
    """

    model: nn.Module
    program: ExportedProgram
    example_inputs: tuple[Any, ...]
    example_kwargs: Mapping[str, Any]
    groups: tuple[ChannelGroup, ...]
    frozen: Mapping[str, str]
    kernels: KernelGraph
    labels: Mapping[str, Labels | tuple[Labels, ...]] = field(repr=False)
    parameters: Mapping[str, Labels] = field(repr=False)
    removable: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    fixed_batch: int | None = None

    @property
    def dense(self) -> Candidate:
        """The candidate that keeps everything."""
        return self.kernels.dense

    def workload(self, candidate: Candidate) -> Workloads:
        """The kernels that a candidate runs, shapes filled in (a `Workloads` of length 1)."""
        return self.kernels.workloads([candidate])

    def workloads(self, candidates: Sequence[Candidate]) -> Workloads:
        """The kernels that each candidate runs, shapes filled in."""
        return self.kernels.workloads(candidates)

    def keep(self, selection: Selection) -> npt.NDArray[np.bool_]:
        """(all units + 1,) whether each global unit is kept; the last entry, for -1, is True.

        So `network.keep(selection)[labels]` tells which indices of a dimension stay.

        Raises:
            CandidateError: a group is missing, unknown, of the wrong length, or kept empty.
        """
        unknown = set(selection) - {group.name for group in self.groups}
        if unknown:
            raise CandidateError(f"a selection must name this network's groups; got {unknown}")
        parts = []
        for group in self.groups:
            mask = selection.get(group.name)
            least = 0 if group.name in self.removable else 1
            if mask is None or np.shape(mask) != (group.units,) or np.sum(mask) < least:
                got = "none" if mask is None else f"{np.sum(mask)} kept of shape {np.shape(mask)}"
                raise CandidateError(
                    f"a selection must keep at least {least} of the {group.units} units of group "
                    f"{group.name!r} as a ({group.units},) bool array; got {got}"
                )
            parts.append(np.asarray(mask, dtype=bool))
        return np.concatenate([*parts, [True]])

    def silenced(self, selection: Selection) -> frozenset[str]:
        """Dotted names of the tensors that are zero because their branch is removed whole."""
        gone = [names for group, names in self.removable.items() if not np.any(selection[group])]
        return frozenset(name for names in gone for name in names)

    def kept_indices(self, selection: Selection) -> dict[str, dict[int, Ints]]:
        """Tensor name → dimension → the indices that stay, for every sliced dimension."""
        keep = self.keep(selection)
        result: dict[str, dict[int, Ints]] = {}
        for name, labels in self.parameters.items():
            for dim, label in enumerate(labels):
                if label is not None and not keep[label].all():
                    result.setdefault(name, {})[dim] = np.flatnonzero(keep[label])
        return result
