"""Names to objects: a lazy built-in table, then entry points, then `package.module:Name`."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.errors import PluginError


def load_object(reference: str, *, what: str = "object") -> Any:
    """Import what `package.module:Name` refers to; the working directory is searched too.

    Raises:
        PluginError: the text is not of that form, or the import fails; says at which part.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise PluginError(
            f"{what} must be written package.module:Name, for example mymodels.resnet:build; "
            f"got {reference!r}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise PluginError(
            f"{what} {reference!r}: module {module_name!r} can't be imported ({error}); "
            f"it must be installed, or lie below the working directory {here}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = difflib.get_close_matches(part, dir(target), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PluginError(f"{what} {reference!r}: {module_name!r} has no {part!r}{hint}")
        target = getattr(target, part)
    return target


def known_names(group: str, builtin: Mapping[str, str]) -> dict[str, str]:
    """Every name of a kind of plug-in → `package.module:Name`, ours and the installed ones.

    Args:
        group: entry-point group, for example "autoprune.profilers".
        builtin: our own names.

    Raises:
        PluginError: a name stands for two different things; says which.
    """
    names = dict(builtin)
    for point in importlib.metadata.entry_points(group=group):
        if names.setdefault(point.name, point.value) != point.value:
            raise PluginError(
                f"the name {point.name!r} of {group} stands for both {names[point.name]!r} and "
                f"{point.value!r}; uninstall one of them, or name yours differently"
            )
    return names


def resolve(name: str, group: str, builtin: Mapping[str, str], *, what: str) -> Any:
    """The object that a name stands for: built-in, entry point, or `package.module:Name`.

    Raises:
        PluginError: nothing has that name; lists what there is.
    """
    if ":" in name:
        return load_object(name, what=what)
    names = known_names(group, builtin)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PluginError(
            f"{what} must be one of {', '.join(sorted(names))}, or package.module:Name; "
            f"got {name!r}.{hint}"
        )
    return load_object(names[name], what=what)
