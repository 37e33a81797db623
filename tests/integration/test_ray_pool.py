"""Evaluations and searches on real Ray workers, some of which die, hang or can't begin.

All in one file, so that they share one Ray.
"""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'autoprune[ray]'")

from ray_tasks import Raising, Scripted, Synthetic, raises_other, raises_own

from autoprune.core.candidate import Candidate
from autoprune.core.device import MeasuringProtocol
from autoprune.core.errors import ConfigError, EvaluationError, ProfilerError
from autoprune.evaluate import LocalPool
from autoprune.evaluate.quiet import measuring
from autoprune.evaluate.ray import RayPool
from autoprune.evaluate.ray_cluster import connected
from autoprune.evaluate.ray_device import RayProfiler
from autoprune.searchers.base import SearchContext
from autoprune.searchers.registry import make_searcher
from autoprune.space.space import SearchSpace
from autoprune.study.evaluation import Phases
from autoprune.study.loop import Loop
from autoprune.study.progress import Progress
from autoprune.study.store import Store
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Before Ray starts: its workers' locks are this file's own, too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_LOCKS", str(tmp_path_factory.mktemp("locks")))
        with connected(cpus=2, resources={"device:bench": 1}) as found:
            yield found


def run(pool, counts):
    """Ticket → outcome, in the order in which they came."""
    submit(pool, counts)
    found = []
    while some := pool.results():
        found += some
    assert len({ticket for ticket, _ in found}) == len(found)
    return dict(found)


def test_everything_comes_back_once_from_both_workers(cluster, tmp_path):
    work = Scripted(tmp_path, sleeps={WARM: 0.2})
    with RayPool(work, 2) as pool:
        assert pool.slots == 2
        warm_up(pool)
        found = run(pool, range(1, 9))
        assert {t: o.metrics["accuracy"] for t, o in found.items()} == {
            ticket: (ticket + 1) / 100 for ticket in range(8)
        }
        assert len({o.metrics["pid"] for o in found.values()}) == 2
    ends = work.counts("end")
    assert {kept: ends[kept] for kept in ends if kept != WARM} == dict.fromkeys(range(1, 9), 1)


def test_a_killed_worker_is_replaced_and_only_what_it_was_at_runs_again(cluster, tmp_path):
    work = Scripted(tmp_path, dies={3})
    with RayPool(work, 2) as pool:
        found = run(pool, range(1, 9))
    assert all(outcome.ok for outcome in found.values())
    assert work.counts("end") == dict.fromkeys(range(1, 9), 1)
    assert work.counts("begin") == {**dict.fromkeys(range(1, 9), 1), 3: 2}


def test_what_kills_every_worker_is_given_up_and_the_others_go_on(cluster, tmp_path):
    work = Scripted(tmp_path, dies={2}, always=True)
    with RayPool(work, 1, retries=1) as pool:
        found = run(pool, [1, 2, 3])
    assert work.counts("begin")[2] == 2
    assert "given up, 2 times: its worker died" in found[1].error
    assert found[0].ok
    assert found[2].ok


def test_a_hanging_worker_is_killed_at_the_time_limit(cluster, tmp_path):
    work = Scripted(tmp_path, waits={2})
    with RayPool(work, 2, timeout_s=5, retries=0) as pool:
        found = run(pool, [1, 2, 3])
    assert found[1].error == "the evaluation was given up: it took longer than 5 s"
    assert found[0].ok
    assert found[2].ok


def test_results_come_as_they_end(cluster, tmp_path):
    work = Scripted(tmp_path, sleeps={WARM: 0.2}, waits={1})
    with RayPool(work, 2) as pool:
        warm_up(pool)
        submit(pool, [1, 2, 3])
        assert came(pool, 2) == [1, 2]
        work.let_go(1)
        assert came(pool, 1) == [0]


def test_or_in_the_order_of_submission(cluster, tmp_path):
    work = Scripted(tmp_path, sleeps={WARM: 0.2}, waits={1})
    with RayPool(work, 2, ordered=True) as pool:
        warm_up(pool)
        submit(pool, [1, 2, 3])

        def later():
            ended(work, 3)
            time.sleep(0.5)  # one that does not keep the order is caught more surely
            work.let_go(1)

        with ThreadPoolExecutor(1) as beside:
            released = beside.submit(later)
            assert came(pool, 3) == [0, 1, 2]
            released.result()


#: Kept units of an evaluation that counts for nothing.
WARM = 50


def warm_up(pool):
    """Until both workers are there: else the first one would do everything."""
    while len({o.metrics["pid"] for o in run(pool, [WARM, WARM]).values()}) < 2:
        pass


def submit(pool, counts):
    for ticket, kept in enumerate(counts):
        pool.submit(ticket, Candidate.of({"conv": kept}))


def came(pool, count):
    """Tickets in the order in which they come."""
    found = []
    while len(found) < count:
        found += [ticket for ticket, _ in pool.results()]
    return found


def ended(work, kept, meanwhile=lambda: time.sleep(0.02)):
    """Wait until an evaluation of so many kept units has ended."""
    until = time.monotonic() + 300
    while kept not in work.counts("end"):
        assert time.monotonic() < until
        meanwhile()


def test_who_is_done_goes_on_with_what_is_in_line_while_the_driver_is_busy(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr("autoprune.evaluate.ray.AHEAD", 1)
    work = Scripted(tmp_path)
    with RayPool(work, 1) as pool:
        assert pool.slots == 2
        submit(pool, [1, 2])
        assert came(pool, 1) == [0]
        ended(work, 2)  # although nobody asks for results
        tickets = itertools.count(2)

        def submit_another():  # looks for who is done, of which Ray tells a little later
            pool.submit(next(tickets), Candidate.of({"conv": 3}))
            time.sleep(0.1)

        ended(work, 3, submit_another)
        count = next(tickets)
        assert came(pool, count - 1) == list(range(1, count))


def test_evaluations_wait_while_something_is_measured(cluster, tmp_path):
    work = Scripted(tmp_path)
    with RayPool(work, 1) as pool:
        run(pool, [1])
        with measuring():
            pool.submit(0, Candidate.of({"conv": 2}))
            time.sleep(0.5)
            assert 2 not in work.counts("begin")
        assert pool.results()[0][1].ok


def test_waiting_for_a_measurement_is_not_hanging(cluster, tmp_path):
    work = Scripted(tmp_path)
    with RayPool(work, 1, timeout_s=4, retries=0) as pool:
        run(pool, [1])
        with measuring():
            pool.submit(0, Candidate.of({"conv": 2}))
            time.sleep(5.0)
        assert pool.results()[0][1].ok
    assert work.counts("begin") == {1: 1, 2: 1}


def test_what_a_worker_raises_is_that_evaluations_failure(cluster):
    with RayPool(Raising(), 1) as pool:
        found = run(pool, [1, 2])
    assert [o.error for o in found.values()] == [
        "the worker raised ZeroDivisionError: at 1",
        "the worker raised ZeroDivisionError: at 2",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [(raises_own, "the data is not here"), (raises_other, "ZeroDivisionError: oh")],
)
def test_workers_that_can_not_begin_say_why(cluster, source, message):
    with RayPool(source, 1) as pool, pytest.raises(EvaluationError, match=message):
        run(pool, [1])


def test_resources_that_no_node_has_are_refused_at_once(cluster):
    resources = {"cpu": 1, "device:jetson-orin-1": 1}
    with pytest.raises(ConfigError, match=r"no node.*device:jetson-orin-1 1.*CPU 2.*Ask for less"):
        RayPool(raises_own, 1, resources=resources)


def test_what_can_not_be_sent_is_refused(cluster):
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="can't be sent to workers"):
        RayPool(lambda: lock, 1)


def measure(folder, **options):
    """Measure nothing on the cluster's device, by a profiler that writes down when it does."""
    profiler = RayProfiler("device:bench", "ray_tasks:Noting", {"folder": str(folder), **options})
    return profiler.measure([], MeasuringProtocol())


def test_a_device_is_measured_on_by_one_at_a_time(cluster, tmp_path):
    with ThreadPoolExecutor(3) as several:
        list(several.map(lambda _: measure(tmp_path), range(3)))
    assert (tmp_path / "log").read_text().split() == ["begin", "end"] * 3


def test_a_measurement_whose_process_is_lost_is_taken_again(cluster, tmp_path):
    assert measure(tmp_path, dies=True) == []
    assert (tmp_path / "log").read_text().split() == ["begin", "begin", "end"]


def test_a_device_that_no_node_has_is_refused_at_once(cluster):
    with pytest.raises(ConfigError, match=r"no node.*device:jetson"):
        RayProfiler("device:jetson", "ray_tasks:Noting")


def test_a_profiler_that_can_not_run_there_says_why(cluster):
    profiler = RayProfiler("device:bench", "onnxruntime-cpu", {"threads": -1})
    with pytest.raises(ProfilerError, match=r"on the node with device:bench: .*threads"):
        profiler.measure([], MeasuringProtocol())


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
    assert sorted(found) == sorted(search(LocalPool(Synthetic()()), "random"))


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
