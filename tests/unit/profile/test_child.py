import types
from itertools import count

import pytest

from autoprune.profile import child
from autoprune.profile.child import Child, ChildTimeout


@pytest.fixture
def stopped(monkeypatch):
    """This process is stopped for a minute whenever it looks at the clock."""
    clock = types.SimpleNamespace(monotonic=count(0.0, 60.0).__next__)
    return lambda: monkeypatch.setattr(child, "time", clock)


def test_what_was_said_in_time_counts_where_this_process_was_stopped(stopped):
    with Child(["sh", "-c", "read line; echo $line; echo more; exit 3"]) as program:
        program.write(b"ping\n", 300.0)
        program._process.wait()
        stopped()
        assert program.line(1.0) == b"ping"
        assert program.rest(1.0) == (b"more\n", 3)


@pytest.mark.parametrize("code", ["sleep 600", "while echo busy >&2; do :; done"])
def test_a_program_that_says_nothing_in_time_is_too_slow(code, stopped):
    with Child(["sh", "-c", code]) as program:
        stopped()
        with pytest.raises(ChildTimeout, match="did not answer in time"):
            program.line(1.0)
        with pytest.raises(ChildTimeout, match="did not answer in time"):
            program.write(bytes(1 << 20), 1.0)
