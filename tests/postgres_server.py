"""A real PostgreSQL for tests and benchmarks, where its server is installed."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from ports import free_port


class NotInstalledError(Exception):
    """No server can be started here; says why."""


class Server:
    """A PostgreSQL in a temporary folder, on the loopback address; never run as root."""

    def __init__(self, binaries, folder, user):
        self.binaries, self.folder, self.user = binaries, folder, user
        self.port = free_port()
        self.do("initdb", "-D", "data", "-U", "autoprune", "-A", "trust", "-E", "UTF8", "-N")

    def do(self, program, *arguments):
        done = subprocess.run(
            [self.binaries / program, *arguments],
            cwd=self.folder,
            user=self.user,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            timeout=600,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def start(self):
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F -c shared_buffers=16MB"
        self.do("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "300", "-o", options, "start")

    def stop(self):
        """At once, as if its machine went down: connections break, the log is replayed."""
        self.do("pg_ctl", "-D", "data", "-w", "-t", "300", "-m", "immediate", "stop")

    @property
    def url(self):
        return f"postgresql+psycopg://autoprune:secret@127.0.0.1:{self.port}/postgres"


@contextlib.contextmanager
def server_or_skip():
    """A running server, as `running_server`; without PostgreSQL the test is skipped."""
    try:
        with running_server() as server:
            yield server
    except NotInstalledError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def running_server():
    """A server that runs in a temporary folder until the end of the block.

    Raises:
        NotInstalledError: PostgreSQL is not installed, or would have to run as root.
    """
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not places:
        raise NotInstalledError("PostgreSQL's server is not installed: apt-get install postgresql")
    user = None
    if os.getuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            raise NotInstalledError(
                "PostgreSQL does not run as root, and there is no user postgres or nobody"
            )
    folder = Path(tempfile.mkdtemp(prefix="autoprune-pg-"))
    try:
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        made = Server(places[0], folder, user)
        made.start()
        yield made
        with contextlib.suppress(RuntimeError):
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
