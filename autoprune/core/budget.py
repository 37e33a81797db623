"""Budgets: what a candidate may cost at most, absolute or relative to the dense network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.cost import Cost
from autoprune.core.errors import BudgetError

#: Names a user may write, and the metric and unit factors that each allows.
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "latency_ms": {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "energy_mj": {"": 1.0, "mJ": 1.0, "J": 1e3, "uJ": 1e-3, "µJ": 1e-3},
    "macs": _PREFIXES,
    "params": _PREFIXES,
    "memory_bytes": {
        **{f"{p}B": f for p, f in {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}.items()},
        **{f"{p}iB": f for p, f in {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30}.items()},
        "": 1.0,
    },
}
_ALIASES = {
    "latency": "latency_ms",
    "energy": "energy_mj",
    "memory": "memory_bytes",
    "parameters": "params",
}
_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ%]*)\s*$")


def metric_name(name: str) -> str:
    """The metric that a bound's name stands for: "latency" is latency_ms, "flops" bounds macs."""
    return "macs" if name == "flops" else _ALIASES.get(name, name)


@dataclass(frozen=True)
class Limit:
    """One bound.

    Attributes:
        value: in the metric's unit, or a fraction of the dense network's cost if `relative`.
        relative: whether `value` is a fraction.
    """

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}x" if self.relative else f"{self.value:g}"


def _limit(metric: str, given: float | int | str | Limit) -> Limit:
    if isinstance(given, Limit):
        limit = given
    elif isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise BudgetError(f"budget {metric} must be a number or text like '0.6x', got {given!r}")
    elif isinstance(given, str):
        limit = _parse_limit(metric, given)
    else:
        limit = Limit(float(given))
    if not math.isfinite(limit.value) or limit.value <= 0:
        raise BudgetError(f"budget {metric} must be finite and above 0, got {given!r}")
    return limit


def _parse_limit(metric: str, text: str) -> Limit:
    match = _NUMBER.match(text)
    kind = "memory_bytes" if metric.endswith("_bytes") else metric
    units = _UNITS.get(kind, {"": 1.0})
    if match:
        number, unit = float(match[1]), match[2]
        if unit in ("x", "X"):
            return Limit(number, relative=True)
        if unit == "%":
            return Limit(number / 100, relative=True)
        if unit in units:
            return Limit(number * units[unit])
    known = ", ".join(u for u in units if u) or "no unit"
    raise BudgetError(
        f"budget {metric} must be a number with an optional unit ({known}), or a fraction of the "
        f"dense network such as 0.6x or 60%; got {text!r}"
    )


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the cost of a candidate; None is unbounded.

    Each bound is a number in the metric's unit, a text with a unit (`"2.5ms"`, `"60M"`,
    `"1.5MiB"`), or relative to the dense network (`"0.6x"`, `"60%"`).

    Args:
        latency_ms: milliseconds per batch.
        energy_mj: millijoules per batch.
        macs: multiply-accumulates per sample (FLOPs = 2 × MACs).
        params: number of parameters.
        memory_bytes: weights and peak activations in bytes.
        extra: bounds on metrics of the user's own cost model or profiler, by name.

    Raises:
        BudgetError: a bound that can't be read, is not finite or not above 0, or none at all.
    """

    latency_ms: float | str | Limit | None = None
    energy_mj: float | str | Limit | None = None
    macs: float | str | Limit | None = None
    params: float | str | Limit | None = None
    memory_bytes: float | str | Limit | None = None
    extra: Mapping[str, float | str | Limit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric in _UNITS:
            given = getattr(self, metric)
            if given is not None:
                object.__setattr__(self, metric, _limit(metric, given))
        object.__setattr__(self, "extra", {m: _limit(m, v) for m, v in self.extra.items()})
        if not self.limits:
            raise BudgetError(
                "a budget must bound something; give one of "
                f"{', '.join(_UNITS)}, for example latency=0.6x"
            )

    @property
    def limits(self) -> dict[str, Limit]:
        """The bounds there are, by metric."""
        own = {metric: getattr(self, metric) for metric in _UNITS}
        return {m: v for m, v in {**own, **self.extra}.items() if v is not None}

    @classmethod
    def parse(cls, text: str | Mapping[str, float | str] | Budget) -> Budget:
        """Read `"latency=0.6x,macs=60M"`, a mapping of the same, or a Budget as it is.

        `latency`, `energy`, `memory` and `parameters` are short for the metrics with units in
        their names; `flops` is taken as 2 × MACs. Other names are metrics of the user's own.

        Raises:
            BudgetError: the text or a bound can't be read.
        """
        if isinstance(text, Budget):
            return text
        if not isinstance(text, str | Mapping):
            raise BudgetError(
                "a budget must be text such as latency=0.6x, a mapping such as "
                f'{{"macs": "0.5x"}}, or a Budget; got {text!r}'
            )
        if isinstance(text, Mapping):
            pairs: list[tuple[str, float | str | Limit]] = [(str(n), v) for n, v in text.items()]
        else:
            pairs = []
            for part in filter(None, (p.strip() for p in text.split(","))):
                name, separator, value = part.partition("=")
                if not separator or not value.strip():
                    raise BudgetError(
                        f"a budget must be written name=value, for example latency=0.6x; "
                        f"got {part!r}"
                    )
                pairs.append((name.strip(), value.strip()))
        bounds: dict[str, Limit] = {}
        for name, given in pairs:
            metric = metric_name(name)
            limit = _limit(metric, given)
            if name == "flops" and not limit.relative:
                limit = Limit(limit.value / 2)
            counted = metric in ("macs", "params") or metric.endswith("_bytes")
            if counted and not limit.relative and limit.value < 1:
                raise BudgetError(
                    f"budget {metric} must be 1 or more, or a share of the dense network, which "
                    f"is written {limit.value:g}x; got {given!r}"
                )
            if metric in bounds:
                raise BudgetError(f"budget {metric} must be given once, got it twice")
            bounds[metric] = limit
        return cls._of(bounds)

    @classmethod
    def _of(cls, bounds: Mapping[str, Limit]) -> Budget:
        own: dict[str, Any] = {m: limit for m, limit in bounds.items() if m in _UNITS}
        return cls(**own, extra={m: limit for m, limit in bounds.items() if m not in _UNITS})

    def absolute(self, dense: Cost) -> Budget:
        """The same budget with every relative bound turned into the metric's unit.

        Raises:
            BudgetError: the dense network's cost is not known in a metric that is bounded.
        """
        bounds: dict[str, Limit] = {}
        for metric, limit in self.limits.items():
            value = dense.get(metric)
            if value is None:
                known = ", ".join(sorted(dense.estimates)) or "none"
                raise BudgetError(
                    f"budget {metric} needs the dense network's {metric}, which is not known "
                    f"(known: {known}); give a device or table that measures it"
                )
            bounds[metric] = Limit(limit.value * value) if limit.relative else limit
        return self._of(bounds)

    def violations(self, cost: Cost, z: float = 0.0) -> dict[str, float]:
        """By how much each bound is broken, as a fraction of it; above 0 is violated.

        Args:
            cost: of the candidate; the budget must be absolute.
            z: standard deviations added to the mean (1.645 is a 95 % upper bound).

        Raises:
            BudgetError: the budget is relative, or the cost lacks a bounded metric.
        """
        result = {}
        for metric, limit in self.limits.items():
            estimate = cost.estimates.get(metric)
            if limit.relative or estimate is None:
                what = "is relative" if limit.relative else "is not in the cost"
                raise BudgetError(f"budget {metric} {what}; make it absolute with the dense cost")
            result[metric] = estimate.upper(z) / limit.value - 1.0
        return result

    def __str__(self) -> str:
        return ", ".join(f"{metric}={limit}" for metric, limit in self.limits.items())
