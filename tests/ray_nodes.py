"""Real nodes of a Ray cluster on this machine, each a `ray start` process that can be killed."""

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ports import free_port

#: On the head, then on another node; the shell fills in $PORT, $HEAD and $TOKEN.
HEAD = "ray start --head --port=$PORT --include-dashboard=false --disable-usage-stats"
NODE = "ray start --address=$HEAD:$PORT --disable-usage-stats"
#: Ray keeps a process's first token, so all clusters of one process have the same.
SECRET = secrets.token_hex(32)
TOKEN = 'export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$TOKEN"'


class Nodes:
    """Nodes in the foreground, so that each ends with its process.

    Args:
        folder: for their logs; the directory in which commands are run.
        token: shell command that sets the cluster's token.
        more: environment variables.
    """

    def __init__(self, folder, token=TOKEN, **more):
        self.folder, self.token = Path(folder), token
        self.port, self.client_port = free_port(""), free_port("")
        self.head = socket.gethostbyname(socket.gethostname())
        self.address = f"{self.head}:{self.port}"
        self.client = f"ray://{self.head}:{self.client_port}"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOKEN": SECRET,
            "PORT": str(self.port),
            "HEAD": self.head,
            "OMP_NUM_THREADS": "1",
            "AUTOPRUNE_LOCKS": str(self.folder / "locks"),
            # A node that is lost is seen after 8 s; fewer are too few on a busy machine.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "8",
            **more,
        }
        self.started = []

    def shell(self, command, **options):
        """Run a command with the cluster's token."""
        return subprocess.Popen(
            ["bash", "-c", f"{self.token}\n{command}"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            start_new_session=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def start(self, command):
        """Start a node and wait until it says that it runs."""
        if "--head" in command and importlib.util.find_spec("grpc"):
            # The usual port may be another cluster's of this machine.
            command += f" --ray-client-server-port={self.client_port}"
        path = self.folder / f"node{len(self.started)}.log"
        with path.open("w") as log:
            process = self.shell(
                f"exec {command} --block --object-store-memory=100000000", stdout=log, stderr=log
            )
        self.started.append(process)
        until = time.monotonic() + 600
        while "Ray runtime started" not in path.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(path.read_text())
            time.sleep(0.05)
        return process

    def kill(self, process, how=signal.SIGKILL):
        """End a node, all of its processes at once."""
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self):
        """End every node, the head last."""
        for process in reversed(self.started):
            self.kill(process, signal.SIGTERM)

    @contextlib.contextmanager
    def token_here(self):
        """This process's token is the cluster's, too."""
        names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
