"""What a search works on: the settings and the objects they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autoprune.core.device import Profiler
from autoprune.core.errors import ConfigError
from autoprune.core.failures import describe
from autoprune.cost.base import CostModel
from autoprune.evaluate.base import Evaluator
from autoprune.searchers.base import Searcher
from autoprune.space.space import SearchSpace
from autoprune.study.config import SearchConfig
from autoprune.study.config_files import read_config, read_yaml
from autoprune.study.references import call_reference, function_reference
from autoprune.study.settings import Named

if TYPE_CHECKING:
    from autoprune.pruning.importance import Importance
    from autoprune.pruning.recover import Loss
    from autoprune.study.cache import EvaluationCache

#: Positional inputs, or keyword inputs by name.
Inputs = tuple[Any, ...] | dict[str, Any]

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64}


@dataclass
class Task:
    """One search, ready to begin.

    Attributes:
        config: validated settings; where an object is given below, it counts instead.
        model: trained, dense; never changed.
        example_inputs: of one batch: positional ones, or a mapping of keyword ones.
        evaluate: the user's function.
        calibration: batches of inputs, or None.
        train: batches of (inputs, labels) for recovery, or None.
        loss: of the network's output and the labels, or None for cross-entropy.
        searcher: a class or an instance, or None for the config's.
        importance: an object, or None for the config's.
        profiler: an object, or None for the config's device.
        table: a cost model that predicts latency, or None for the config's.
        space: an object, or None for the config's.
        cache: evaluations that a batch shares, or None.
        base: relative paths of the config start here.
    """

    config: SearchConfig
    model: nn.Module
    example_inputs: Inputs
    evaluate: Evaluator
    calibration: list[Any] | None = None
    train: Iterable[Any] | None = None
    loss: Loss | None = None
    searcher: type[Searcher] | Searcher | None = None
    importance: Importance | None = None
    profiler: Profiler | None = None
    table: CostModel | None = None
    space: SearchSpace | None = None
    cache: EvaluationCache | None = None
    base: Path = field(default_factory=Path.cwd)


def task_from_config(config: SearchConfig, base: Path) -> Task:
    """Import and build what a config names.

    Args:
        config: with `model`, `inputs` and `evaluate`.
        base: relative paths start here.

    Raises:
        ConfigError: something is missing, does not import, or gives something else.
    """
    _given(config.model, "model")
    evaluate_name = _given(config.evaluate, "evaluate")
    model, inputs = build_model(config, base)
    return Task(
        config=config,
        model=model,
        example_inputs=inputs,
        evaluate=function_reference(evaluate_name.name, evaluate_name.options, base, "evaluate"),
        calibration=_batches(config.calibration, base, "calibration"),
        train=_iterable(config.train, base, "train"),
        loss=None
        if config.loss is None
        else function_reference(config.loss.name, config.loss.options, base, "loss"),
        base=base,
    )


def build_model(config: SearchConfig, base: Path) -> tuple[nn.Module, Inputs]:
    """The network of a config, and its example inputs.

    Raises:
        ConfigError: one is missing, does not import, or gives something else.
    """
    for folder in (*config.python_path, str(Path.cwd())):
        place = str((base / Path(folder).expanduser()).resolve())
        if not Path(place).is_dir():
            raise ConfigError(f"python_path must name folders; there is no folder {place}")
        if place not in sys.path:
            sys.path.insert(0, place)
    named = _given(config.model, "model")
    model = call_reference(named.name, named.options, base, "model")
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model: {named.name!r} must return a torch.nn.Module, it returned "
            f"{type(model).__name__}"
        )
    return model, example_inputs(config.inputs, base)


def model_from_config(
    path: Path | None, options: Mapping[str, Any], settings: Sequence[str]
) -> tuple[nn.Module, Inputs, SearchConfig]:
    """The network of a config that need not say what is searched for.

    Raises:
        ConfigError: as `read_config` and `build_model`.
    """
    given = {"budget": {"macs": "1x"}, **({} if path is None else read_yaml(path)), **options}
    config = read_config(None, settings, given, where=None if path is None else str(path))
    base = Path.cwd() if path is None else path.absolute().parent
    model, inputs = build_model(config, base)
    return model, inputs, config


def example_inputs(given: Named | str | tuple[str, ...] | None, base: Path) -> Inputs:
    """The example inputs that a config describes.

    Raises:
        ConfigError: they are missing, or a shape can't be read.
    """
    if given is None:
        raise ConfigError(
            "inputs must be given: shapes such as 8x3x32x32, or a function that makes them"
        )
    if isinstance(given, Named):
        return as_inputs(call_reference(given.name, given.options, base, "inputs"))
    texts = given.split(",") if isinstance(given, str) else given
    return tuple(_zeros(text.strip()) for text in texts)


def as_inputs(given: Any) -> Inputs:
    """A tensor, or a list or tuple of inputs, as a tuple; a mapping of keyword inputs as a dict."""
    if isinstance(given, torch.Tensor):
        return (given,)
    if isinstance(given, list | tuple) and given:
        return tuple(given)
    if isinstance(given, Mapping) and given:
        return {str(name): value for name, value in given.items()}
    raise ConfigError(
        "example inputs must be a tensor, a tuple of positional inputs or a mapping of keyword "
        f"inputs, got {type(given).__name__}"
    )


def as_batches(given: Any, what: str = "calibration") -> list[Any]:
    """The user's batches of inputs as a list.

    Raises:
        ConfigError: they can't be iterated, or are a single batch.
    """
    if isinstance(given, torch.Tensor | Mapping):
        raise ConfigError(
            f"{what} must be several batches (a list or a loader), got a single "
            f"{type(given).__name__}; give [batch]"
        )
    if not isinstance(given, Iterable) or isinstance(given, str):
        hint = "; give what it returns" if callable(given) else ""
        raise ConfigError(
            f"{what} must be batches (a list or a loader), got {type(given).__name__}{hint}"
        )
    try:
        return list(given)
    except Exception as error:  # the user's loader
        raise ConfigError(
            f"{what}: the batches must be iterated, but got {describe(error)}"
        ) from error


def _zeros(text: str) -> torch.Tensor:
    shape, _, kind = text.partition(":")
    dtype = _DTYPES.get(kind or "float32")
    try:
        sizes = [int(size) for size in shape.lower().split("x")]
    except ValueError:
        sizes = []
    if dtype is None or not sizes or min(sizes) < 1:
        raise ConfigError(
            "inputs must be shapes such as 8x3x32x32 or 1x128:int64 (types: "
            f"{', '.join(_DTYPES)}), with commas between several; got {text!r}"
        )
    # Zeros would let a data-dependent path look constant; a fixed draw does not.
    try:
        if dtype is torch.int64:
            return torch.zeros(sizes, dtype=dtype)
        return torch.randn(sizes, dtype=dtype, generator=torch.Generator().manual_seed(0))
    except RuntimeError as error:  # more than there is memory, or than a size can be
        raise ConfigError(
            f"inputs of shape {text} don't fit into memory; give smaller ones"
        ) from error


def _given(named: Named | None, what: str) -> Named:
    if named is None:
        raise ConfigError(
            f"{what} must be given: package.module:name, or path/to/file.py:name beside the config"
        )
    return named


def _iterable(named: Named | None, base: Path, what: str) -> Iterable[Any] | None:
    if named is None:
        return None
    found = call_reference(named.name, named.options, base, what)
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping | torch.Tensor):
        raise ConfigError(
            f"{what}: {named.name!r} must return batches (a list or a loader), "
            f"it returned {type(found).__name__}"
        )
    return found


def _batches(named: Named | None, base: Path, what: str) -> list[Any] | None:
    found = _iterable(named, base, what)
    return None if found is None else as_batches(found, what)
