"""A driver's run on a study that it begins, or joins: what must be the same is checked first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import ConfigError, RunError
from autoprune.study.conduct import Prepared, finish, open_session, prepare
from autoprune.study.racing import race_of
from autoprune.study.shared_session import SharedSession
from autoprune.study.shared_store import SharedStore
from autoprune.study.shipping import storage_of, units_of
from autoprune.study.table import tells

if TYPE_CHECKING:
    from autoprune.study.folder import RunFolder
    from autoprune.study.progress import Progress
    from autoprune.study.result import Result
    from autoprune.study.task import Task

#: Settings that may differ between the drivers of a study. What `model`, `inputs`, `space` and
#: `table` come to is compared, not how they are named.
OWN = {
    *("python_path", "model", "inputs", "space", "device", "table", "profile", "front"),
    *("seed", "out", "workers", "max_failures", "storage", "study", "run"),
}

#: Of a table's header: two drivers that are given the same table each write a copy of it.
_WRITTEN = ("written", "autoprune_version")


def conduct_shared(task: Task, folder: RunFolder | None, progress: Progress) -> Result:
    """Search a study together with other drivers, and ship the best of all their trials.

    The driver that begins the study measures the table and evaluates the dense network; those that
    join take both from it.

    Raises:
        AutopruneError: as `autoprune.search`; a `RunError` where the study is of another network,
            device or search.
    """
    url, name = storage_of(task, folder)
    run = task.config.run
    if folder is None or run is None:
        raise ConfigError("study needs a run folder of this driver; give one by `out`")
    with prepare(task, progress, race_of(task, folder.racing)) as prepared:
        with SharedStore(url, name, units_of(prepared.network), run.study) as store:
            terms = _terms(task, prepared)
            agreed = store.terms() if store.first else store.wait_until_open(progress.message)
            if agreed is not None:
                _check(agreed, terms, store)
                _take_table(task, folder, agreed, store)
            session = open_session(prepared, task, folder, SharedSession, store)
            terms |= _found(task, session, folder)
            if agreed is not None:
                try:
                    _check(agreed, terms, store)
                except RunError:
                    folder.table.unlink(missing_ok=True)  # nothing has begun
                    raise
                progress.message(f"joined the study {name}: {store.count} trials so far")
            dense_metrics = session.dense_metrics()
            folder.begun = True
            if agreed is None:
                session.ready = lambda: store.open(terms, _table_text(folder))
            trials = session.run(prepared.evaluator)
        return finish(prepared, task, session, trials, dense_metrics, folder)


def _terms(task: Task, prepared: Prepared) -> dict[str, Any]:
    """What can be told before there is a table."""
    run, device = task.config.run, prepared.device
    inputs = [[*value.shape, str(value.dtype)] for value in _tensors(task.example_inputs)]
    settings = task.config.model_dump(mode="json", exclude=OWN)
    return {
        "network": None if run is None else run.network,
        "inputs": inputs,
        "device": str(device.spec) if device is not None and tells(task.config) else None,
        **{f"setting {key}": value for key, value in settings.items()},
    }


def _found(task: Task, session: SharedSession, folder: RunFolder) -> dict[str, Any]:
    """What a table and a space come to."""
    choices = {d.group: list(d.choices) for d in session.space.decisions}
    bounds = {m: float(f"{limit.value:.9g}") for m, limit in session.limits.limits.items()}
    text = _table_text(folder)
    given = None if task.table is None else type(task.table).__qualname__
    return {
        "table": given if text is None else _digest(_measured(text)),
        "space": _digest(choices),
        "absolute budget": bounds,
    }


def _tensors(inputs: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def _measured(table: str) -> list[Any]:
    """What a table's file says, but for when and by which version it was written, and its seal."""
    header, *lines, _ = table.splitlines()
    about = {k: v for k, v in json.loads(header).items() if k not in _WRITTEN}
    return [about, *lines]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _table_text(folder: RunFolder) -> str | None:
    return folder.table.read_text(encoding="utf-8") if folder.table.exists() else None


def _check(agreed: Mapping[str, Any], terms: Mapping[str, Any], store: SharedStore) -> None:
    """Refuse to join a study of something else.

    Raises:
        RunError: says what differs.
    """
    plain = json.loads(json.dumps(terms))
    lines = [
        f"{name}: {_shown(agreed.get(name))} there, {_shown(value)} here"
        for name, value in plain.items()
        if agreed.get(name) != value
    ]
    if lines:
        raise RunError(
            f"the study {store.name!r} in {store.where} can't be joined: this search is another "
            "one, so their trials can't be compared:\n  "
            + "\n  ".join(lines)
            + "\nMake these the same, or give another `study`"
        )


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _take_table(
    task: Task, folder: RunFolder, agreed: Mapping[str, Any], store: SharedStore
) -> None:
    """Take the study's latency table, unless this driver has been given one."""
    if folder.table.exists() or task.config.table is not None or task.table is not None:
        return
    text = store.table()
    if text is not None:
        folder.write(folder.table, text)
    elif tells(task.config):
        raise RunError(
            f"the study {store.name!r} in {store.where} has no latency table: its first driver was "
            "given a cost model as an object. Give the same one by `table`"
        )
