"""One connection to a device: the agent at its other end, and what it is asked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.core.errors import AutopruneError, ProfilerError
from autoprune.profile import agent_file, replies
from autoprune.profile.agent import VERSION
from autoprune.profile.child import Child, ChildEnded, ChildError

#: Lines that a login shell may print before the agent does.
GREETING_LINES = 200

#: The agent gives up on a request this much before the connection does.
MARGIN_S = 5.0

#: The status of ssh where it failed by itself; any other is the remote program's.
SSH_FAILED = 255

#: A connection that was not used for a while must answer within so many seconds.
ANSWER_S = 10.0

#: What ssh may take to end, and to tell its status, once its pipe has ended.
LAST_WORDS_S = 20.0

#: Runs on the device: reads one file from the pipe, checks its hash, and becomes the agent.
BOOTSTRAP = (
    "import sys,hashlib\n"
    "f=sys.stdin.buffer\n"
    "if sys.version_info<(3,9): sys.exit('the agent needs Python 3.9, this is '+sys.version)\n"
    "n,h=f.readline().decode().split()\n"
    "s=f.read(int(n))\n"
    "if hashlib.sha256(s).hexdigest()!=h: sys.exit('the agent was damaged on its way')\n"
    "exec(compile(s,'autoprune_agent.py','exec'),{'__name__':'autoprune_agent'})\n"
)


def _one_line(code: str) -> str:
    """Code without a newline, or a quote that any shell would look at twice."""
    return f'exec(__import__("base64").b64decode("{base64.b64encode(code.encode()).decode()}"))'


class Lost(AutopruneError):
    """The connection is gone, or what comes through it is no reply."""


class Session:
    """An agent on a device, started over ssh and gone with the connection.

    Args:
        command: of ssh, up to what is to be run there.
        python: the interpreter there.
        timeout_s: of each request; of a transfer, the longest time in which no byte gets through.
        start: arguments of the agent's `start`.

    Raises:
        ProfilerError: ssh can't be started, or the agent can't measure there.
        Lost: there is no connection; says why, as ssh does.
    """

    def __init__(
        self, command: Sequence[str], python: str, timeout_s: float, start: Mapping[str, Any]
    ) -> None:
        self._timeout_s = timeout_s
        #: Numbers of the networks that are loaded to be timed.
        self.loaded: set[int] = set()
        #: Whether nothing more can be asked.
        self.closed = False
        self._child = Child([*command, f"{python} -c {shlex.quote(_one_line(BOOTSTRAP))}"])
        self._status = 0  # of an ssh client that has ended
        try:
            self._agent(agent_file.build(start["runtime"]))
            #: What the agent tells of the device.
            self.about = self.ask("start", **start)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the ssh client."""
        return self._child.pid

    def ask(
        self, do: str, data: bytes = b"", within_s: float = 0.0, **arguments: Any
    ) -> dict[str, Any]:
        """One request and its reply; the connection is closed where none came.

        Args:
            do: the request, by its name.
            data: bytes that follow it.
            within_s: what it may take, where that is more than every request may.
            arguments: of the request.

        Raises:
            ProfilerError: the agent says that it failed.
            Lost: no reply came in time, or none that can be read.
        """
        return self._asked({"do": do, **arguments}, data, max(within_s, self._timeout_s))

    def clear(self) -> None:
        """Have the agent forget what is loaded; it must answer soon, so that a dead one is noticed.

        Raises:
            ProfilerError: the agent says that it failed.
            Lost: no reply came in time, or none that can be read.
        """
        self.loaded.clear()
        self._asked({"do": "clear"}, b"", min(self._timeout_s, ANSWER_S))

    def close(self) -> None:
        """End the connection, and the agent with it."""
        self.closed = True
        self._child.close()

    def _asked(self, request: dict[str, Any], data: bytes, timeout_s: float) -> dict[str, Any]:
        limit = max(timeout_s - MARGIN_S, timeout_s / 2)
        request["limit_s"] = limit if not data else 3600.0
        try:
            self._write(json.dumps(request).encode() + b"\n" + data)
            line = self._line(timeout_s)
        except BaseException:
            self.close()  # a reply that comes late would be taken for the next request's
            raise
        try:
            json.loads(line)
        except ValueError as error:
            raise Lost(f"the agent must reply in JSON, got {line[:100]!r}") from error
        return replies.parse(line, "the device")

    def _agent(self, code: bytes) -> None:
        """Send the agent, and wait for its hello.

        Args:
            code: its file.

        Raises:
            ProfilerError: it does not start, or is of another version.
            Lost: there is no connection.
        """
        try:
            digest = hashlib.sha256(code).hexdigest()
            self._write(f"{len(code)} {digest}\n".encode() + code)
            self._greeted()
        except Lost as error:
            if 0 < self._status < SSH_FAILED:
                raise ProfilerError(
                    f"the agent does not start there: {error} (status {self._status}). The option "
                    "python must name an interpreter, Python 3.9 or newer"
                ) from error
            raise

    def _greeted(self) -> None:
        """Skip what a login shell prints, until the agent says hello.

        Raises:
            ProfilerError: it is an agent of another version.
        """
        for _ in range(GREETING_LINES):
            line = self._line(self._timeout_s)
            if line.startswith(b'{"autoprune_agent": '):
                version = json.loads(line)["autoprune_agent"]
                if version != VERSION:
                    raise ProfilerError(
                        f"the agent there is of version {version}, this autoprune's is {VERSION}"
                    )
                return
        raise Lost(f"no agent, only {GREETING_LINES} lines of something else: {line[:100]!r}")

    def _write(self, data: bytes) -> None:
        try:
            self._child.write(data, self._timeout_s)
        except ChildError as error:
            raise self._lost(error) from error

    def _line(self, timeout_s: float) -> bytes:
        try:
            return self._child.line(timeout_s)
        except ChildError as error:
            raise self._lost(error) from error

    def _lost(self, error: ChildError) -> Lost:
        why = str(error)
        if isinstance(error, ChildEnded):
            why = self._last_words() or "the connection was closed"
        elif self._child.said():
            why += f" ({self._child.said()})"
        return Lost(why)

    def _last_words(self) -> str:
        with contextlib.suppress(ChildError):
            _, self._status = self._child.rest(LAST_WORDS_S)
        return self._child.said()
