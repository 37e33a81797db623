"""One connection for all calls of a profiler over ssh: kept, lost, interrupted, shared, ended."""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import ssh_server
from few_rounds import FEW

from autoprune.core.errors import ProfilerError
from autoprune.profile import ssh_session
from autoprune.testing.profilers import conv_artifact

NETWORKS = [conv_artifact("a", 8), conv_artifact("b", 16)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server.running(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def opened(monkeypatch):
    return ssh_server.Opened(monkeypatch).sessions


def measured(profiler):
    """Whether it measures."""
    found = profiler.measure(NETWORKS, FEW)
    assert [m.error for m in found] == [None, None]
    return True


def test_one_connection_serves_all_calls_and_ends_with_the_profiler(server, opened):
    profiler = server.profiler()
    device = profiler.device
    assert measured(profiler)
    profiler.conditions()
    assert measured(profiler)
    assert profiler.device == device
    (session,) = opened
    # Nothing stays loaded there between calls.
    with pytest.raises(ProfilerError, match="KeyError"):
        session.ask("run", number=0, runs=1, energy=False)
    assert server.processes()
    profiler.close()
    profiler.close()
    assert server.idle()
    assert measured(profiler)
    assert len(opened) == 2
    del profiler
    gc.collect()
    assert opened[1].closed
    assert server.idle()


def test_cut_between_calls_and_in_one_it_is_opened_anew(server, opened, monkeypatch):
    profiler = server.profiler()
    assert measured(profiler)
    os.kill(opened[0].pid, signal.SIGKILL)
    assert measured(profiler)
    assert len(opened) == 2
    cut = ssh_server.Cut(monkeypatch, lambda count, number: count == 3)
    assert measured(profiler)
    assert cut.cuts == 1
    assert len(opened) == 3
    profiler.close()
    assert server.idle()


@pytest.mark.parametrize(
    ("which", "how"),
    [("server", signal.SIGKILL), ("server", signal.SIGSTOP), ("agent", signal.SIGSTOP)],
)
def test_an_idle_connection_that_died_is_noticed_in_time(server, opened, monkeypatch, which, how):
    profiler = server.profiler(timeout_s=600)
    assert measured(profiler)
    monkeypatch.setattr(ssh_session, "ANSWER_S", 2.0)
    running = server.processes()
    for pid in running[-1:] if which == "agent" else running[:-1]:
        os.kill(pid, how)
    try:
        start = time.monotonic()
        assert measured(profiler)
        # Without a limit of its own it would be the request's, 600 s.
        assert time.monotonic() - start < 300
        assert len(opened) == 2
    finally:
        profiler.close()
        if how is signal.SIGSTOP:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    assert server.idle()


def test_a_device_that_answered_before_is_waited_for_once(server, opened, monkeypatch):
    profiler = server.profiler(reconnect_s=1.0)
    assert measured(profiler)
    os.kill(opened[0].pid, signal.SIGKILL)

    def away(*_):
        opened.append(None)
        raise ssh_session.Lost("it reboots")

    with monkeypatch.context() as patch:
        patch.setattr(ssh_session.Session, "__init__", away)
        for tries in (2, 1):
            before = len(opened)
            (first, _) = profiler.measure(NETWORKS, FEW)
            assert "can't be reached over ssh: it reboots" in first.error
            assert len(opened) - before == tries
    assert measured(profiler)


def test_an_agent_that_nobody_asks_ends(server, opened, monkeypatch):
    ssh_server.agent_with(monkeypatch, b"IDLE_S = 120.0\n", b"IDLE_S = 2.0\n")
    profiler = server.profiler()
    assert measured(profiler)
    assert server.idle()
    before = len(opened)
    assert measured(profiler)
    assert len(opened) > before


def test_a_call_that_is_interrupted_leaves_no_reply_behind(server, opened, monkeypatch):
    profiler = server.profiler()
    real = ssh_session.Session._line
    lines = []

    def line(session, timeout_s):
        lines.append(timeout_s)
        if len(lines) == 9:
            raise KeyboardInterrupt
        return real(session, timeout_s)

    monkeypatch.setattr(ssh_session.Session, "_line", line)
    with pytest.raises(KeyboardInterrupt):
        measured(profiler)
    assert opened[0].closed
    assert measured(profiler)
    assert len(opened) == 2


def test_profilers_and_copies_of_one_do_not_mix(server, opened):
    one, two = server.profiler(), server.profiler(graph_optimization="basic")
    assert measured(one)
    assert measured(two)
    copy = pickle.loads(pickle.dumps(one))
    assert copy.device == one.device
    assert len(opened) == 2
    assert measured(copy)
    assert len({session.pid for session in opened}) == 3
    del copy
    gc.collect()
    assert [session.closed for session in opened] == [False, False, True]
    assert measured(one)
    assert measured(two)
    assert len(opened) == 3


def test_threads_take_turns(server, opened):
    profiler = server.profiler()
    found = []
    threads = [threading.Thread(target=lambda: found.append(measured(profiler))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True, True]
    assert len(opened) == 1


DRIVER = """
import os, sys, time
from autoprune.core.device import MeasuringProtocol
from autoprune.profile.registry import make_profiler
from autoprune.testing.profilers import conv_artifact

protocol = MeasuringProtocol(
    warmup=1, runs=2, min_rounds=2, max_rounds=40, width=1e9, timeout_s=300
)
profiler = make_profiler(sys.argv[1], python=sys.argv[2], ssh=sys.argv[3], timeout_s=300)

def measured():
    (found,) = profiler.measure([conv_artifact("a", 8)], protocol)
    assert found.ok, found.error
    return profiler._connection.session().pid

pid = measured()
if sys.argv[4] == "itself":
    child = os.fork()
    if not child:
        sys.exit(0 if measured() != pid else 1)  # with all that is done at exit
    assert os.waitpid(child, 0)[1] == 0
    assert measured() == pid
print("measured", flush=True)
if sys.argv[4] == "killed":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["itself", "killed"])
def test_a_forked_process_has_its_own_and_nothing_outlives_the_driver(server, tmp_path, end):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    given = [server.address, server.python, f"ssh -F {server.folder}/config", end]
    with subprocess.Popen(
        [sys.executable, str(script), *given], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout.readline() == "measured\n"
        if end == "killed":
            assert server.processes()
            driver.kill()
    assert driver.returncode == (0 if end == "itself" else -signal.SIGKILL)
    assert server.idle()
    assert not list(Path(server.files).glob("*.[0-9]*"))
