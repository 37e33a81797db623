"""A driver's own time for a trial of a study that several drivers search, in PostgreSQL.

    python benchmarks/shared_overhead.py [--trials 10000] [--at 20] [--searcher random]

Evaluations take no time here. A database gets `--trials` finished trials of another driver, all at
once; then a driver joins, is told of them, and searches on. Told are the seconds until it has
joined, and for each trial the time on the wall, of its processor, and how many SQL statements it
takes. It needs PostgreSQL's server (`apt-get install postgresql`) and psycopg.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
import torch
from driver_overhead import UNITS, made_up, make_loop

from autoprune.core.trial import Trial
from autoprune.study.entries import CLAIM, OUTCOME, attributes_of
from autoprune.study.shared_loop import SharedLoop
from autoprune.study.shared_store import SharedStore

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from postgres_server import running_server


def fill(url: str, study: str, finished: list[Trial]) -> None:
    """Write trials as another driver would have, in one transaction."""
    with SharedStore(url, study, UNITS, "other") as store:
        store.open({}, None)
        number = store._study
    engine = sa.create_engine(url)
    meta = sa.MetaData()
    meta.reflect(engine)
    ranges = {
        name: json.dumps(
            {
                "name": "IntDistribution",
                "attributes": {"log": False, "step": 1, "low": 1, "high": units},
            }
        )
        for name, units in UNITS.items()
    }
    now = datetime.now()
    with engine.begin() as connection:
        rows = [
            {
                "study_id": number,
                "number": trial.number,
                "state": "COMPLETE",
                "datetime_start": now,
                "datetime_complete": now,
            }
            for trial in finished
        ]
        if not rows:
            return
        connection.execute(meta.tables["trials"].insert(), rows)
        found = connection.execute(
            sa.text("select trial_id, number from trials where study_id = :s"), {"s": number}
        )
        ids = {n: trial_id for trial_id, n in found}
        attributes, values, params = [], [], []
        for trial in finished:
            whole = attributes_of(trial, {}, None)
            claim = {name: whole.pop(name) for name in ("candidate", "predicted")}
            own = {**claim, CLAIM: {"driver": "other"}, OUTCOME: whole}
            trial_id = ids[trial.number]
            attributes += [
                {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                for key, value in own.items()
            ]
            values.append(
                {
                    "trial_id": trial_id,
                    "objective": 0,
                    "value": trial.score("accuracy"),
                    "value_type": "FINITE",
                }
            )
            params += [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": float(count),
                    "distribution_json": ranges[name],
                }
                for name, count in trial.candidate.kept
            ]
        connection.execute(meta.tables["trial_user_attributes"].insert(), attributes)
        connection.execute(meta.tables["trial_values"].insert(), values)
        connection.execute(meta.tables["trial_params"].insert(), params)
    engine.dispose()


@contextmanager
def counted(store: SharedStore) -> Iterator[Callable[[], int]]:
    """Counts the SQL statements of a store."""
    count = 0

    def one(*_: object) -> None:
        nonlocal count
        count += 1

    sa.event.listen(store._rdb.engine, "before_cursor_execute", one)
    yield lambda: count
    sa.event.remove(store._rdb.engine, "before_cursor_execute", one)


def measure(url: str, searcher: str, finished: list[Trial], at: int) -> None:
    """Print what joining takes, and a trial after that."""
    study = f"after {len(finished)}"
    fill(url, study, finished)
    wall, cpu = time.perf_counter(), time.process_time()
    with SharedStore(url, study, UNITS, "joined") as store:
        loop = make_loop(searcher, store, len(finished) + 5 + at, kind=SharedLoop)
        loop.run(len(finished) + 5)
        joined, joined_cpu = time.perf_counter() - wall, time.process_time() - cpu
        with counted(store) as statements:
            wall, cpu = time.perf_counter(), time.process_time()
            loop.run(len(finished) + 5 + at)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"{searcher} {len(finished):6} finished: joined, and 5 trials, in {joined:.1f} s "
                f"(processor {joined_cpu:.1f} s); a trial {1e3 * wall / at:.0f} ms, processor "
                f"{1e3 * cpu / at:.1f} ms, {statements() / at:.0f} statements",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--at", type=int, default=20)
    parser.add_argument("--searcher", default="random")
    given = parser.parse_args()
    torch.set_num_threads(1)
    finished = made_up(given.trials)
    with running_server() as server:
        for count in (0, given.trials // 10, given.trials):
            measure(server.url, given.searcher, finished[:count], given.at)


if __name__ == "__main__":
    main()
