"""Settings in YAML files and `--set a.b=value` overrides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from autoprune.core.budget import metric_name
from autoprune.core.errors import ConfigError
from autoprune.study.config import SearchConfig, budget_settings, validate
from autoprune.study.references import expand_all


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: it can't be read, is no YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        near = []
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise ConfigError(f"the config {path} can't be read: {reason}{hint}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError(f"the config {path} can't be read{line}: {problem}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"the config {path} must be a mapping of settings, see configs/")
    return data


#: What `--set searcher.options.x=1` reaches into where nothing is named.
_DEFAULTS = {
    name: SearchConfig.model_fields[name].default.model_dump() for name in ("device", "searcher")
}


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` settings; values are read as YAML.

    Raises:
        ConfigError: one is not of that form.
    """
    result = dict(data)
    for setting in settings:
        name, separator, value = setting.partition("=")
        keys = name.strip().split(".")
        if keys[0] == "run":
            raise ConfigError("--set run: a run's own notes can't be set")
        if not separator or not all(keys):
            raise ConfigError(f"--set must be written name=value or a.b=value, got {setting!r}")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {name}: the value {value!r} is not YAML") from error
        place = result
        for key in keys[:-1]:
            inner = place.get(key)
            if key in _DEFAULTS and place is result and key not in place:
                inner = _DEFAULTS[key]
            if key == "budget" and isinstance(inner, str):
                inner = budget_settings(inner)
            # A name alone is short for {name: ...}, so options can be set beside it.
            inner = {"name": inner} if isinstance(inner, str) else inner
            inner = {"count": inner} if key == "workers" and isinstance(inner, int) else inner
            if inner is not None and not isinstance(inner, dict):
                raise ConfigError(f"--set {name}: {key!r} is {inner!r}, it has no settings within")
            place[key] = dict(inner or {})
            place = place[key]
        if keys[:-1] == ["budget"]:
            # "latency" and "latency_ms" are one bound: the new one takes the place of the old.
            for name in [n for n in place if metric_name(n) == metric_name(keys[-1])]:
                del place[name]
        place[keys[-1]] = parsed
    return result


def read_config(
    path: Path | None,
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    where: str | None = None,
) -> SearchConfig:
    """Read a YAML config, with environment variables filled in.

    Args:
        path: of the file; None begins with nothing.
        settings: `a.b=value` overrides, applied last.
        options: overrides of whole settings.
        where: what messages call it; None takes the path.

    Raises:
        ConfigError: it can't be read, or a setting is wrong.
    """
    data = {} if path is None else read_yaml(path)
    data = override({**data, **(options or {})}, settings)
    where = where or ("the command line" if path is None else str(path))
    return validate(expand_all(data, where), where)


def write_yaml(config: SearchConfig) -> str:
    """The text of a config that `read_config` reads back."""
    data = config.model_dump(mode="json")
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
