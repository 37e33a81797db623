"""The sections of a search's settings, each checked by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator


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


class FrontSettings(Settings):
    """Which points of a Pareto front are shown; see `SearchConfig.objectives`.

    Attributes:
        points: at most so many, spread along the front so that they cover the most of it. Where a
            device tells an objective, each is measured.
        worst: of metrics among the objectives, the worst value that is worth a point, such as
            `{accuracy: 0.9}`; trials go where it is held.
    """

    points: int = Field(default=12, ge=2, le=100)
    worst: dict[str, FiniteFloat] = {}


class TableSettings(Settings):
    """How a latency table is measured where none is given.

    Attributes:
        candidates: measured at most.
        timeout_s: seconds it may take.
        error: stop where the held-out candidates tell, with a confidence of 95 %, that the median
            relative error is below this, or below 0.8 times the noise where that is more.
        reuse: tables whose kernel times are taken over; true for every one of the device in
            `latency_models` and among those measured here before, false for none.
    """

    candidates: int = Field(default=512, ge=8)
    timeout_s: float = Field(default=180.0, gt=0)
    error: float = Field(default=0.01, gt=0, lt=1)
    reuse: bool | tuple[str, ...] = True


class RewindSettings(Settings):
    """The schedule that the dense network was trained with; see `autoprune.pruning.Rewind`.

    Attributes:
        epochs: that it was trained for.
        lr: its first learning rate.
        milestones: epochs at which it was multiplied by `gamma`; none is a cosine down to 0.
        gamma: factor at each milestone.
    """

    epochs: int = Field(ge=1)
    lr: float = Field(default=0.1, gt=0)
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _within(self) -> RewindSettings:
        if not all(0 < milestone < self.epochs for milestone in self.milestones):
            raise ValueError(
                f"milestones must lie between 0 and epochs ({self.epochs}), "
                f"got {list(self.milestones)}"
            )
        return self


class RecoverSettings(Settings):
    """How the winner is fine-tuned; see `autoprune.pruning.recover.recover`.

    Attributes:
        epochs: at most so many.
        lr: peak learning rate.
        optimizer: "sgd" or "adamw".
        weight_decay: not applied to biases and norms.
        warmup: share of the steps in which the learning rate rises.
        rewind: take the last `epochs` of the original training's schedule instead of `lr` and
            `warmup`.
        distill: the distillation's share of the loss, 0 to 1.
        temperature: softens the outputs that are distilled.
        features: weight of the distance of the features that have one shape in both networks.
        patience: stop after so many epochs without a better one; None goes on to the end.
        clip_norm: gradients are scaled to at most this norm; None leaves them.
        precision: of the forward passes; "auto" is bf16 (or fp16) on a GPU, fp32 on a CPU.
    """

    epochs: int = Field(default=10, ge=1)
    lr: float = Field(default=0.01, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    rewind: RewindSettings | None = None
    distill: float = Field(default=0.7, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    features: float = Field(default=0.0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    clip_norm: float | None = Field(default=5.0, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @model_validator(mode="after")
    def _one_schedule(self) -> RecoverSettings:
        if self.rewind is None:
            return self
        fields = type(self).model_fields
        # A run folder's config holds every setting, so that being set tells nothing.
        both = [name for name in ("lr", "warmup") if getattr(self, name) != fields[name].default]
        if both:
            raise ValueError(f"rewind takes the place of {' and '.join(both)}; give one of them")
        if self.epochs > self.rewind.epochs:
            raise ValueError(
                f"epochs must be at most rewind.epochs ({self.rewind.epochs}), got {self.epochs}"
            )
        return self


class RacingSettings(Settings):
    """When an evaluation stops because the candidate is surely worse than the best.

    Attributes:
        confidence: with which one that is as good as the last of the best is evaluated in full.
        places: how many of the best are to be known in full; None takes `verify.top`, and three
            times as many where the budget is measured, for some of them may break it.
    """

    confidence: float = Field(default=0.99, gt=0.5, lt=1)
    places: int | None = Field(default=None, ge=1)


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
        study: the study's name in the storage; the driver's, where several search one study.
        network: fingerprint of the dense network.
        base: folder that relative paths of the config start from.
    """

    schema_version: int
    autoprune: str
    study: str
    network: str
    base: str
