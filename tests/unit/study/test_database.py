import sys

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from autoprune.core.errors import MissingDependencyError, RunError
from autoprune.study.database import is_away, open_database, patiently, shown

GONE = OperationalError("select 1", {}, RuntimeError("server closed the connection"))


def test_a_password_is_never_shown():
    assert shown("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert "secret" not in shown("no url secret")


def test_what_is_no_url_is_refused():
    with pytest.raises(RunError, match="must be a database URL"):
        open_database("not a url")


@pytest.mark.parametrize(
    ("url", "kind", "named"),
    [
        ("nosuch://a:secret@127.0.0.1/x", RunError, "SQLAlchemy does not know"),
        ("postgresql+nosuch://a:secret@127.0.0.1/x", RunError, r"begins with postgresql\+psycopg"),
        ("mysql+pymysql://a:secret@127.0.0.1/x", MissingDependencyError, "installed: .*pymysql"),
        ("postgresql+pg8000://a:secret@127.0.0.1/x", MissingDependencyError, r"install 'autoprune"),
    ],
)
def test_a_driver_that_is_not_there_is_named(monkeypatch, url, kind, named):
    for module in ("pymysql", "pg8000"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(kind, match=named) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_a_lost_connection_is_waited_out():
    calls = []

    def call():
        calls.append(1)
        if len(calls) < 3:
            raise GONE
        return "here"

    with pytest.warns(UserWarning, match="the store does not answer"):
        assert patiently(call, "the store") == "here"
    assert len(calls) == 3


def test_what_was_carried_out_is_not_done_again():
    calls = []

    def call():
        calls.append(1)
        raise GONE

    with pytest.warns(UserWarning, match="does not answer"):
        assert patiently(call, "the store", done=lambda: "already") == "already"
    assert len(calls) == 1


def test_in_the_end_it_is_given_up():
    def call():
        raise GONE

    with (
        pytest.warns(UserWarning, match="answer"),
        pytest.raises(RunError, match=r"for 1 s.*resume the run"),
    ):
        patiently(call, "the store", away_s=1.0)


def test_other_errors_are_not_waited_out():
    def call():
        raise IntegrityError("insert", {}, RuntimeError("twice"))

    with pytest.raises(IntegrityError):
        patiently(call, "the store")


def test_a_wrapped_loss_is_seen_and_only_a_locked_sqlite_is_away():
    import sqlite3

    wrapped = RuntimeError("storage")
    wrapped.__cause__ = GONE
    assert is_away(wrapped)
    assert is_away(OperationalError("x", {}, sqlite3.OperationalError("database is locked")))
    assert not is_away(OperationalError("x", {}, sqlite3.OperationalError("disk is full")))
    assert not is_away(ValueError("x"))
