"""Names of profilers, as they stand in YAML and on the command line."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from autoprune.core.device import DeviceSpec, Profiler
from autoprune.core.errors import AutopruneError, PluginError, ProfilerError
from autoprune.core.plugins import known_names, resolve
from autoprune.profile.power import StatedPower

#: Entry points that installed packages name their profilers by.
GROUP = "autoprune.profilers"

#: Our own: name → `package.module:Name`, imported when it is asked for.
BUILTIN = {
    "onnxruntime-cpu": "autoprune.profile.registry:onnxruntime_cpu",
    "onnxruntime": "autoprune.profile.onnxruntime:OnnxRuntimeProfiler",
    "openvino-cpu": "autoprune.profile.openvino:OpenVinoProfiler",
    "ssh": "autoprune.profile.ssh:SshProfiler",
    "command": "autoprune.profile.command:CommandProfiler",
}


def onnxruntime_cpu(threads: int = 1, graph_optimization: str = "all") -> Profiler:
    """onnxruntime's CPU provider on this machine; arguments as of `OnnxRuntimeProfiler`."""
    from autoprune.profile.onnxruntime import OnnxRuntimeProfiler

    return OnnxRuntimeProfiler(threads=threads, graph_optimization=graph_optimization)


#: The option that every profiler takes: watts, for energy that is modelled.
POWER = "power_w"


@dataclass(frozen=True)
class DeviceRow:
    """A line of `autoprune devices`.

    Attributes:
        name: what the profiler is called by.
        available: whether it can measure here.
        device: what it measures on, where it can.
        missing: what is missing and how to get it, where it can't.
    """

    name: str
    available: bool
    device: DeviceSpec | None = None
    missing: str = ""


def make_profiler(name: str | Profiler, **options: Any) -> Profiler:
    """Make a profiler by its name, with options.

    Args:
        name: a built-in name, an entry point of the group "autoprune.profilers", or
            `package.module:Name`; options may follow as in a web address:
            `onnxruntime-cpu?threads=2`. An address such as `ssh://user@host?threads=2` goes to
            the profiler that its scheme names, as its option `address`. A profiler itself is
            returned as it is.
        options: more of them; one that stands in both places is an error. Every profiler takes
            `power_w`, from which energy is modelled (see `StatedPower`).

    Raises:
        PluginError: no profiler has that name.
        ProfilerError: it has no such option, a value is wrong, or it can't run here.
        MissingDependencyError: a package that it needs is not installed.
    """
    if not isinstance(name, str):
        if options:
            raise ProfilerError(
                f"options {sorted(options)} can't be given with a profiler that is made already"
            )
        if not _measures(name):
            raise PluginError(
                "a profiler must be a name or have `device` and `measure`; "
                f"got {type(name).__name__}"
            )
        return name
    plain, _, query = name.partition("?")
    scheme, separator, _ = plain.partition("://")
    if separator:
        if "address" in options:
            raise ProfilerError(f"the address of {plain!r} stands twice")
        options["address"], plain = plain, scheme
    factory = resolve(plain, GROUP, BUILTIN, what="profiler")
    if not callable(factory):
        raise PluginError(f"profiler {plain!r} must be a class or a function, got {factory!r}")
    given = _options(plain, factory, query, options)
    power_w = given.pop(POWER, None) if POWER not in _parameters(factory) else None
    profiler = factory(**given)
    if not _measures(profiler):
        raise PluginError(
            f"profiler {plain!r} must have `device` and `measure`; it makes a "
            f"{type(profiler).__name__}"
        )
    made: Profiler = profiler
    return made if power_w is None else StatedPower(made, power_w)


def devices() -> list[DeviceRow]:
    """Every named profiler, whether it can measure here, and what is missing where not."""
    rows = []
    for name in sorted(known_names(GROUP, BUILTIN)):
        try:
            rows.append(DeviceRow(name, True, make_profiler(name).device))
        except AutopruneError as error:
            rows.append(DeviceRow(name, False, missing=str(error)))
        except Exception as error:  # an installed plug-in: anything may come
            rows.append(DeviceRow(name, False, missing=f"{type(error).__name__}: {error}"))
    return rows


def _measures(profiler: object) -> bool:
    """Whether it has `device` and `measure`; not asked for, as a device may be far away."""
    return all(
        inspect.getattr_static(profiler, name, None) is not None or hasattr(profiler, name)
        for name in ("device", "measure")
    )


def _options(
    name: str, factory: Callable[..., Any], query: str, more: dict[str, Any]
) -> dict[str, Any]:
    """Options of a query, converted to the types that the factory's parameters are declared as."""
    parameters = _parameters(factory)
    try:
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except NameError:
        hints = {}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ProfilerError(
            f"options of profiler {name!r} must be written ?name=value&name=value; got {query!r}"
        ) from error
    options: dict[str, Any] = {}
    for option, text in pairs:
        if option in options or option in more:
            raise ProfilerError(f"option {option!r} of profiler {name!r} stands twice")
        options[option] = _convert(name, option, text, {POWER: float, **hints}.get(option, str))
    options.update(more)
    for option in options:
        known = [p for p in parameters if parameters[p].kind is not inspect.Parameter.VAR_KEYWORD]
        if option not in (*known, POWER) and not anything:
            raise ProfilerError(
                f"profiler {name!r} has no option {option!r}; it has {', '.join(known) or 'none'}"
            )
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in options
    ]
    if missing:
        raise ProfilerError(
            f"profiler {name!r} needs the option{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"write {name}?{missing[0]}=..."
        )
    return options


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except ValueError:  # a built-in type, which tells none
        return {}


def _convert(name: str, option: str, text: str, hint: Any) -> Any:
    """Text as the declared type: bool, int, float; anything else stays text."""
    types_ = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if bool in types_:
        if text.lower() in ("true", "false", "1", "0", "yes", "no"):
            return text.lower() in ("true", "1", "yes")
        raise ProfilerError(
            f"option {option!r} of profiler {name!r} must be true or false, got {text!r}"
        )
    for kind in (int, float):
        if kind in types_:
            try:
                return kind(text)
            except ValueError:
                if str not in types_ and (kind is float or float not in types_):
                    raise ProfilerError(
                        f"option {option!r} of profiler {name!r} must be "
                        f"{'an integer' if kind is int else 'a number'}, got {text!r}"
                    ) from None
    return text
