"""Several budgets in one search: what they are, and the names of their folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.budget import Budget, metric_name
from autoprune.core.errors import BudgetError

#: Short names of bounds in folders' names.
_SHORT = {"latency_ms": "latency", "energy_mj": "energy", "memory_bytes": "memory"}


def is_family(budget: object) -> bool:
    """Whether a budget has a list in it: several bounds for one metric."""
    return isinstance(budget, Mapping) and any(isinstance(v, list | tuple) for v in budget.values())


def from_text(text: str) -> dict[str, str | list[str]]:
    """Bounds by name of `"latency=[0.9x,0.5x],params=0.6x"`: text in which a bound is a list.

    Raises:
        BudgetError: a part is no name=value, a bracket has no other, or a name comes twice.
    """
    found: dict[str, str | list[str]] = {}
    for part in re.split(r",(?![^\[]*\])", text):
        name, _, value = (piece.strip() for piece in part.partition("="))
        inner = value.removeprefix("[").removesuffix("]")
        listed = value == f"[{inner}]"
        if not name or not value or "[" in inner or "]" in inner or not (listed or inner == value):
            raise BudgetError(
                "several budgets must be written name=[bound,bound], for example "
                f"latency=[0.9x,0.5x]; got {part.strip()!r}"
            )
        if name in found:
            raise BudgetError(f"budget {name} must be given once, got it twice")
        bounds = inner.split(",") if inner.strip() else []
        found[name] = [bound.strip() for bound in bounds] if listed else value
    return found


def members(budget: Mapping[str, Any]) -> list[dict[str, float | str]]:
    """The budgets of a family, in the order given, each as settings hold it.

    Bounds that are lists are taken one by one, several lists side by side; the others hold for
    every budget.

    Args:
        budget: such as `{"latency": ["0.9x", "0.5x"], "params": "0.6x"}`.

    Raises:
        BudgetError: lists of different lengths, of fewer than two, the same budget twice, or one
            that can't be read.
    """
    lists = {name: v for name, v in budget.items() if isinstance(v, list | tuple)}
    lengths = {len(values) for values in lists.values()}
    if lengths and (len(lengths) > 1 or min(lengths) < 2):
        told = ", ".join(f"{name} has {len(values)}" for name, values in lists.items())
        raise BudgetError(
            f"a family of budgets must be a list of two or more bounds, as many for each metric "
            f"that has a list; got: {told}"
        )
    found: list[dict[str, float | str]] = []
    for index in range(max(lengths, default=1)):
        one = {name: v[index] if name in lists else v for name, v in budget.items()}
        limits = Budget.parse(one).limits
        plain = {m: f"{b.value!r}x" if b.relative else b.value for m, b in limits.items()}
        if plain in found:
            raise BudgetError(f"a family must have each budget once, got {Budget.parse(one)} twice")
        found.append(plain)
    return found


def family_settings(budget: Mapping[str, Any]) -> dict[str, Any]:
    """A family as settings hold it: bounds by metric, those that vary as lists.

    Raises:
        BudgetError: as `members`.
    """
    found = members(budget)
    varied = {metric_name(name) for name, v in budget.items() if isinstance(v, list | tuple)}
    return {m: [one[m] for one in found] if m in varied else found[0][m] for m in found[0]}


def folder_names(budgets: Sequence[Mapping[str, float | str]]) -> list[str]:
    """A folder's name for each of a family's budgets: "latency-0.5x"; what varies is told."""
    varied = [m for m in budgets[0] if len({str(one[m]) for one in budgets}) > 1]
    return ["_".join(f"{_SHORT.get(m, m)}-{_plain(one[m])}" for m in varied) for one in budgets]


def loosest_first(budgets: Sequence[Budget]) -> list[int]:
    """Order of absolute budgets: by how much they allow, all bounds together."""

    def allowed(index: int) -> float:
        product = 1.0
        for limit in budgets[index].limits.values():
            product *= limit.value
        return -product

    return sorted(range(len(budgets)), key=allowed)


def budget_name(budget: Mapping[str, float | str]) -> str:
    """The folder's name of a single budget."""
    return "_".join(f"{_SHORT.get(m, m)}-{_plain(value)}" for m, value in budget.items())


def _plain(value: float | str) -> str:
    text = f"{value:g}" if isinstance(value, float | int) else value
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)
