"""A program that is talked to over pipes, within time limits and without deadlocks."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType

from autoprune.core.errors import AutopruneError, ProfilerError

#: More than this without an end is no reply.
REPLY_BYTES = 1 << 24

#: Of what a program says on stderr, the last so many bytes are kept.
STDERR_BYTES = 4096


class ChildError(AutopruneError):
    """The program ended, is too slow, or says too much."""


class ChildEnded(ChildError):
    """The program ended, or closed its end of a pipe."""


class ChildTimeout(ChildError):
    """The program did not do what it must in time."""


class Child:
    """A program in a process group of its own, killed with all it started when it is closed.

    Args:
        command: the program and its arguments; no shell.

    Raises:
        ProfilerError: it can't be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if os.name == "nt":
            raise ProfilerError("profilers that run other programs need Linux or macOS")
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ProfilerError(
                f"the program {command[0]!r} can't be started: {error.strerror or error}"
            ) from error
        self._pipes = [self._process.stdin, self._process.stdout, self._process.stderr]
        self._in, self._out, self._err = (pipe.fileno() for pipe in self._pipes if pipe)
        for number in (self._in, self._out, self._err):
            os.set_blocking(number, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._selector.register(self._err, selectors.EVENT_READ)
        self._buffer = bytearray()
        self._said = bytearray()
        self._ended = False  # its stdout
        self._closed = False
        self._owner = os.getpid()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process, which leads a group of its own."""
        return self._process.pid

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send bytes; the limit is on how long none gets through.

        Raises:
            ChildTimeout: nothing got through for that long.
            ChildEnded: it no longer reads.
        """
        left = memoryview(data)
        deadline = time.monotonic() + timeout_s
        self._selector.register(self._in, selectors.EVENT_WRITE)
        try:
            while left:
                if not self._step(deadline):
                    continue
                try:
                    sent = os.write(self._in, left[: 1 << 16])
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise ChildEnded(f"it no longer reads: {error.strerror}") from error
                left = left[sent:]
                deadline = time.monotonic() + timeout_s
        finally:
            self._selector.unregister(self._in)

    def line(self, timeout_s: float) -> bytes:
        """The next line of its stdout, without its end.

        Raises:
            ChildTimeout: none came within the limit.
            ChildEnded: it ended.
            ChildError: the line has no end.
        """
        deadline = time.monotonic() + timeout_s
        while (end := self._buffer.find(b"\n")) < 0:
            if self._ended:
                raise ChildEnded("it ended")
            self._bounded()
            self._step(deadline)
        found = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return found

    def rest(self, timeout_s: float) -> tuple[bytes, int]:
        """Close its stdin and wait for its end: what is left of its stdout, and its status.

        Raises:
            ChildTimeout: it has not ended within the limit.
            ChildError: it says too much.
        """
        deadline = time.monotonic() + timeout_s
        self._close_stdin()
        while not self._ended:
            self._bounded()
            self._step(deadline)
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()) + 0.1)
        except subprocess.TimeoutExpired as error:
            raise ChildTimeout("it did not end in time") from error
        while self._drain(self._err, self._said):
            del self._said[:-STDERR_BYTES]
        return bytes(self._buffer), status

    def said(self) -> str:
        """The end of what it said on stderr, in one line; "" for nothing."""
        text = self._said[-STDERR_BYTES:].decode("utf-8", "replace")
        return " / ".join(line.strip() for line in text.splitlines() if line.strip())[-1000:]

    def close(self) -> None:
        """Kill it and all that it started, if it still runs; a forked process but lets go of it."""
        if self._closed:
            return  # its number may be another process's by now
        self._closed = True
        if self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._selector.close()
        for pipe in self._pipes:
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _bounded(self) -> None:
        if len(self._buffer) > REPLY_BYTES:
            raise ChildError(f"it says more than {REPLY_BYTES >> 20} MiB in one reply")

    def _step(self, deadline: float) -> bool:
        """Wait for something to happen and read it; whether its stdin takes bytes.

        The limit is on the program. What it has said counts though this process was stopped, or had
        no processor, until the limit was over.
        """
        ready = self._ready(deadline - time.monotonic())
        late = time.monotonic() >= deadline
        if late and not ready:
            ready = self._ready(0.0)  # a wait in which this process was stopped sees nothing
        if late and not ready & {self._in, self._out}:
            raise ChildTimeout("it did not answer in time")
        if self._out in ready and self._drain(self._out, self._buffer) == 0:
            self._selector.unregister(self._out)
            self._ended = True
        if self._err in ready:
            if self._drain(self._err, self._said) == 0:
                self._selector.unregister(self._err)
            del self._said[:-STDERR_BYTES]
        return self._in in ready

    def _ready(self, timeout_s: float) -> set[int]:
        """The pipes that something happens at, waited for at most so long."""
        return {key.fd for key, _ in self._selector.select(max(0.0, timeout_s))}

    @staticmethod
    def _drain(number: int, into: bytearray) -> int | None:
        """Read what is there: how many bytes, 0 at the end, None where there is none now."""
        try:
            chunk = os.read(number, 1 << 16)
        except BlockingIOError:
            return None
        into += chunk
        return len(chunk)

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
