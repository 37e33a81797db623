"""What came of a batch: a row for each search, and the best network of each model and budget."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from autoprune.core.files import write_atomically
from autoprune.study.batch_folder import FAILED, HELD, NOT_HELD, SCHEMA, BatchFolder, JobState

#: Columns of `summary.csv`, and keys of each row of `summary.json`.
COLUMNS = (
    "model",
    "budget",
    "device",
    "searcher",
    "seed",
    "state",
    "objective",
    "dense",
    "before_recovery",
    "value",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "latency_ratio",
    "macs",
    "params",
    "memory_bytes",
    "trials",
    "seconds",
    "folder",
    "error",
)


def summarise(folder: BatchFolder) -> dict[str, Any]:
    """The content of `summary.json`."""
    rows = [_row(folder, state) for state in folder.states()]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    evaluations = sum(1 for _ in folder.cache.glob("*/*.json"))
    return {
        "schema": SCHEMA,
        "states": counts,
        "evaluations": evaluations,
        "best": _best(rows),
        "jobs": rows,
    }


def write_summary(folder: BatchFolder) -> dict[str, Any]:
    """Write `summary.json` and `summary.csv`; gives the former's content.

    Raises:
        RunError: they can't be written.
    """
    data = summarise(folder)
    text = json.dumps(data, indent=2, ensure_ascii=False)
    write_atomically(folder.path / "summary.json", text + "\n")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(data["jobs"])
    write_atomically(folder.path / "summary.csv", buffer.getvalue())
    return data


def _row(folder: BatchFolder, state: JobState) -> dict[str, Any]:
    job = state.job
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row.update(
        model=job.model,
        budget=job.budget,
        device=job.device or None,
        searcher=job.config.searcher.name,
        seed=job.config.seed,
        state=state.state,
        objective=job.config.objective,
        trials=state.trials,
        folder=str(folder.run(job).relative_to(folder.path)),
    )
    if state.state == FAILED:
        row["error"] = state.note
    result = folder.result(job)
    if state.state in (HELD, NOT_HELD) and result is not None:
        row.update(_figures(result))
    return row


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    winner, objective = result["winner"], result["objective"]
    found: dict[str, Any] = {
        "dense": result["dense"]["metrics"][objective],
        "before_recovery": winner["metrics_before_recovery"][objective],
        "value": winner["metrics"][objective],
        "seconds": result["seconds"]["total"],
    }
    for metric in ("macs", "params", "memory_bytes"):
        estimate = winner["cost"].get(metric)
        found[metric] = None if estimate is None else estimate["mean"]
    measured = winner["measured"]
    if measured is not None and measured["error"] is None:
        found["latency_ms"] = measured["latency_ms"]
        found["latency_low_ms"], found["latency_high_ms"] = measured["interval_ms"]
        found["latency_ratio"] = measured["ratio"]
    return found


def _best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model, budget and device the search that holds it with the greatest objective."""
    found: dict[tuple[str, str, str], dict[str, Any] | None] = {}
    for row in rows:
        key = (row["model"], row["budget"], row["device"] or "")
        best = found.setdefault(key, None)
        if row["state"] == HELD and (best is None or row["value"] > best["value"]):
            found[key] = row
    return [
        {
            "model": model,
            "budget": budget,
            "device": device or None,
            "folder": None if row is None else row["folder"],
            "value": None if row is None else row["value"],
            "latency_ms": None if row is None else row["latency_ms"],
        }
        for (model, budget, device), row in found.items()
    ]
