"""The closing table: dense against pruned, and whether the budget holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.core.objectives import metric_of

#: Metrics of a cost in the order they are shown: name, heading, divisor, unit.
_COSTS = (
    ("macs", "MACs per sample", 1e6, "M"),
    ("params", "parameters", 1e3, "k"),
    ("memory_bytes", "memory", 2.0**20, "MiB"),
)

#: Heading, dense, pruned, change.
Row = tuple[str, str, str, str]


def summary(data: Mapping[str, Any]) -> RenderableType:
    """A result for people, at most 80 columns wide.

    Args:
        data: the content of `result.json`.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, side in (("", "left"), ("dense", "right"), ("pruned", "right"), ("", "right")):
        table.add_column(heading, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in rows(data):
        table.add_row(*row)
    parts: list[RenderableType] = [table, Text("")]
    parts += [_verdict(*line) for line in verdicts(data)]
    parts += [Text(line, style="dim") for line in remarks(data)]
    return Group(*parts)


def rows(data: Mapping[str, Any]) -> list[Row]:
    """Heading, dense, pruned, change; the metrics first, then what it costs."""
    dense, winner = data["dense"], data["winner"]
    found = []
    recovered = winner["metrics"] != winner["metrics_before_recovery"]
    metric = metric_of(data["objective"])
    names = sorted(winner["metrics"], key=lambda name: name != metric)
    for name in names:
        if metric != name == data["objective"]:  # the same, negated
            continue
        before, after = dense["metrics"].get(name), winner["metrics"][name]
        less = " (less is better)" if name == metric != data["objective"] else ""
        found.append((name + less, number(before), number(after), _difference(before, after)))
        if recovered and name == metric:
            first = winner["metrics_before_recovery"][name]
            found.append(("  before recovery", "", number(first), _difference(before, first)))
    found += _latency(dense, winner)
    found += _energy(dense, winner)
    for metric, heading, divisor, unit in _COSTS:
        before, after = (_mean(part["cost"], metric) for part in (dense, winner))
        if before is None or after is None:
            continue
        first, second = before / divisor, after / divisor
        ratio = _ratio(after, before)
        found.append((heading, f"{first:,.4g} {unit}", f"{second:,.4g} {unit}", ratio))
        if metric == "macs":
            flops = f"{2 * first:,.4g} {unit}", f"{2 * second:,.4g} {unit}"
            found.append(("  FLOPs = 2 × MACs", flops[0], flops[1], ""))
    return found


def _latency(dense: Mapping[str, Any], winner: Mapping[str, Any]) -> list[Row]:
    measured = winner["measured"]
    before, after = (_mean(part["cost"], "latency_ms") for part in (dense, winner))
    if measured is None or measured["error"] is not None or before is None or after is None:
        if after is None or before is None:
            return []
        return [
            ("latency (predicted)", f"{before:.4g} ms", f"{after:.4g} ms", _ratio(after, before))
        ]
    low, high = measured["interval_ms"]
    ratio = measured["ratio_interval"]
    return [
        ("latency, measured", f"{before:.4g} ms", f"{after:.4g} ms", _ratio(after, before)),
        (
            "  95 % interval",
            "",
            f"{low:.4g} to {high:.4g} ms",
            f"{ratio[0]:.3f} to {ratio[1]:.3f}x",
        ),
    ]


def _energy(dense: Mapping[str, Any], winner: Mapping[str, Any]) -> list[Row]:
    """Dense and pruned, with where the figure comes from: a stated power is not a meter."""
    before, after = (_mean(part["cost"], "energy_mj") for part in (dense, winner))
    if after is None:
        return []
    source = winner["cost"]["energy_mj"]["source"]
    source = source if source in ("measured", "modelled") else "predicted"
    first = "" if before is None else f"{before:.4g} mJ"
    ratio = "" if before is None else _ratio(after, before)
    found = [(f"energy, {source}", first, f"{after:.4g} mJ", ratio)]
    measured = winner["measured"] or {}
    interval, ratios = measured.get("energy_interval_mj"), measured.get("energy_ratio_interval")
    if interval and ratios:
        text = f"{interval[0]:.4g} to {interval[1]:.4g} mJ"
        found.append(("  95 % interval", "", text, f"{ratios[0]:.3f} to {ratios[1]:.3f}x"))
    return found


def verdicts(data: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """For each bound: whether it holds, and by what."""
    found = []
    budget, winner = data["budget"], data["winner"]
    for metric, limit in budget["limits"].items():
        over = budget["violations"][metric]
        holds = over is not None and over <= 0
        asked = budget["asked"][metric]
        bound = f"{limit:.6g}" + (f" ({asked})" if isinstance(asked, str) else "")
        measured = winner["measured"]
        sign = "≤" if holds else ">"
        if metric in _INTERVALS and measured is not None:
            text = _measured(metric, measured, f"{sign} {bound}")
        else:
            value = _mean(winner["cost"], metric)
            text = f"{value:.6g} {sign} {bound}" if value is not None else "it is not known"
        found.append((holds, f"budget {'held' if holds else 'not held'}: {metric} {text}"))
    return found


#: Where a measurement keeps the interval of what only a device can tell.
_INTERVALS = {"latency_ms": "interval_ms", "energy_mj": "energy_interval_mj"}


def _measured(metric: str, measured: Mapping[str, Any], than: str) -> str:
    if measured["error"] is not None:
        return f"it could not be measured: {measured['error']}"
    interval = measured.get(_INTERVALS[metric])
    if interval is None:
        value = measured.get(metric)
        return f"{value:.6g} {than}" if value is not None else "the device tells none"
    low, high = interval
    middle, half = (low + high) / 2, (high - low) / 2
    how = measured["energy_source"] if metric == "energy_mj" else "measured"
    return f"{how} {middle:.4g} ± {half:.2g} {than}"


def remarks(data: Mapping[str, Any]) -> list[str]:
    """What else is worth a line."""
    trials = data["trials"]
    failed = f", {trials['failed']} failed" if trials["failed"] else ""
    verified = data["verified"]
    checked = f", {len(verified)} measured end to end" if verified else ""
    lines = [
        f"{trials['finished']} trials{failed}{checked}, seed {data['seed']}, "
        f"{duration(data['seconds']['total'])}"
    ]
    measured = data["winner"]["measured"]
    if measured is not None and measured["error"] is not None:
        lines.append(f"latency could not be measured: {measured['error']}")
    told = [m.get("notes", ()) for m in (data["dense"]["measured"], measured) if m]
    lines += [f"measuring: {note}" for note in dict.fromkeys(n for notes in told for n in notes)]
    table = data["table"]
    if table is not None:
        lines.append(
            f"the latency table was off by {table['median_error']:.1%} (median; worst "
            f"{table['worst_error']:.1%}) on what was measured"
        )
    if data["device"] is not None:
        lines.append(f"device: {data['device']['text']}")
    lines += [f"note: {note}" for note in data["notes"]]
    return lines


def duration(seconds: float) -> str:
    """Seconds as "1 h 02 min", "3 min 05 s" or "12.3 s"."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds:.1f} s"


def number(value: float | None) -> str:
    """A metric: four decimals, fewer digits for large ones."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.5g}"


def _difference(before: float | None, after: float) -> str:
    return "" if before is None else f"{after - before:+.4f}"


def _ratio(after: float, before: float) -> str:
    return f"{after / before:.3f}x" if before else ""


def _mean(cost: Mapping[str, Any], metric: str) -> float | None:
    estimate = cost.get(metric)
    return None if estimate is None else float(estimate["mean"])


def _verdict(holds: bool, text: str) -> Text:
    return Text(text, style="bold green" if holds else "bold red")


def plain(data: Mapping[str, Any], width: int = 80) -> str:
    """The same as text without colours."""
    import io

    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False).print(summary(data))
    return stream.getvalue()
