import contextlib
import multiprocessing
import threading

import pytest

from autoprune.core.errors import RunError
from autoprune.evaluate import quiet
from autoprune.evaluate.quiet import evaluating, lock_folder, measuring, using


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_LOCKS", str(tmp_path / "locks"))


def begins(lock):
    """A thread that enters a lock; (event that it did, event that lets it go, the thread)."""
    entered, leave = threading.Event(), threading.Event()

    def body():
        with lock():
            entered.set()
            leave.wait(600)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return entered, leave, thread


def test_evaluations_run_side_by_side():
    first, second = begins(evaluating), begins(evaluating)
    assert first[0].wait(300)
    assert second[0].wait(300)
    for _, leave, thread in (first, second):
        leave.set()
        thread.join()


def test_a_measurement_waits_for_evaluations_and_holds_back_the_next():
    running = begins(evaluating)
    assert running[0].wait(300)
    measurement = begins(measuring)
    assert not measurement[0].wait(0.3)
    late = begins(evaluating)
    assert not late[0].wait(0.3)
    running[1].set()
    assert measurement[0].wait(300)
    assert not late[0].wait(0.3)
    measurement[1].set()
    assert late[0].wait(300)
    late[1].set()


def test_an_evaluation_inside_another_does_not_wait_for_the_measurement_that_waits_for_it():
    outer, inner, done = threading.Event(), threading.Event(), threading.Event()

    def body():
        with evaluating():
            outer.set()
            inner.wait(600)
            with evaluating():
                done.set()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert outer.wait(300)
    measurement = begins(measuring)
    assert not measurement[0].wait(0.3)
    inner.set()
    assert done.wait(300)
    thread.join()
    assert measurement[0].wait(300)
    measurement[1].set()


def done_by(*locks):
    """A thread that enters all of these, one in the other."""
    done = threading.Event()

    def body():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock())
            done.set()

    threading.Thread(target=body, daemon=True).start()
    return done


@pytest.mark.parametrize(
    "locks",
    [(measuring, measuring), (measuring, evaluating), (evaluating, measuring, evaluating)],
)
def test_a_thread_does_not_wait_for_itself(locks):
    assert done_by(*locks).wait(300)
    assert done_by(measuring).wait(300)  # and holds nothing afterwards


def test_a_measurement_in_an_evaluation_waits_for_other_evaluations():
    other = begins(evaluating)
    assert other[0].wait(300)
    inside = done_by(evaluating, measuring)
    assert not inside.wait(0.3)
    other[1].set()
    assert inside.wait(300)


def test_an_evaluation_that_measured_counts_again():
    measured, leave = threading.Event(), threading.Event()

    def body():
        with evaluating():
            with measuring():
                pass
            measured.set()
            leave.wait(600)

    threading.Thread(target=body, daemon=True).start()
    assert measured.wait(300)
    after = begins(measuring)
    assert not after[0].wait(0.3)
    leave.set()
    assert after[0].wait(300)
    after[1].set()


def test_a_forked_process_that_stays_does_not_hold_the_lock():
    context = multiprocessing.get_context("fork")
    end = context.Event()
    with evaluating():
        child = context.Process(target=end.wait, args=(600,))
        child.start()
    try:
        assert done_by(measuring).wait(300)
    finally:
        end.set()
        child.join()


def test_who_waits_for_long_says_so(monkeypatch):
    monkeypatch.setattr(quiet, "TOLD_S", 0.1)
    told = threading.Event()
    monkeypatch.setattr(quiet.warnings, "warn", lambda text, **_: told.set())
    running = begins(measuring)
    assert running[0].wait(300)
    waiting = done_by(evaluating)
    assert told.wait(300)
    assert not waiting.is_set()
    running[1].set()
    assert waiting.wait(300)


def test_a_device_far_away_is_used_by_one_at_a_time_beside_evaluations():
    running = begins(evaluating)
    first = begins(lambda: using("jetson"))
    assert running[0].wait(300)
    assert first[0].wait(300)
    second = begins(lambda: using("jetson"))
    assert not second[0].wait(0.3)
    assert done_by(lambda: using("phone")).wait(300)
    first[1].set()
    assert second[0].wait(300)
    for _, leave, _ in (running, second):
        leave.set()


def test_measurements_exclude_each_other():
    first = begins(measuring)
    assert first[0].wait(300)
    second = begins(measuring)
    assert not second[0].wait(0.3)
    first[1].set()
    assert second[0].wait(300)
    second[1].set()


def hold(entered):
    with measuring():
        entered.set()
        threading.Event().wait(600)


def test_the_locks_end_with_their_process():
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    process = context.Process(target=hold, args=(entered,))
    process.start()
    assert entered.wait(600)
    blocked = begins(evaluating)
    assert not blocked[0].wait(0.3)
    process.kill()
    process.join()
    assert blocked[0].wait(300)
    blocked[1].set()


def test_a_folder_that_can_not_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_LOCKS", str(tmp_path / "file"))
    assert lock_folder() == tmp_path / "file"
    with pytest.raises(RunError, match="AUTOPRUNE_LOCKS"), evaluating():
        pass
