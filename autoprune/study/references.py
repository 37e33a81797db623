"""What a config names: `package.module:Name`, or `path/to/file.py:Name` beside the config."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.errors import AutopruneError, ConfigError
from autoprune.core.plugins import load_object

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def expand(text: str, where: str) -> str:
    """Fill in `$NAME` and `${NAME}` from the environment.

    Raises:
        ConfigError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            near = difflib.get_close_matches(name, os.environ, n=1)
            hint = f"; did you mean ${near[0]}?" if near else ""
            raise ConfigError(f"{where}: the environment variable {name} must be set{hint}")
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def expand_all(value: Any, where: str) -> Any:
    """`expand` every text in nested mappings and lists."""
    if isinstance(value, str):
        return expand(value, where)
    if isinstance(value, Mapping):
        return {key: expand_all(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [expand_all(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def import_reference(target: str, base: Path, what: str) -> Any:
    """Import what a config names.

    Args:
        target: `package.module:Name` or `path/to/file.py:Name`.
        base: relative paths start here.
        what: the setting's name, for messages.

    Raises:
        ConfigError: there is no such file, module or name; tells the nearest name there is.
    """
    file, separator, attribute = target.rpartition(":")
    if separator and file.endswith(".py"):
        module = _load_file((base / Path(file).expanduser()).resolve(), what)
        return _attribute(module, attribute, target, what)
    if not separator or not file or not attribute:
        raise ConfigError(
            f"{what} must be written package.module:name or path/to/file.py:name, for example "
            f"my/models.py:build; got {target!r}"
        )
    try:
        return load_object(target, what=what)
    except AutopruneError:
        raise
    except (Exception, SystemExit) as error:  # The user's module runs while it is imported.
        raise _failed(what, target, error) from error


def _load_file(path: Path, what: str) -> Any:
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else [], 1
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{what}: there is no file {path}{hint}")
    name = f"_autoprune_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what}: {path} can't be imported; it must be a Python file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # The user's module runs while it is imported.
        del sys.modules[name]
        raise _failed(what, str(path), error) from error
    return module


def _attribute(module: Any, attribute: str, target: str, what: str) -> Any:
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{what}: {target!r} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def call_reference(target: str, options: Mapping[str, Any], base: Path, what: str) -> Any:
    """Import a callable and call it with options; a `nn.Module`, or a class of it, is not called.

    Raises:
        ConfigError: it can't be imported, is not callable, or raises.
    """
    function = function_reference(target, options, base, what)
    if isinstance(function, nn.Module):
        return function  # calling it is running the network
    try:
        return function()
    except AutopruneError:
        raise
    except (Exception, SystemExit) as error:  # The user's function.
        raise _failed(what, target, error) from error


def function_reference(target: str, options: Mapping[str, Any], base: Path, what: str) -> Any:
    """Import a callable; options are filled in as keyword arguments.

    A class whose instances can be called is made an instance of, with the options.

    Raises:
        ConfigError: it can't be imported or made, or is not callable.
    """
    function = import_reference(target, base, what)
    if isinstance(function, type) and "__call__" in dir(function):
        try:
            function, options = function(**options), {}
        except Exception as error:  # the user's
            raise _failed(what, target, error) from error
    if not callable(function):
        raise ConfigError(f"{what}: {target!r} must be a function, got {type(function).__name__}")
    return partial(function, **options) if options else function


def _failed(what: str, target: str, error: BaseException) -> ConfigError:
    from autoprune.core.failures import describe

    return ConfigError(f"{what}: {target} failed: {describe(error)}")
