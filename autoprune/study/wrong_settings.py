"""What is wrong with settings, in words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, where: str, schema: type[BaseModel]) -> str:
    """One line for each thing that is wrong."""
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part not in _UNION_BRANCHES]
        name = ".".join(path)
        if problem["type"] == "extra_forbidden":
            names = _names(schema, problem["loc"][:-1])
            near = difflib.get_close_matches(path[-1], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
            lines.append(f"{where}: unknown setting {name!r}; {hint}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: the setting {name!r} must be given")
        else:
            text = _plainly(problem["msg"].removeprefix("Value error, "))
            got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
            lines.append(f"{where}: {name}: {text[:1].lower()}{text[1:]}{got}")
    return "\n".join(dict.fromkeys(lines))


def _plainly(text: str) -> str:
    """Pydantic's names of kinds, in the words of the documentation."""
    for kind, words in _KINDS:
        text = text.replace(kind, words)
    return text


_KINDS = (
    ("a valid dictionary or instance of Named", "a name, or {name: ..., options: {...}}"),
    ("a valid dictionary or instance of", "a mapping of settings, see the reference:"),
    ("a valid dictionary", "a mapping"),
    ("a valid tuple", "a list"),
    ("a valid string", "text"),
    ("a valid integer, unable to parse string as an integer", "an integer"),
    ("a valid integer, got a number with a fractional part", "an integer"),
    ("a valid integer", "an integer"),
    ("a valid number, unable to parse string as a number", "a number"),
    ("a valid number", "a number"),
    ("a valid boolean, unable to interpret input", "true or false"),
)

#: Where a setting may be of several kinds, pydantic puts the kind into the path.
_UNION_BRANCHES = frozenset(
    {
        "Named",
        "str",
        "tuple[str, ...]",
        "float",
        "RecoverSettings",
        "RewindSettings",
        "RacingSettings",
    }
)


def _names(schema: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    for part in path:
        field = schema.model_fields.get(str(part))
        if field is None:
            continue
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                schema = kind
    return sorted(name for name in schema.model_fields if name != "run")
