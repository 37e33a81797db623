"""What is asked of a search: validated settings, read from YAML or given as arguments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autoprune.core.budget import Budget, metric_name
from autoprune.core.errors import BudgetError, ConfigError
from autoprune.study.references import expand_all


class Settings(BaseModel):
    """Base of every section: unknown keys are refused, values are not changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(Settings):
    """A plug-in or a function of the user's, with its options.

    Attributes:
        name: a plug-in's name, `package.module:Name` or `path/to/file.py:Name`.
        options: keyword arguments.
    """

    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


class VerifySettings(Settings):
    """How candidates are measured before one is believed.

    Attributes:
        top: candidates measured at a time, the most accurate first.
        rounds: how often the search may go on after all of them broke the budget.
        width: half width of the confidence interval aimed at, as a fraction of the latency.
        timeout_s: seconds a candidate may be measured at most.
    """

    top: int = Field(default=3, ge=1, le=100)
    rounds: int = Field(default=4, ge=0, le=100)
    width: float = Field(default=0.01, gt=0, lt=1)
    timeout_s: float = Field(default=30.0, gt=0)


class TableSettings(Settings):
    """How a latency table is measured where none is given.

    Attributes:
        candidates: measured at most.
        timeout_s: seconds it may take.
        error: stop at this median relative error on held-out candidates.
    """

    candidates: int = Field(default=48, ge=8)
    timeout_s: float = Field(default=300.0, gt=0)
    error: float = Field(default=0.02, gt=0, lt=1)


class RecoverSettings(Settings):
    """How the winner is fine-tuned; see `autoprune.pruning.recover.recover`.

    Attributes:
        epochs: at most so many.
        lr: peak learning rate.
        optimizer: "sgd" or "adamw".
        weight_decay: not applied to biases and norms.
        warmup: share of the steps in which the learning rate rises.
        distill: the distillation's share of the loss, 0 to 1.
        temperature: softens the outputs that are distilled.
        patience: stop after so many epochs without a better one; None goes on to the end.
        clip_norm: gradients are scaled to at most this norm; None leaves them.
    """

    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=0.01, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    distill: float = Field(default=0.7, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    patience: int | None = Field(default=None, ge=1)
    clip_norm: float | None = Field(default=5.0, gt=0)


class WorkerSettings(Settings):
    """Evaluation on Ray workers.

    Attributes:
        count: workers, each evaluating one candidate at a time.
        address: of a Ray cluster: auto, host:port or ray://host:port; None starts Ray here.
        resources: that each worker holds: cpu, gpu (0.25 shares one), memory_bytes, or custom.
        threads: of torch in each worker; None takes the whole CPUs it holds.
        timeout_s: seconds that one evaluation may take before its worker counts as hanging.
        retries: how often an evaluation is run again after its worker died or hung.
        ordered: whether results are taken in the order of submission, so that the same seed and
            count give the same trials with every searcher.
    """

    count: int = Field(ge=1, le=100_000)
    address: str | None = None
    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {"cpu": 1.0}
    )
    threads: int | None = Field(default=None, ge=1)
    timeout_s: float | None = Field(default=None, gt=0)
    retries: int = Field(default=2, ge=0, le=100)
    ordered: bool = False


class Run(Settings):
    """What autoprune itself notes in a run folder's config.

    Attributes:
        schema_version: of the run folder.
        autoprune: the version that began the run.
        study: the study's name in the storage.
        network: fingerprint of the dense network.
        base: folder that relative paths of the config start from.
    """

    schema_version: int
    autoprune: str
    study: str
    network: str
    base: str


class SearchConfig(Settings):
    """Everything a search is asked for; the keys of a YAML config.

    Attributes:
        python_path: folders added to Python's module path, relative to the config.
        model: function that builds the trained network.
        inputs: example inputs: shapes like "8x3x32x32" (float32), or a function that makes them.
        evaluate: function of a network that gives {"accuracy": ...}.
        calibration: function that gives batches of inputs, for BatchNorm and least squares; the
            search uses the first 400 samples, the winners are refitted on all of them.
        train: function that gives (inputs, labels) batches, for recovery.
        budget: upper bounds: {latency: 0.6x, macs: 60M}.
        device: what is measured on, or None: nothing is measured.
        searcher: proposes candidates.
        confidence: with which a candidate must hold the budget by prediction to be evaluated
            (one-sided). Winners are measured anyway, so a higher one is safer, not surer: it
            leaves more of the budget unused.
        trials: candidates evaluated.
        seed: of every random choice.
        out: run folder.
        space: search-space file; None offers every group.
        table: latency table to load: a file, or "shipped" for the one of this device and network
            that comes with autoprune; None measures one where the budget needs it.
        importance: which channels of a group go first: "reconstruction" (what least squares
            can't make up for; needs calibration), "l1", "l2", "bn_scale" or "taylor" (needs
            train); "auto" is reconstruction where calibration batches are there, else l1.
        reconstruct: whether consuming layers are refitted by least squares.
        loss: function of the network's output and the labels that gives a scalar, for recovery
            and Taylor importance; None is cross-entropy.
        recover: settings of the fine-tuning of the winner; None leaves it as it is.
        objective: the metric that is maximised.
        verify: how winners are measured.
        profile: how a table is measured.
        max_failures: evaluations that may fail in a row before the search stops.
        storage: Optuna database URL; None keeps a journal file in the run folder.
        workers: evaluate on so many Ray workers; None evaluates in this process, without Ray.
        run: written by autoprune into a run folder.
    """

    python_path: tuple[str, ...] = ()
    model: Named | None = None
    inputs: Named | str | tuple[str, ...] | None = None
    evaluate: Named | None = None
    calibration: Named | None = None
    train: Named | None = None
    budget: dict[str, float | str]
    device: Named | None = Named(name="onnxruntime-cpu")
    searcher: Named = Named(name="evolve")
    confidence: float = Field(default=0.8, ge=0.5, lt=1)
    trials: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    out: str | None = None
    space: str | None = None
    table: str | None = None
    importance: str = "auto"
    reconstruct: bool = True
    loss: Named | None = None
    recover: RecoverSettings | None = None
    objective: str = "accuracy"
    verify: VerifySettings = VerifySettings()
    profile: TableSettings = TableSettings()
    max_failures: int = Field(default=5, ge=1)
    storage: str | None = None
    workers: WorkerSettings | None = None
    run: Run | None = None

    @field_validator(
        "model", "evaluate", "calibration", "train", "loss", "device", "searcher", mode="before"
    )
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("recover", mode="before")
    @classmethod
    def _recover(cls, value: object) -> object:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: object) -> object:
        return {"count": value} if isinstance(value, int) else value

    @field_validator("inputs", mode="before")
    @classmethod
    def _inputs(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("must be shapes such as 8x3x32x32, or a function that makes them")
        function = isinstance(value, str) and not value.strip()[:1].isdigit()
        return {"name": value} if function else value

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return budget_settings(value)
            except BudgetError as error:
                raise ValueError(str(error)) from error
        if not isinstance(value, Mapping):
            raise ValueError(
                "a budget must be written latency=0.6x or {latency: 0.6x, params: 0.5x}, "
                f"got {value!r}"
            )
        return value

    @field_validator("budget")
    @classmethod
    def _budget_holds(cls, value: dict[str, float | str]) -> dict[str, float | str]:
        try:
            Budget.parse(value)
        except BudgetError as error:
            raise ValueError(str(error)) from error
        return value


def budget_settings(budget: str | Mapping[str, float | str] | Budget) -> dict[str, float | str]:
    """A budget as settings hold it: numbers in the metric's unit, or fractions like "0.6x".

    Raises:
        BudgetError: it can't be read.
    """
    limits = Budget.parse(budget).limits
    return {m: f"{b.value!r}x" if b.relative else b.value for m, b in limits.items()}


def validate(data: Mapping[str, Any], where: str) -> SearchConfig:
    """Check settings.

    Args:
        data: as read from YAML.
        where: the file or call they come from, for messages.

    Raises:
        ConfigError: says which setting must be what, with the nearest valid name for a wrong one.
    """
    try:
        return SearchConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, where, SearchConfig)) from error


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
_UNION_BRANCHES = frozenset({"Named", "str", "tuple[str, ...]", "float", "RecoverSettings"})


def _names(schema: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    for part in path:
        field = schema.model_fields.get(str(part))
        if field is None:
            continue
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                schema = kind
    return sorted(name for name in schema.model_fields if name != "run")


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
