"""A candidate: how much of each channel group is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoprune.core.errors import CandidateError


@dataclass(frozen=True)
class Candidate(Mapping[str, int]):
    """Kept units of each channel group, by the group's name; hashable, in the network's order.

    A unit is the smallest thing a group can lose: one channel, one attention head, or several
    channels that a grouped convolution or a reshape ties together.

    Args:
        kept: (name, kept units) pairs, each name once, each count at least 0; 0 removes a group
            whole, which only some allow (`KernelGraph.removable`).

    Raises:
        CandidateError: a name stands twice, or a count is no integer from 0 up.
    """

    kept: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.kept]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise CandidateError(f"each group must be named once; named twice: {', '.join(twice)}")
        for name, count in self.kept:
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise CandidateError(
                    f"kept units of group {name!r} must be an integer from 0 up, got {count!r}"
                )

    @classmethod
    def of(cls, kept: Mapping[str, int]) -> Candidate:
        """Make a candidate of a mapping; numpy integers are taken as int."""
        return cls(
            tuple((n, c.__index__() if hasattr(c, "__index__") else c) for n, c in kept.items())
        )

    def __hash__(self) -> int:
        # Kept: sets of what is under way are made for every trial.
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash(self.kept)
            object.__setattr__(self, "_hash", known)
        return known

    def __reduce__(self) -> tuple[type[Candidate], tuple[tuple[tuple[str, int], ...]]]:
        # Hashes of strings are another process's.
        return type(self), (self.kept,)

    def __getitem__(self, name: str) -> int:
        for group, count in self.kept:
            if group == name:
                return count
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def key(self) -> str:
        """A short stable name of this candidate (hexadecimal), the same in every process."""
        text = json.dumps(self.kept, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
