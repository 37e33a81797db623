import multiprocessing
import threading

import pytest

from autoprune.core.errors import RunError
from autoprune.evaluate.quiet import evaluating, lock_folder, measuring


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_LOCKS", str(tmp_path / "locks"))


def begins(lock):
    """A thread that enters a lock; (event that it did, event that lets it go, the thread)."""
    entered, leave = threading.Event(), threading.Event()

    def body():
        with lock():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return entered, leave, thread


def test_evaluations_run_side_by_side():
    first, second = begins(evaluating), begins(evaluating)
    assert first[0].wait(10)
    assert second[0].wait(10)
    for _, leave, thread in (first, second):
        leave.set()
        thread.join()


def test_a_measurement_waits_for_evaluations_and_holds_back_the_next():
    running = begins(evaluating)
    assert running[0].wait(10)
    measurement = begins(measuring)
    assert not measurement[0].wait(0.3)
    late = begins(evaluating)
    assert not late[0].wait(0.3)
    running[1].set()
    assert measurement[0].wait(10)
    assert not late[0].wait(0.3)
    measurement[1].set()
    assert late[0].wait(10)
    late[1].set()


def test_an_evaluation_inside_another_does_not_wait_for_the_measurement_that_waits_for_it():
    outer, inner, done = threading.Event(), threading.Event(), threading.Event()

    def body():
        with evaluating():
            outer.set()
            inner.wait(30)
            with evaluating():
                done.set()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    assert outer.wait(10)
    measurement = begins(measuring)
    assert not measurement[0].wait(0.3)
    inner.set()
    assert done.wait(10)
    thread.join()
    assert measurement[0].wait(10)
    measurement[1].set()


def test_measurements_exclude_each_other():
    first = begins(measuring)
    assert first[0].wait(10)
    second = begins(measuring)
    assert not second[0].wait(0.3)
    first[1].set()
    assert second[0].wait(10)
    second[1].set()


def hold(entered):
    with measuring():
        entered.set()
        threading.Event().wait(60)


def test_the_locks_end_with_their_process():
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    process = context.Process(target=hold, args=(entered,))
    process.start()
    assert entered.wait(60)
    blocked = begins(evaluating)
    assert not blocked[0].wait(0.3)
    process.kill()
    process.join()
    assert blocked[0].wait(10)
    blocked[1].set()


def test_a_folder_that_can_not_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOPRUNE_LOCKS", str(tmp_path / "file"))
    assert lock_folder() == tmp_path / "file"
    with pytest.raises(RunError, match="AUTOPRUNE_LOCKS"), evaluating():
        pass
