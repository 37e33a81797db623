"""What is asked of a search: validated settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from autoprune.core.budget import Budget
from autoprune.core.errors import BudgetError, ConfigError
from autoprune.core.objectives import metric_of, parse_objectives
from autoprune.study.families import family_settings, from_text, is_family, members
from autoprune.study.settings import (
    FrontSettings,
    Named,
    RacingSettings,
    RecoverSettings,
    Run,
    Settings,
    TableSettings,
    VerifySettings,
    WorkerSettings,
)
from autoprune.study.wrong_settings import explain


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
        budget: upper bounds: {latency: 0.6x, macs: 60M}; with a list of bounds for a metric,
            several budgets that are searched for in one run. With `objectives` it may be left out.
        device: what is measured on, or None: nothing is measured.
        searcher: proposes candidates.
        local_search: share of the trials, at the end, that are spent around the best candidates so
            far instead of being the searcher's; 0 is none.
        confidence: with which a candidate must hold the budget by prediction to be evaluated
            (one-sided). Winners are measured anyway, so a higher one is safer, not surer: it
            leaves more of the budget unused.
        trials: candidates evaluated; of several budgets, for all of them together.
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
        objective: the metric that is maximised; with a minus before it ("-loss"), minimised.
        objectives: a Pareto front of these is searched for: a metric of evaluate, then costs and
            further metrics ("-" before one that is minimised).
        front: which points of it are shown.
        verify: how winners are measured.
        profile: how a table is measured.
        max_failures: evaluations that may fail in a row before the search stops.
        storage: Optuna database URL; None keeps a journal file in the run folder.
        study: name of a study in `storage` that several drivers search together: the first that
            names it begins it, others join; None searches alone.
        racing: stop evaluations of candidates that are surely worse than the best; None
            evaluates all in full.
        workers: evaluate on so many Ray workers; None evaluates in this process, without Ray.
        run: written by autoprune into a run folder.
    """

    python_path: tuple[str, ...] = ()
    model: Named | None = None
    inputs: Named | str | tuple[str, ...] | None = None
    evaluate: Named | None = None
    calibration: Named | None = None
    train: Named | None = None
    budget: dict[str, float | str | tuple[float | str, ...]]
    device: Named | None = Named(name="onnxruntime-cpu")
    searcher: Named = Named(name="auto")
    local_search: float = Field(default=0.0, ge=0, lt=1)
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
    objectives: tuple[str, ...] | None = None
    front: FrontSettings = FrontSettings()
    verify: VerifySettings = VerifySettings()
    profile: TableSettings = TableSettings()
    max_failures: int = Field(default=5, ge=1)
    storage: str | None = None
    study: str | None = Field(default=None, min_length=1, max_length=200)
    racing: RacingSettings | None = None
    workers: WorkerSettings | None = None
    run: Run | None = None

    @field_validator(
        "model", "evaluate", "calibration", "train", "loss", "device", "searcher", mode="before"
    )
    @classmethod
    def _named(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("recover", "racing", mode="before")
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

    @model_validator(mode="before")
    @classmethod
    def _several(cls, data: object) -> object:
        """With several objectives, the first is the objective, and a budget need not be given."""
        if not isinstance(data, Mapping) or data.get("objectives") is None:
            return data
        names = data["objectives"]
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise ValueError(
                f"objectives must be a list such as [accuracy, latency], got {names!r}"
            )
        first = str(names[0]).strip() if names else ""
        if data.get("objective", first) != first:
            raise ValueError(
                f"objective must be the first of the objectives ({first}) or be left out, got "
                f"{data['objective']!r}"
            )
        if is_family(data.get("budget")):
            raise ValueError(
                "objectives give a whole front, so the budget must be a single one; take networks "
                "for other budgets off the front by `autoprune pick`"
            )
        return {"budget": {"macs": "1x"}, **data, "objective": first}

    @field_validator("study")
    @classmethod
    def _shared(cls, value: str | None, known: ValidationInfo) -> str | None:
        if value is None:
            return None
        if known.data.get("storage") is None:
            raise ValueError(
                "a study that several drivers search together is in a database; give its URL by "
                "`storage`, or leave `study` out"
            )
        if known.data.get("objectives") is not None or is_family(known.data.get("budget")):
            raise ValueError(
                "drivers that search together must have a single budget and no objectives; leave "
                "`study` out, or search for each budget in a study of its own"
            )
        return value

    @field_validator("objective")
    @classmethod
    def _objective(cls, value: str) -> str:
        metric = metric_of(value.strip()).strip()
        if not metric or metric.startswith("-"):
            raise ValueError(
                f"must be a metric such as accuracy, or -loss to minimise one, got {value!r}"
            )
        return f"-{metric}" if value.strip().startswith("-") else metric

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            try:
                parse_objectives(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

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
    def _budget_holds(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            budget_settings(value)
        except BudgetError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _local(self) -> SearchConfig:
        """Local search has one best candidate to be around, and trials to be the last share of."""
        if not self.local_search:
            return self
        if self.objectives is not None:
            raise ValueError(
                "local_search is around the best candidate, and several objectives have no single "
                "one; leave it out"
            )
        budgets = len(members(self.budget))
        if self.trials < 2 * budgets:
            raise ValueError(
                f"local_search needs two trials or more of every budget, got {self.trials} trials "
                f"for {budgets}"
            )
        return self

    @property
    def single_budget(self) -> Budget:
        """The budget of a search that has one only (of several, each is searched for by itself)."""
        return Budget.parse(cast("dict[str, float | str]", self.budget))


def budget_settings(budget: str | Mapping[str, Any] | Budget) -> dict[str, Any]:
    """A budget as settings hold it: numbers in the metric's unit, or fractions like "0.6x".

    Of several budgets in one, those bounds that vary are lists.

    Raises:
        BudgetError: it can't be read.
    """
    if isinstance(budget, str) and "[" in budget:
        return family_settings(from_text(budget))
    if isinstance(budget, Mapping) and is_family(budget):
        return family_settings(budget)
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
