"""Search-space definitions in YAML: data, no code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoprune.core.data import data_folders
from autoprune.core.errors import ConfigError
from autoprune.space.rules import Count, GroupRule, Ratio, explain
from autoprune.space.space import HasKernels, SearchSpace, Tie


class SpaceDefinition(BaseModel):
    """A search space, before it is applied to a network.

    Attributes:
        version: of this schema.
        description: for people.
        choices: shares of units that every group may keep; left out, counts are evenly spaced.
        multiple_of: kept units are multiples of it.
        min_keep: the least share of units kept.
        levels: about how many choices a group has at most.
        remove: whether groups that allow it may be removed whole (see `GroupRule.remove`).
        edges: whether the plateau edges of a latency table, where there is one, are the choices.
        tie: "shape" gives groups that are made alike (the blocks of a stage) one decision.
        groups: name pattern (`fnmatch`) → "freeze" or a rule; a later pattern wins.
        optional: whether a pattern that matches no group is fine (a file for many networks).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    description: str = ""
    choices: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] | None = None
    multiple_of: Count | None = None
    min_keep: Ratio = 0.0
    levels: Annotated[int, Field(ge=2)] = 16
    remove: bool | None = None
    edges: bool = True
    tie: Tie = "none"
    groups: dict[str, Literal["freeze"] | GroupRule] = Field(default_factory=dict)
    optional: bool = False

    def build(
        self, network: HasKernels, edges: Callable[[str], Sequence[int]] | None = None
    ) -> SearchSpace:
        """The search space of a network.

        Args:
            network: anything with `kernels`.
            edges: group name → counts that a latency table recommends.

        Raises:
            ConfigError: a pattern matches nothing (unless `optional`), or a group has no choice.
        """
        overrides: dict[str, Literal["freeze"] | GroupRule] = dict(self.groups)
        if self.optional:
            from fnmatch import fnmatchcase

            names = network.kernels.groups
            overrides = {
                pattern: rule
                for pattern, rule in overrides.items()
                if any(fnmatchcase(name, pattern) for name in names)
            }
        return SearchSpace.from_network(
            network,
            choices=self.choices,
            multiple_of=self.multiple_of,
            min_keep=self.min_keep,
            levels=self.levels,
            remove=self.remove,
            overrides=overrides,
            edges=edges if self.edges else None,
            tie=self.tie,
        )


def available() -> dict[str, Path]:
    """The definitions that come with autoprune or lie in `$AUTOPRUNE_DATA`, by name."""
    found: dict[str, Path] = {}
    for folder in data_folders("search_spaces"):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def load_space(source: str | Path | dict[str, object]) -> SpaceDefinition:
    """Read a definition: a mapping, a path to a YAML file, or the name of a packaged one.

    Raises:
        ConfigError: no such file or name, not YAML, an unknown key, or a value out of range.
    """
    if isinstance(source, dict):
        return _validate(source, "the search space")
    path = Path(source)
    if not path.is_file():
        known = available()
        if str(source) not in known:
            raise ConfigError(
                f"a search space must be a YAML file or one of {', '.join(sorted(known))}; "
                f"{str(source)!r} is neither"
            )
        path = known[str(source)]
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"search space {path} must be YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"search space {path} can't be read: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"search space {path} must be a YAML mapping, got {type(data).__name__}")
    return _validate(data, f"search space {path}")


def _validate(data: dict[str, object], where: str) -> SpaceDefinition:
    try:
        return SpaceDefinition.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, where, SpaceDefinition)) from None
