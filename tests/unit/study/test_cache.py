import threading

import pytest

from autoprune.core.candidate import Candidate
from autoprune.core.errors import EvaluationError, RunError
from autoprune.evaluate import Outcome
from autoprune.study.cache import EvaluationCache, content_of
from autoprune.study.config import validate

CANDIDATE = Candidate.of({"conv": 3})
CONFIG = {"budget": "macs=0.5x", "model": "a:b", "evaluate": "a:c"}


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_LOCKS", str(tmp_path / "locks"))


def never(candidate):
    raise AssertionError("evaluated again")


def test_a_candidate_is_evaluated_once_and_kept(tmp_path):
    cache = EvaluationCache(tmp_path / "cache", "content")
    first = cache.candidate(CANDIDATE, lambda c: Outcome({"accuracy": c["conv"] / 10}))
    again = EvaluationCache(tmp_path / "cache", "content").candidate(CANDIDATE, never)
    assert first.metrics == again.metrics == {"accuracy": 0.3}


def test_what_it_is_of_matters(tmp_path):
    one, two = (EvaluationCache(tmp_path, content) for content in ("one", "two"))
    one.candidate(CANDIDATE, lambda c: Outcome({"accuracy": 0.1}))
    assert two.candidate(CANDIDATE, lambda c: Outcome({"accuracy": 0.2})).metrics["accuracy"] == 0.2
    assert one.dense(lambda: {"accuracy": 0.9}) == {"accuracy": 0.9}
    assert one.dense(lambda: never(None)) == {"accuracy": 0.9}


def test_failures_are_not_kept(tmp_path):
    cache = EvaluationCache(tmp_path, "content")
    assert cache.candidate(CANDIDATE, lambda c: Outcome(error="no data")).error == "no data"
    assert cache.candidate(CANDIDATE, lambda c: Outcome({"accuracy": 0.5})).ok

    def broken():
        raise EvaluationError("it broke")

    with pytest.raises(EvaluationError, match="it broke"):
        cache.dense(broken)
    assert cache.dense(lambda: {"accuracy": 1.0}) == {"accuracy": 1.0}


def test_searches_that_come_to_it_together_evaluate_it_once(tmp_path):
    began, leave, calls, found = threading.Event(), threading.Event(), [], []

    def slow(candidate):
        calls.append(candidate)
        began.set()
        leave.wait(600)
        return Outcome({"accuracy": 0.4})

    def search():
        cache = EvaluationCache(tmp_path, "content")
        found.append(cache.candidate(CANDIDATE, slow).metrics)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert began.wait(300)
    leave.set()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert found == [{"accuracy": 0.4}] * 4


def test_a_damaged_entry_is_told(tmp_path):
    cache = EvaluationCache(tmp_path, "content")
    cache.dense(lambda: {"accuracy": 1.0})
    (path,) = tmp_path.glob("*/*.json")
    path.write_text('{"metrics": ')
    with pytest.raises(RunError, match="is no finished evaluation"):
        cache.dense(lambda: {"accuracy": 1.0})


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    cache = EvaluationCache(tmp_path / "file", "content")
    with pytest.raises(RunError, match="can't be"):
        cache.dense(lambda: {"accuracy": 1.0})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 5, "trials": 9, "budget": "macs=0.3x", "searcher": "random"}, True),
        ({"reconstruct": False}, False),
        ({"evaluate": {"name": "a:c", "options": {"batch": 8}}}, False),
        ({"objective": "top5"}, False),
        ({"importance": "l2"}, False),
    ],
)
def test_only_what_a_figure_depends_on_makes_another_entry(change, same):
    def content(config):
        return content_of(validate(config, "test"), "network")

    assert (content(CONFIG) == content({**CONFIG, **change})) is same
    assert content_of(validate(CONFIG, "test"), "another") != content(CONFIG)
