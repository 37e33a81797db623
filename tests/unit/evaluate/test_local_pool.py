from autoprune.core.candidate import Candidate
from autoprune.evaluate import LocalPool, Outcome


def candidate(kept):
    return Candidate.of({"conv": kept})


def test_evaluates_in_the_order_of_submission_one_at_a_time():
    seen = []

    def work(c):
        seen.append(c["conv"])
        return Outcome({"accuracy": c["conv"] / 10})

    with LocalPool(work) as pool:
        assert pool.slots == 1
        pool.submit(4, candidate(3))
        pool.submit(7, candidate(5))
        assert seen == []
        assert pool.results() == [(4, Outcome({"accuracy": 0.3}))]
        assert pool.results() == [(7, Outcome({"accuracy": 0.5}))]
        assert pool.results() == []
    assert seen == [3, 5]


def test_leaving_the_block_forgets_what_waits():
    pool = LocalPool(lambda c: Outcome({"accuracy": 1.0}))
    with pool:
        pool.submit(0, candidate(1))
    assert pool.results() == []


def test_a_failure_is_a_value():
    assert not Outcome(error="it broke").ok
    assert Outcome({"accuracy": 0.1}).ok
