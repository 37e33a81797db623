"""A database as the store: reached, waited for while it restarts, its password never shown."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from autoprune.core.errors import MissingDependencyError, RunError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

T = TypeVar("T")

#: Seconds that a database may be away before a run stops, and between two tries at most.
AWAY_S, PAUSE_S = 120.0, 5.0
#: Seconds within which a database server must answer at first.
CONNECT_S = 10
#: How often it is tried to make the tables; another process may be doing so.
MAKING = 5


def shown(url: str) -> str:
    """A database URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "the storage's URL"


def open_database(url: str, **options: int) -> RDBStorage:
    """Connect to a database; its tables are made if they are not there.

    Args:
        url: of the database.
        options: of Optuna's `RDBStorage` (`heartbeat_interval`, `grace_period`).

    Raises:
        RunError: it can't be reached, refuses the login, or is of another Optuna version.
        MissingDependencyError: its driver is not installed.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, ProgrammingError

    try:
        backend = make_url(url).get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise RunError(
            "storage must be a database URL such as postgresql+psycopg://user@host/name; what was "
            "given can't be read as one"
        ) from error
    engine: dict[str, object] = {"pool_pre_ping": True}
    if backend == "postgresql":
        engine["connect_args"] = {"connect_timeout": CONNECT_S}

    def connect() -> RDBStorage:
        with warnings.catch_warnings():
            # Optuna calls its heartbeats experimental.
            warnings.filterwarnings("ignore", message=".*heartbeat_interval.*")
            return RDBStorage(url, engine_kwargs=dict(engine), **options)  # type: ignore[arg-type]

    try:
        for _ in range(MAKING - 1):
            try:
                return connect()
            except (IntegrityError, ProgrammingError):
                time.sleep(random.random())  # two processes make its tables at the same time
        return connect()
    except NoSuchModuleError as error:
        raise RunError(
            f"the storage {shown(url)} names a database or a driver that SQLAlchemy does not know; "
            "a URL begins with postgresql+psycopg://, or with what SQLAlchemy's documentation "
            "gives for another database"
        ) from error
    except ImportError as error:
        hint = f"{error.__cause__ or error}"
        if backend == "postgresql":
            hint = "pip install 'autoprune[postgres]', and begin it with postgresql+psycopg://"
        raise MissingDependencyError(
            f"the storage {shown(url)} needs a database driver that is not installed: {hint}"
        ) from error
    except Exception as error:  # SQLAlchemy and each database driver raise their own kinds.
        text = str(error).strip().splitlines()
        raise RunError(
            f"the storage {shown(url)} can't be reached: {text[0] if text else error}. Check that "
            "the server runs, the address, the user, the password and the database's name"
        ) from error


def check_storage(url: str) -> None:
    """Reach a database, and let go of it.

    Raises:
        RunError: it can't be reached.
        MissingDependencyError: its driver is not installed.
    """
    open_database(url).engine.dispose()


def patiently(
    call: Callable[[], T],
    where: str,
    *,
    done: Callable[[], T | None] | None = None,
    away_s: float = AWAY_S,
) -> T:
    """Call a storage; again while its database is away.

    Args:
        call: reads or writes.
        where: the storage, for messages.
        done: asked before a second try: what a first one gave that was carried out although its
            answer was lost, or None.
        away_s: seconds after which it is given up.

    Raises:
        RunError: the database stays away.
    """
    pause, until = 0.25, time.monotonic() + away_s
    first = True
    while True:
        try:
            if not first and done is not None:
                known = done()
                if known is not None:
                    return known
            return call()
        except Exception as error:  # Only a lost connection is waited out; all else goes on.
            if not is_away(error):
                raise
            if time.monotonic() + pause > until:
                raise RunError(
                    f"{where} can't be reached for {away_s:.0f} s. When it is there again, resume "
                    "the run: everything finished so far is kept"
                ) from error
        if first:
            warnings.warn(f"{where} does not answer; trying again", stacklevel=3)
        first = False
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_S)


def is_away(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lost or refused database connection."""
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            # SQLite is a file: what is away for a while is only its lock.
            return "sqlite" not in type(error.orig).__module__ or "locked" in str(error)
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__
    return False
