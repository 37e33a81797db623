"""Options of profilers and meters, as they stand behind a name or in a config."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from autoprune.core.errors import ProfilerError


class Text(str):
    """A value of a query, still to be converted to the type that is declared."""

    __slots__ = ()


def merged(what: str, query: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a query such as `threads=2&mode=eager`, and those given as values.

    Raises:
        ProfilerError: the query can't be read, or an option stands twice.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ProfilerError(
            f"options of {what} must be written ?name=value&name=value; got {query!r}"
        ) from error
    options: dict[str, Any] = {}
    for option, text in pairs:
        if option in options or option in more:
            raise ProfilerError(f"option {option!r} of {what} stands twice")
        options[option] = Text(text)
    return {**options, **more}


def converted(
    what: str, factory: Callable[..., Any], options: Mapping[str, Any], write: str = ""
) -> dict[str, Any]:
    """Options with their texts converted to the types that the factory's parameters declare.

    Args:
        what: the factory's name, for messages.
        factory: that they are given to.
        options: by name.
        write: how a missing one is given, up to its name.

    Raises:
        ProfilerError: one that the factory does not have, that it lacks, or of another type.
    """
    known = parameters(factory)
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except NameError:
        hints = {}
    named = [n for n, p in known.items() if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(known):
        for option in options:
            if option not in named:
                raise ProfilerError(
                    f"{what} has no option {option!r}; it has {', '.join(named) or 'none'}"
                )
    missing = [
        p.name
        for p in known.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in options
    ]
    if missing:
        hint = f"; write {write}{missing[0]}=..." if write else ""
        raise ProfilerError(
            f"{what} needs the option{'s' * (len(missing) > 1)} {', '.join(missing)}{hint}"
        )
    return {  # what goes on under **, its factory converts
        option: convert(what, option, value, hints.get(option, str)) if option in named else value
        for option, value in options.items()
    }


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A factory's parameters by name; {} for a built-in type, which tells none."""
    try:
        return dict(inspect.signature(factory).parameters)
    except ValueError:
        return {}


def convert(what: str, option: str, value: Any, hint: Any) -> Any:
    """A query's text as the declared type: bool, int, float; anything else stays as it is.

    Raises:
        ProfilerError: the text is none of that type.
    """
    if not isinstance(value, Text):
        return value
    text = str(value)
    types_ = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in types_:
        if text.lower() in ("true", "false", "1", "0", "yes", "no"):
            return text.lower() in ("true", "1", "yes")
        raise ProfilerError(f"option {option!r} of {what} must be true or false, got {text!r}")
    for kind in (int, float):
        if kind in types_:
            try:
                return kind(text)
            except ValueError:
                if str not in types_ and (kind is float or float not in types_):
                    raise ProfilerError(
                        f"option {option!r} of {what} must be "
                        f"{'an integer' if kind is int else 'a number'}, got {text!r}"
                    ) from None
    return text
