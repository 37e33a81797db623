"""The search space: what each channel group may keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Floats
from autoprune.core.errors import CandidateError, ConfigError
from autoprune.core.workload import Ints, KernelGraph
from autoprune.space.rules import GroupRule, RuleLike, choices_for, merge_rules, read_rule

if TYPE_CHECKING:
    from autoprune.cost.base import CostModel

Tie = Literal["none", "shape"]


class HasKernels(Protocol):
    """Anything with symbolic kernels: a traced `Network`."""

    @property
    def kernels(self) -> KernelGraph:
        """The kernels, whose groups are the choices."""
        ...


@dataclass(frozen=True)
class Decision:
    """What one group (or several that are tied to it) may keep.

    Attributes:
        group: its name.
        choices: kept units, ascending; the last is dense unless a rule says otherwise.
        tied: further groups of as many units that keep as much.
    """

    group: str
    choices: tuple[int, ...]
    tied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise ConfigError(
                f"choices of group {self.group!r} must be ascending, each once and at least one; "
                f"got {self.choices}"
            )
        if self.choices[0] < 0:
            raise ConfigError(
                f"choices of group {self.group!r} must be at least 0, got {self.choices[0]}"
            )


class SearchSpace:
    """One decision per channel group.

    A point of the space is (n,) floats in [0, 1], n the number of decisions: 0 is a decision's
    smallest choice, 1 its largest, linear in kept units between. Internally a candidate is its
    (n,) *levels*: the index of each decision's choice.

    Args:
        kernels: of the network.
        decisions: groups that none names keep every unit.

    Raises:
        ConfigError: a decision names an unknown group, one twice, or more units than there are.
    """

    def __init__(self, kernels: KernelGraph, decisions: Sequence[Decision]) -> None:
        self.kernels = kernels
        self.decisions = tuple(decisions)
        column = {name: i for i, name in enumerate(kernels.groups)}
        owner = np.full(len(column), -1, dtype=np.int64)
        for index, decision in enumerate(self.decisions):
            for name in (decision.group, *decision.tied):
                if name not in column:
                    raise ConfigError(
                        f"a decision must name a group of the network, got {name!r}; the groups "
                        f"are: {', '.join(kernels.groups) or 'none'}"
                    )
                if owner[column[name]] >= 0:
                    raise ConfigError(f"a group must have one decision, {name!r} has two")
                owner[column[name]] = index
                if decision.choices[0] < 1 and name not in kernels.removable:
                    raise ConfigError(
                        f"choices of group {name!r} must be at least 1: it can't be removed whole"
                    )
                if decision.choices[-1] > kernels.units[column[name]]:
                    raise ConfigError(
                        f"choices of group {name!r} must be at most its "
                        f"{kernels.units[column[name]]} units, got {decision.choices[-1]}"
                    )
        self._owner = owner
        self._lead = np.array([column[d.group] for d in self.decisions], dtype=np.int64)
        #: (n,) how many choices each decision has.
        self.counts: Ints = np.array([len(d.choices) for d in self.decisions], dtype=np.int64)
        widest = int(self.counts.max()) if len(self.counts) else 1
        table = np.zeros((len(self.decisions), widest), dtype=np.int64)
        for index, decision in enumerate(self.decisions):
            table[index] = (*decision.choices, *[decision.choices[-1]] * widest)[:widest]
        self._table = table
        self._low = table[:, 0].astype(np.float64)
        self._span = (table[:, -1] - table[:, 0]).astype(np.float64)

    @classmethod
    def from_network(
        cls,
        network: HasKernels,
        *,
        choices: Sequence[float] | None = None,
        multiple_of: int | None = None,
        min_keep: float = 0.0,
        levels: int = 16,
        remove: bool | None = None,
        overrides: Mapping[str, RuleLike] | None = None,
        edges: Callable[[str], Sequence[int]] | None = None,
        tie: Tie = "none",
    ) -> SearchSpace:
        """The space of a traced network.

        Args:
            network: anything with `kernels`.
            choices: the shares of units that a group may keep ((0.25, 0.5, 0.75, 1)); None offers
                every count in small groups and evenly spaced ones in others.
            multiple_of: kept units are multiples of it.
            min_keep: the least share of units kept.
            levels: about how many choices a group has at most, where none are given.
            remove: whether groups that allow it may be removed whole (see `GroupRule.remove`).
            overrides: group name pattern (`fnmatch`: `"layer1.*"`) → "freeze" or a rule (see
                `GroupRule`); a later pattern wins over an earlier one.
            edges: group name → the counts worth offering, such as the plateau edges of a latency
                table; an empty answer falls back to evenly spaced counts.
            tie: "none", one decision per group; "shape", groups with the same choices whose
                channels are made by as many kernels, of the same spatial size, share one (the
                blocks of a stage: far fewer decisions).

        Raises:
            ConfigError: a rule can't be read, a pattern matches nothing, or a group has no choice.
        """
        kernels = network.kernels
        base = read_rule(
            {
                "min_keep": min_keep,
                "multiple_of": multiple_of,
                "levels": levels,
                "remove": remove,
                "ratios": None if choices is None else tuple(choices),
            },
            "a search space",
        )
        rules = merge_rules(kernels.groups, base, overrides or {})
        decisions = []
        for group, units in zip(kernels.groups, kernels.units.tolist(), strict=True):
            rule: GroupRule = rules[group]
            offered = tuple(edges(group)) if edges is not None else ()
            # Tied groups would all go at once, the whole stage: only where that is asked for.
            removable = group in kernels.removable and (tie == "none" or bool(rule.remove))
            choice = choices_for(group, units, rule, offered, removable=removable)
            decisions.append(Decision(group, choice))
        if tie not in ("none", "shape"):
            raise ConfigError(f"tie must be 'none' or 'shape', got {tie!r}")
        return cls(kernels, decisions if tie == "none" else _tie(kernels, decisions))

    # -- sizes -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of decisions: the dimension of a point."""
        return len(self.decisions)

    @cached_property
    def size(self) -> int:
        """Number of candidates."""
        return math.prod(self.counts.tolist())

    @cached_property
    def free(self) -> Ints:
        """Indices of the decisions that have more than one choice."""
        return np.flatnonzero(self.counts > 1)

    @cached_property
    def units(self) -> Ints:
        """(n,) units of each decision's (first) group in the dense network."""
        units: Ints = self.kernels.units[self._lead]
        return units

    @property
    def dense(self) -> Candidate:
        """The candidate that keeps everything, whether it is a choice or not."""
        return self.kernels.dense

    @cached_property
    def smallest(self) -> Candidate:
        """The smallest choice of every decision."""
        return self.candidate(np.zeros(len(self), dtype=np.int64))

    @cached_property
    def largest(self) -> Candidate:
        """The largest choice of every decision."""
        return self.candidate(self.counts - 1)

    # -- levels ----------------------------------------------------------------------------

    def kept(self, levels: npt.ArrayLike) -> Ints:
        """(N, n) levels → (N, G) kept units of every group of the network."""
        rows = np.atleast_2d(np.asarray(levels, dtype=np.int64))
        kept = np.broadcast_to(self.kernels.units, (len(rows), len(self._owner))).copy()
        decided = self._owner >= 0
        chosen = self._table[np.arange(len(self)), rows]
        kept[:, decided] = chosen[:, self._owner[decided]]
        return kept

    def candidate(self, levels: npt.ArrayLike) -> Candidate:
        """(n,) levels → the candidate."""
        row = self.kept(levels)[0].tolist()
        return Candidate(tuple(zip(self.kernels.groups, row, strict=True)))

    def nearest(self, kept: npt.ArrayLike) -> Ints:
        """(..., n) kept units, any numbers → levels of the nearest choices (the smaller of two)."""
        wanted = np.asarray(kept, dtype=np.float64)
        distance = np.abs(self._table - wanted[..., None])
        levels: Ints = distance.argmin(axis=-1).astype(np.int64)
        return levels

    def levels(self, candidate: Candidate) -> Ints:
        """Candidate → (n,) levels.

        Raises:
            CandidateError: it names other groups, or keeps what is no choice here.
        """
        kept = self.kernels.kept([candidate])
        levels = self.nearest(kept[0, self._lead])
        wrong = np.flatnonzero(self.kept(levels)[0] != kept[0])
        if len(wrong):
            group = self.kernels.groups[wrong[0]]
            owner = self._owner[wrong[0]]
            offered = self.decisions[owner].choices if owner >= 0 else self.kernels.units[wrong[0]]
            raise CandidateError(
                f"group {group!r} must keep one of {offered}, the candidate keeps "
                f"{kept[0, wrong[0]]}"
            )
        return levels

    def choice(self, levels: npt.ArrayLike) -> Ints:
        """(..., n) levels → kept units by decision."""
        rows = np.asarray(levels, dtype=np.int64)
        kept: Ints = self._table[np.arange(len(self)), rows]
        return kept

    def position(self, levels: npt.ArrayLike) -> Floats:
        """(..., n) levels → points in [0, 1]; a decision without a choice is at 1."""
        span = np.where(self._span > 0, self._span, 1.0)
        return np.where(self._span > 0, (self.choice(levels) - self._low) / span, 1.0)

    # -- points ----------------------------------------------------------------------------

    def encode(self, candidate: Candidate) -> Floats:
        """Candidate → (n,) point in [0, 1]; the inverse of `decode` on the space's candidates.

        Raises:
            CandidateError: it is none of this space's candidates.
        """
        return self.position(self.levels(candidate))

    def units_at(self, x: npt.ArrayLike) -> Floats:
        """(..., n) points → kept units as real numbers, before they are rounded to choices.

        Raises:
            CandidateError: the point has another dimension, or a number that is not finite.
        """
        point = np.asarray(x, dtype=np.float64)
        if point.shape[-1:] != (len(self),) or not np.isfinite(point).all():
            raise CandidateError(
                f"a point of this space must be ({len(self)},) finite numbers in [0, 1], got "
                f"shape {point.shape}{'' if np.isfinite(point).all() else ' with NaN or infinity'}"
            )
        wanted: Floats = self._low + np.clip(point, 0.0, 1.0) * self._span
        return wanted

    def decode(self, x: npt.ArrayLike) -> Candidate:
        """(n,) point → the nearest candidate; what lies outside [0, 1] is clipped.

        Raises:
            CandidateError: the point has another dimension, or a number that is not finite.
        """
        return self.candidate(self.nearest(self.units_at(x)))

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A candidate drawn uniformly."""
        return self.candidate(rng.integers(0, self.counts))

    def project(
        self,
        x: npt.ArrayLike,
        budget: Budget,
        cost_model: CostModel,
        *,
        fill: Literal["none", "target", "budget"] = "target",
        z: float = 1.645,
    ) -> Candidate:
        """The candidate near a point that holds a budget; see `autoprune.space.project`."""
        from autoprune.space.projection import project

        return project(self, x, budget, cost_model, fill=fill, z=z)

    def __repr__(self) -> str:
        return f"SearchSpace({len(self)} decisions, {len(self.free)} free, {self.size:.3g} choices)"


def _tie(kernels: KernelGraph, decisions: Sequence[Decision]) -> list[Decision]:
    """Join the decisions of groups with the same choices that are made in the same way."""
    joined: dict[object, list[str]] = {}
    for column, decision in enumerate(decisions):
        makers = [
            kernel
            for kernel in kernels.kernels
            if kernel.macs and any(kernels.weight[size, column] for size in kernel.output)
        ]
        spatial = {tuple(kernels.base[list(k.output[2:])].tolist()) for k in makers}
        key = (decision.choices, len(makers), tuple(sorted(spatial)))
        joined.setdefault(key, []).append(decision.group)
    choices = {decision.group: decision.choices for decision in decisions}
    return [Decision(j[0], choices[j[0]], tuple(j[1:])) for j in joined.values()]
