"""A real OpenSSH server on the loopback interface, with throw-away keys, for an ordinary user."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

from autoprune.profile import agent_file, ssh_session
from autoprune.profile.registry import make_profiler

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Server:
    """An sshd, the client's configuration for it, and where its user keeps files."""

    def __init__(self, folder, port):
        self.folder, self.port, self.pid = folder, port, 0
        self.home = folder / "home"
        self.files = self.home / ".cache" / "autoprune"
        self.address = f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
        self._told = ["-X", f"server={port}"]  # by which its processes are known
        self.python = f"HOME={self.home} {sys.executable} {' '.join(self._told)}"

    def profiler(self, **options):
        given = {"python": self.python, "ssh": f"ssh -F {self.folder}/config", "timeout_s": 300}
        return make_profiler(self.address, **{**given, **options})

    def processes(self):
        """Numbers of all that the server has started and that still runs, agents last."""
        rows = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="],
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        parents, agents = {}, []
        for pid, parent, state, *arguments in map(str.split, rows):
            if not state.startswith("Z"):
                parents[int(pid)] = int(parent)
                if arguments[1:3] == self._told:  # where the server's own process has ended, too
                    agents.append(int(pid))
        found = [self.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return [pid for pid in found[1:] if pid not in agents] + agents

    def idle(self, seconds=300):
        """Whether nothing that it has started runs after so many seconds at most."""
        until = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def listening(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().split()[:2]


@contextmanager
def running(folder):
    """A server, until the block ends; the test skips where there is none."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs an OpenSSH server to measure over: apt-get install openssh-server")
    if os.getuid() == 0:  # the server's own folder, which an init script makes otherwise
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host, user = keygen(folder / "host"), keygen(folder / "user")
    port = free_port()
    server = Server(folder, port)
    server.home.mkdir()
    (folder / "authorized").write_text(" ".join(user) + "\n")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(host)}\n")
    (folder / "config").write_text(
        f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n IdentityAgent none\n"
        f" UserKnownHostsFile {folder}/known\n GlobalKnownHostsFile /dev/null\n"
        " StrictHostKeyChecking yes\n"
    )
    (folder / "sshd").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\n"
    )
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd")], stderr=stderr)
    server.pid = process.pid
    try:
        until = time.monotonic() + 300
        while not listening(port):
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(f"the OpenSSH server does not start here: {log.read_text()[-500:]}")
            time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.wait(300)


class Opened:
    """The connections that are opened."""

    def __init__(self, monkeypatch):
        self.sessions = []
        real = ssh_session.Session.__init__

        def init(session, *arguments):
            self.sessions.append(session)
            real(session, *arguments)

        monkeypatch.setattr(ssh_session.Session, "__init__", init)


class Cut:
    """Kills the ssh client when a request to run is asked for, as often as it is told."""

    def __init__(self, monkeypatch, when):
        self.cuts, self.runs = 0, 0
        real = ssh_session.Session.ask

        def ask(session, do, data=b"", **arguments):
            if do == "run":
                self.runs += 1
                if when(self.runs, arguments["number"]):
                    self.cuts += 1
                    os.kill(session.pid, signal.SIGKILL)
            return real(session, do, data, **arguments)

        monkeypatch.setattr(ssh_session.Session, "ask", ask)


def agent_with(monkeypatch, old, new, module="autoprune.profile.agent"):
    """Another agent is sent: with that of a module's code changed."""
    real = agent_file.source
    assert real(module).count(old) == 1

    def source(name):
        return real(name).replace(old, new) if name == module else real(name)

    monkeypatch.setattr(agent_file, "source", source)
