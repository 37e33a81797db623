"""Searches whose evaluations run on Ray workers, and a driver that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

from ray_tasks import Synthetic

from autoprune.evaluate import LocalPool
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

TESTS = Path(__file__).parents[1]
TRIALS = 8
PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Before Ray starts: its workers' locks are this file's own, too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_LOCKS", str(tmp_path_factory.mktemp("locks")))
        with connected(cpus=2) as found:
            yield found


def search(pool, searcher, trials=24, store=None):
    context = SearchContext(
        SearchSpace.from_network(PROBLEM), PROBLEM.budget(0.5), ShapeCost(), seed=3
    )
    loop = Loop(
        make_searcher(searcher, context),
        context.cost_model,
        pool,
        store or Store(None, "run", UNITS),
        objective="accuracy",
        max_failures=3,
        progress=Progress(),
        phases=Phases(),
    )
    loop.run(trials)
    return [(t.number, t.candidate.key, t.metrics["accuracy"]) for t in loop.trials]


def test_where_order_does_not_matter_the_set_is_that_of_one_process(cluster):
    with RayPool(Synthetic(jitter_s=0.02), 2) as pool:
        found = search(pool, "random")
    assert sorted(found) == sorted(search(LocalPool(PROBLEM_WORK), "random"))


def PROBLEM_WORK(candidate):
    return Synthetic()()(candidate)


def test_in_order_of_submission_a_learning_searcher_gives_the_same_trials_again(cluster):
    runs = []
    for jitter in (0.0, 0.05):
        with RayPool(Synthetic(jitter_s=jitter), 2, ordered=True) as pool:
            runs.append(search(pool, "tpe"))
    assert runs[0] == runs[1]


def test_a_search_on_workers_resumed_goes_the_same_way(cluster, tmp_path):
    """Unordered too: the store remembers the order in which they came."""
    path = tmp_path / "journal.log"
    with RayPool(Synthetic(jitter_s=0.05), 2) as pool:
        first = search(pool, "tpe", 10, Store(path, "run", UNITS))
        whole = search(pool, "tpe", 16, Store(path, "run", UNITS))
    assert whole[:10] == first
    assert len({key for _, key, _ in whole}) == 16


CONFIG = f"""
python_path: [{TESTS}]
model: tiny_task:build
inputs: tiny_task:inputs
evaluate: tiny_task:evaluate
budget: macs=0.5x
device: null
searcher: random
trials: {TRIALS}
seed: 3
out: run
"""


def test_a_killed_driver_loses_nothing_finished(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    calls = tmp_path / "calls"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TINY_CALLS": str(calls)}

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "autoprune", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start("search", "config.yaml", "--workers", "2")
    journal = tmp_path / "run" / "journal.log"
    until = time.monotonic() + 240
    while trials(journal) < 2 and first.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert first.poll() is None, first.communicate()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    kept = trials(journal)
    assert 2 <= kept < TRIALS

    again = start("resume", "run", "--json")
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert json.loads(out)["trials"] == {"finished": TRIALS, "failed": 0}
    assert trials(journal) == TRIALS
    # The dense network and each candidate, and again what two workers were at when it was killed.
    done = len(calls.read_text().splitlines())
    assert 1 + TRIALS <= done <= 1 + TRIALS + 2


def trials(journal):
    """Whole trials in a journal."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return sum(json.loads(line)["op_code"] == 4 for line in lines)
