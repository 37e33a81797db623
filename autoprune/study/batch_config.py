"""A sweep: models × budgets × devices × searchers × seeds, each combination one search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator

from autoprune.core.errors import ConfigError
from autoprune.study.config import SearchConfig, budget_settings, validate
from autoprune.study.config_files import override, read_yaml
from autoprune.study.references import expand_all
from autoprune.study.settings import Named, Settings
from autoprune.study.table import tells
from autoprune.study.wrong_settings import explain


class Jobs(Settings):
    """How the searches of a batch are run.

    Attributes:
        parallel: searches at a time on a Ray started here; on a cluster, as many as have room.
        address: of a Ray cluster: auto, host:port or ray://host:port; None starts Ray here.
        resources: that each search holds while it runs: cpu, gpu, memory_bytes, or custom ones.
        retries: how often a search that failed is tried again; it goes on where it was.
        timeout_s: seconds that one search may take; None waits.
    """

    parallel: int = Field(default=2, ge=1, le=10_000)
    address: str | None = None
    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {"cpu": 1.0}
    )
    retries: int = Field(default=1, ge=0, le=100)
    timeout_s: float | None = Field(default=None, gt=0)


#: What a job sets by itself, and a sweep's models and defaults may not.
RESERVED = ("budget", "searcher", "seed", "out", "workers", "run", "table", "study")


class SweepConfig(Settings):
    """The keys of a sweep's YAML.

    Attributes:
        out: folder of the batch.
        models: settings of a search that belong to a model (model, inputs, evaluate,
            calibration, train, python_path, space, ...), each with a `name`.
        budgets: upper bounds, each a mapping or text as in a search.
        devices: what is measured on; none measures nothing, for budgets that are counted.
        searchers: that propose.
        seeds: of each search.
        defaults: settings of every search (trials, recover, verify, storage, ...).
        jobs: how they are run.
        study: a name under which several clusters run this sweep together, in the database that
            `storage` in the defaults gives; each search is a study of theirs.
    """

    out: str
    models: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    budgets: Annotated[tuple[dict[str, float | str], ...], Field(min_length=1)]
    devices: tuple[Named, ...] = ()
    searchers: Annotated[tuple[Named, ...], Field(min_length=1)] = (Named(name="tpe"),)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    defaults: dict[str, Any] = Field(default_factory=dict)
    jobs: Jobs = Jobs()
    study: str | None = Field(default=None, min_length=1, max_length=50)

    @field_validator("devices", "searchers", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @field_validator("budgets", mode="before")
    @classmethod
    def _budgets(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return [budget_settings(b) if isinstance(b, str) else b for b in value]
        return value


@dataclass(frozen=True)
class Job:
    """One search of a batch.

    Attributes:
        name: of its folder: model--budget--device--searcher--seed.
        model: the model's name.
        budget: as text, "latency=0.7x".
        device: the device's name, or "".
        config: of the search, but for `out` and `table`.
        table: name of the latency table that it shares, or None where its budget is counted.
    """

    name: str
    model: str
    budget: str
    device: str
    config: SearchConfig
    table: str | None


def read_sweep(path: Path, settings: list[str] | None = None) -> SweepConfig:
    """Read a sweep's YAML, with environment variables filled in.

    Raises:
        ConfigError: it can't be read, or a setting is wrong.
    """
    data = override(read_yaml(path), settings or [])
    return validate_sweep(expand_all(data, str(path)), str(path))


def validate_sweep(data: Mapping[str, Any], where: str) -> SweepConfig:
    """Check a sweep's settings.

    Raises:
        ConfigError: one is wrong, or something is named twice.
    """
    try:
        sweep = SweepConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, where, SweepConfig)) from error
    for entry in (*sweep.models, sweep.defaults):
        for key in RESERVED:
            if key in entry:
                raise ConfigError(
                    f"{where}: {key!r} can't be set in a model or in the defaults of a sweep; the "
                    "sweep sets it for each job (budgets, searchers, seeds, out, study)"
                )
    plan(sweep, where)
    return sweep


def write_sweep(sweep: SweepConfig) -> str:
    """The text of a sweep that `read_sweep` reads back."""
    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def plan(sweep: SweepConfig, where: str) -> list[Job]:
    """Every search of a sweep, in its order: the first model's first.

    Raises:
        ConfigError: a model has no name, something stands twice, or a job's settings are wrong.
    """
    names = [_model_name(model, where) for model in sweep.models]
    _once(names, "model", where)
    budgets = [_told(budget) for budget in sweep.budgets]
    _once(budgets, "budget", where)
    devices: list[Named | None] = list(sweep.devices) or [None]
    labels = _labels(devices)
    _once(labels, "device", where)
    searchers = _labels(list(sweep.searchers))
    _once(searchers, "searcher", where)
    _once([str(seed) for seed in sweep.seeds], "seed", where)
    jobs = []
    for m, b, d, s, seed in product(
        range(len(names)),
        range(len(budgets)),
        range(len(devices)),
        range(len(searchers)),
        sweep.seeds,
    ):
        device = devices[d]
        settings = {
            **sweep.defaults,
            **{key: value for key, value in sweep.models[m].items() if key != "name"},
            "budget": sweep.budgets[b],
            "device": None if device is None else device.model_dump(),
            "searcher": sweep.searchers[s].model_dump(),
            "seed": seed,
        }
        parts = [names[m], budgets[b], labels[d], searchers[s], f"seed{seed}"]
        name = "--".join(_slug(part) for part in parts if part)
        if sweep.study is not None:
            settings["study"] = f"{sweep.study}/{name}"
        config = validate(settings, f"{where}: model {names[m]!r}")
        latency = tells(config)
        if latency and device is None:
            raise ConfigError(
                f"{where}: the budget {budgets[b]} needs a device to measure on; name it by "
                "`devices`"
            )
        jobs.append(
            Job(
                name,
                names[m],
                budgets[b],
                labels[d],
                config,
                "--".join((_slug(names[m]), _slug(labels[d]))) if latency else None,
            )
        )
    _once([job.name for job in jobs], "job", where)
    return jobs


def _model_name(model: Mapping[str, Any], where: str) -> str:
    name = model.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where}: every entry of models must have a name, got {dict(model)!r}")
    return name


def _labels(given: list[Any]) -> list[str]:
    """Names; with their options where two have the same name."""
    names = [named.name.rpartition(":")[2] if named is not None else "" for named in given]
    return [
        name if names.count(name) == 1 else f"{name}({_options(named.options)})"
        for name, named in zip(names, given, strict=True)
    ]


def _options(options: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(options.items()))


def _told(budget: Mapping[str, float | str]) -> str:
    return ",".join(f"{name}={value}" for name, value in budget.items())


def _once(names: list[str], what: str, where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{where}: each {what} must stand once in a sweep; stands twice: {', '.join(twice)}"
        )


def _slug(text: str) -> str:
    """A part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-")
