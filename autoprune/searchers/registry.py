"""Names to searchers: built in, installed by others (entry points), or `package.module:Name`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import ConfigError, PluginError
from autoprune.core.plugins import known_names, load_object, resolve
from autoprune.searchers.base import SearchContext, Searcher

if TYPE_CHECKING:
    import optuna

#: Entry-point group of searchers.
GROUP = "autoprune.searchers"

BUILTIN: Mapping[str, str] = {
    "amc": "autoprune.searchers.amc.searcher:AmcSearcher",
    "auto": "autoprune.searchers.auto:AutoSearcher",
    "cmaes": "autoprune.searchers.optuna_bridge:CmaesSearcher",
    "evolve": "autoprune.searchers.evolve:EvolveSearcher",
    "exact": "autoprune.searchers.exact:ExactSearcher",
    "gp": "autoprune.searchers.optuna_bridge:GpSearcher",
    "greedy": "autoprune.searchers.greedy:GreedySearcher",
    "nsga2": "autoprune.searchers.optuna_bridge:Nsga2Searcher",
    "nsga3": "autoprune.searchers.optuna_bridge:Nsga3Searcher",
    "optuna": "autoprune.searchers.optuna_bridge:OptunaSearcher",
    "qmc": "autoprune.searchers.optuna_bridge:QmcSearcher",
    "random": "autoprune.searchers.random:RandomSearcher",
    "tpe": "autoprune.searchers.tpe:TpeSearcher",
    "uniform": "autoprune.searchers.uniform:UniformSearcher",
}

_EVOLVE = "autoprune.searchers.front:EvolveFrontSearcher"
_OPTUNA = "autoprune.searchers.optuna_front"

#: Searchers → their counterparts for several objectives.
FRONTS: Mapping[str, str] = {
    BUILTIN["auto"]: _EVOLVE,
    BUILTIN["evolve"]: _EVOLVE,
    BUILTIN["nsga2"]: f"{_OPTUNA}:Nsga2Front",
    BUILTIN["nsga3"]: f"{_OPTUNA}:Nsga3Front",
    BUILTIN["random"]: "autoprune.searchers.front:RandomFrontSearcher",
    BUILTIN["tpe"]: f"{_OPTUNA}:TpeFront",
}


def names() -> tuple[str, ...]:
    """Every searcher's name, ours and the installed ones."""
    return tuple(sorted(known_names(GROUP, BUILTIN)))


def make_searcher(
    searcher: str | type[Searcher] | Searcher | optuna.samplers.BaseSampler,
    context: SearchContext,
    **options: Any,
) -> Searcher:
    """A searcher of a name, a class or an instance.

    Args:
        searcher: a name (see `names`), `package.module:Name`, a class that is made with
            (context, **options), or an instance, which is given back as it is; or one of Optuna's
            samplers, which is driven by `OptunaSearcher`.
        context: the problem.
        options: of the searcher, by keyword.

    Raises:
        PluginError: nothing has that name, two things have it, or it is no `Searcher`.
        ConfigError: an option that the searcher does not have, or that it refuses; or several
            objectives, and it can't search for a front.
    """
    several = bool(context.objectives)
    if isinstance(searcher, Searcher):
        if several and not searcher.several_objectives:
            raise ConfigError(_single(type(searcher).__name__))
        if options:
            raise ConfigError(
                "options must be given to the searcher's constructor where an instance is "
                f"passed; got {', '.join(options)}"
            )
        return searcher
    target: Any = searcher
    loaded = sys.modules.get("optuna")
    if loaded is not None and isinstance(searcher, loaded.samplers.BaseSampler):
        target, options = load_object(BUILTIN["optuna"]), {"sampler": searcher, **options}
    if isinstance(searcher, str):
        target = resolve(searcher, GROUP, BUILTIN, what="searcher")
    if not (inspect.isclass(target) and issubclass(target, Searcher)):
        raise PluginError(
            f"searcher must be a subclass of autoprune.Searcher, {searcher!r} is {target!r}"
        )
    if several:
        target = for_front(target)
    check_options(target, options)
    made: Searcher = target(context, **options)
    return made


def for_front(searcher: type[Searcher]) -> type[Searcher]:
    """The class that searches for a front in a searcher's way: itself, or its counterpart.

    Raises:
        ConfigError: there is none; names the searchers that have one.
    """
    other = FRONTS.get(f"{searcher.__module__}:{searcher.__qualname__}")
    if other is not None:
        found: type[Searcher] = load_object(other)
        return found
    if not searcher.several_objectives:
        raise ConfigError(_single(searcher.__name__))
    return searcher


def _single(name: str) -> str:
    able = sorted(
        known
        for known, target in BUILTIN.items()
        if target in FRONTS or load_object(target).several_objectives
    )
    return (
        f"searcher {name} has one objective only; for several take one of {', '.join(able)}, or a "
        "searcher of your own with several_objectives = True"
    )


def check_options(
    searcher: type[Searcher], options: Mapping[str, Any], trials: int | None = None
) -> None:
    """Refuse options that a searcher's constructor does not have, or that leave it no trial.

    Args:
        searcher: of any kind; those of our own with a warm-up are asked about it.
        options: of its constructor.
        trials: planned, where known.

    Raises:
        ConfigError: names the valid options, or says what is too long a warm-up.
    """
    parameters = list(inspect.signature(searcher).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    valid = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in options if name not in valid]
    if unknown:
        raise ConfigError(
            f"searcher {searcher.__name__} has no option {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(valid) or 'none'}"
        )
    for name in ("warmup", "startup"):
        first = options.get(name)
        if trials is not None and isinstance(first, int) and first >= trials:
            raise ConfigError(
                f"{name} of searcher {searcher.__name__} must be below the {trials} trials "
                f"planned, got {first}; it would never learn. Plan more trials or lower it"
            )
