"""What a group may keep: the default choices, and rules that change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autoprune.core.errors import ConfigError

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Kept = Annotated[int, Field(ge=0)]


class GroupRule(BaseModel):
    """What groups may keep; None leaves it as it is for the whole space.

    Attributes:
        freeze: keep every unit.
        min_keep: the least share of units kept, 0 to 1.
        max_keep: the greatest share of units kept, 0 to 1; below 1 the dense width is no choice.
        multiple_of: kept units are multiples of it (the greatest width is offered as well).
        levels: about how many choices at most.
        ratios: the shares of units that may be kept, instead of evenly spaced counts.
        choices: the very counts that may be kept; nothing else applies then.
        remove: whether a group that allows it may be removed whole (0 kept). Where nothing is
            said it may if a latency table tells that this saves time; never below `min_keep`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    freeze: bool | None = None
    min_keep: Ratio | None = None
    max_keep: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    multiple_of: Count | None = None
    levels: Annotated[int, Field(ge=2)] | None = None
    ratios: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] | (
        None
    ) = None
    choices: Annotated[tuple[Kept, ...], Field(min_length=1)] | None = None
    remove: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GroupRule:
        if (self.min_keep or 0.0) > (1.0 if self.max_keep is None else self.max_keep):
            raise ValueError(
                f"min_keep must not exceed max_keep, got {self.min_keep} and {self.max_keep}"
            )
        return self

    def over(self, other: GroupRule) -> GroupRule:
        """This rule where it says something, `other` where it does not."""
        own = self.model_dump(exclude_none=True)
        base = other.model_dump(exclude_none=True)
        if "choices" not in own and (set(own) - {"freeze"}):
            base.pop("choices", None)  # the narrower setting of a later rule takes their place
        return GroupRule(**{**base, **own})


#: A rule as the user may write it.
RuleLike = GroupRule | Mapping[str, object] | Literal["freeze"]


def read_rule(given: RuleLike, where: str = "a rule") -> GroupRule:
    """Read a rule: `"freeze"`, a mapping of the fields of `GroupRule`, or one as it is.

    Raises:
        ConfigError: an unknown field, or a value out of range.
    """
    if isinstance(given, GroupRule):
        return given
    if given == "freeze":
        return GroupRule(freeze=True)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{where} must be 'freeze' or a mapping of {', '.join(GroupRule.model_fields)}; "
            f"got {given!r}"
        )
    try:
        return GroupRule.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(explain(error, where, GroupRule)) from None


def explain(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """A validation error in a line or two for the user."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {place!r} (known: {', '.join(model.model_fields)})")
        else:
            lines.append(f"{place + ': ' if place else ''}{item['msg']}, got {item['input']!r}")
    return f"{where} can't be used: " + "; ".join(lines)


def merge_rules(
    groups: Sequence[str], base: GroupRule, overrides: Mapping[str, RuleLike]
) -> dict[str, GroupRule]:
    """The rule of each group: `base`, then each pattern that matches, later ones winning.

    Raises:
        ConfigError: a pattern matches no group, or its rule can't be read.
    """
    rules = dict.fromkeys(groups, base)
    for pattern, given in overrides.items():
        rule = read_rule(given, f"the rule for {pattern!r}")
        matched = [group for group in groups if fnmatchcase(group, pattern)]
        if not matched:
            raise ConfigError(
                f"the pattern {pattern!r} must match a channel group, and matches none; "
                f"the groups are: {', '.join(groups) or 'none'}"
            )
        for group in matched:
            rules[group] = rule.over(rules[group])
    return rules


def choices_for(
    group: str,
    units: int,
    rule: GroupRule,
    edges: Sequence[int] | None = None,
    *,
    removable: bool = False,
) -> tuple[int, ...]:
    """The kept counts that a group may have, ascending.

    Args:
        group: its name, for messages.
        units: of the dense network.
        rule: what was asked for.
        edges: counts that a latency table recommends (right edges of its plateaus); they take
            the place of evenly spaced counts.
        removable: whether the group may keep no unit at all.

    Raises:
        ConfigError: the rule leaves no choice, asks for more units than there are, or for none of
            a group that can't be removed.
    """
    if rule.freeze:
        return (units,)
    if rule.choices is not None:
        over = [c for c in rule.choices if c > units]
        if over:
            raise ConfigError(
                f"choices of group {group!r} must be at most its {units} units, got {over[0]}"
            )
        if 0 in rule.choices and not removable:
            raise ConfigError(
                f"choices of group {group!r} must be at least 1: it can't be removed whole"
            )
        return tuple(sorted(set(rule.choices)))
    most = units if rule.max_keep is None else int(units * rule.max_keep + 1e-9)
    least = max(1, _ceil(units * (rule.min_keep or 0.0)))
    step = rule.multiple_of or 1
    if rule.ratios is not None:
        counts = {max(step, round(units * r / step) * step) for r in rule.ratios}
    elif edges:
        counts = {int(e) for e in edges if e and int(e) % step == 0}
    else:
        levels = rule.levels or 16
        while units // step > levels:
            step *= 2
        counts = set(range(step, units + 1, step))
    if rule.ratios is None:
        # the greatest width allowed is always a choice
        counts.add(most if rule.multiple_of is None or most == units else most // step * step)
    told = edges is not None and 0 in edges if rule.remove is None else rule.remove
    gone = {0} if told and removable and not rule.min_keep else set()
    result = tuple(sorted(gone | {c for c in counts if least <= c <= most}))
    if not result:
        raise ConfigError(
            f"group {group!r} of {units} units has no choice left: kept units must be from "
            f"{least} to {most}, in multiples of {rule.multiple_of or 1}; widen min_keep and "
            f"max_keep or freeze it"
        )
    return result


def _ceil(value: float) -> int:
    return int(-(-(value - 1e-9) // 1))
