"""Where a program runs and its files lie: on this machine, or on one that ssh reaches."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from autoprune.core.data import cache_folder
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.child import Child, ChildEnded, ChildError, ChildTimeout

#: Seconds for a file to be sent or fetched, or a folder to be made.
_FILE_S = 120.0

#: How often a command is tried whose connection is lost, and the seconds between two tries.
ATTEMPTS, PAUSE_S = 3, 2.0
#: What ssh itself ends with where there is no connection, or no more (ssh(1), EXIT STATUS).
_NO_CONNECTION = 255

T = TypeVar("T")


class Place(Protocol):
    """A machine, and a folder of ours on it."""

    def put(self, name: str, data: bytes) -> str:
        """Write a file into the folder; gives its path."""

    def path(self, name: str) -> str:
        """The path that a file has in the folder, or would have."""

    def get(self, name: str) -> str:
        """A text file of the folder.

        Raises:
            ProfilerError: it is not there.
        """

    def cache(self, name: str) -> str:
        """The path of a file that is kept, in the user's cache folder."""

    def run(self, command: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """Run a program: its status, and what it printed.

        Raises:
            ProfilerError: it can't be started, or took too long and was ended.
        """

    def close(self) -> None:
        """Remove the folder."""


class Here:
    """This machine, in a folder for temporary files."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="autoprune-"))

    def put(self, name: str, data: bytes) -> str:
        """As of `Place`."""
        path = self._folder / name
        try:
            path.write_bytes(data)
        except OSError as error:
            raise ProfilerError(f"{path} can't be written: {error.strerror}") from error
        return str(path)

    def path(self, name: str) -> str:
        """As of `Place`."""
        return str(self._folder / name)

    def get(self, name: str) -> str:
        """As of `Place`."""
        try:
            return (self._folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ProfilerError(f"the program wrote no {name} that can be read: {error}") from error

    def cache(self, name: str) -> str:
        """As of `Place`."""
        folder = cache_folder() / "tensorrt"
        with contextlib.suppress(OSError):  # without a cache it only takes longer
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder / name)

    def run(self, command: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """As of `Place`."""
        return _run(command, b"", timeout_s, command[0])

    def close(self) -> None:
        """As of `Place`."""
        shutil.rmtree(self._folder, ignore_errors=True)


class There:
    """A machine that ssh reaches, as the user's configuration of ssh says.

    Args:
        host: as ssh takes it: "user@jetson".
        ssh: the ssh program, with options where it needs any.

    Raises:
        MissingDependencyError: there is no ssh.
        ProfilerError: the machine can't be reached.
    """

    def __init__(self, host: str, ssh: str = "ssh") -> None:
        program = shlex.split(ssh)
        if not program or shutil.which(program[0]) is None:
            raise MissingDependencyError(
                f"measuring on {host} needs the ssh program, {ssh!r} is not there; "
                "install openssh-client"
            )
        if not host or host.startswith("-"):
            raise ProfilerError(f"host must be written user@host, got {host!r}")
        self._host = host
        self._ssh = [*program, "-o", "BatchMode=yes", host]
        made = self._shell(
            'echo "$HOME" && mktemp -d "${TMPDIR:-/tmp}/autoprune-XXXXXXXX"', attempts=1
        )
        *_, self._home, self._folder = made.decode().strip().split("\n")

    def put(self, name: str, data: bytes) -> str:
        """As of `Place`."""
        path = self.path(name)
        self._shell(f"cat > {shlex.quote(path)}", data)
        return path

    def path(self, name: str) -> str:
        """As of `Place`."""
        return f"{self._folder}/{name}"

    def get(self, name: str) -> str:
        """As of `Place`."""
        return self._shell(f"cat {shlex.quote(self.path(name))}").decode("utf-8", "replace")

    def cache(self, name: str) -> str:
        """As of `Place`."""
        folder = f"{self._home}/.cache/autoprune/tensorrt"
        self._shell(f"mkdir -p {shlex.quote(folder)}")
        return f"{folder}/{name}"

    def run(self, command: Sequence[str], timeout_s: float) -> tuple[int, str]:
        """As of `Place`; the program is ended there too, begun again if the connection is lost."""
        line = f"timeout -k 5 {timeout_s:g} {shlex.join(command)} 2>&1"
        status, printed = self._tried(
            lambda: _run([*self._ssh, line], b"", timeout_s + 30, command[0]), ATTEMPTS
        )
        if status == _NO_CONNECTION:
            raise ProfilerError(
                f"the connection to {self._host} was lost {ATTEMPTS} times: {printed[-300:]}"
            )
        if status in (124, 137):
            raise ProfilerError(_too_slow(command[0], timeout_s))
        return status, printed

    def close(self) -> None:
        """As of `Place`."""
        with contextlib.suppress(ProfilerError):
            self._shell(f"rm -rf {shlex.quote(self._folder)}")

    def _shell(self, line: str, data: bytes = b"", attempts: int = ATTEMPTS) -> bytes:
        """Run a line of shell there; again where the connection is lost.

        Raises:
            ProfilerError: it fails.
        """
        status, (printed, said) = self._tried(lambda: self._once(line, data), attempts)
        if status:
            raise ProfilerError(
                f"on {self._host} `{line[:80]}` ended with status {status}: "
                f"{said or 'it said nothing'}"
            )
        return printed

    def _once(self, line: str, data: bytes) -> tuple[int, tuple[bytes, str]]:
        """The status of a line of shell, what it printed, and what it said on stderr."""
        with Child([*self._ssh, line]) as child:
            try:
                with contextlib.suppress(ChildEnded):
                    child.write(data, _FILE_S)
                printed, status = child.rest(_FILE_S)
            except ChildError as error:
                raise ProfilerError(f"{self._host}: {child.said() or error}") from error
            return status, (printed, child.said())

    def _tried(self, do: Callable[[], tuple[int, T]], attempts: int) -> tuple[int, T]:
        """A status and what comes with it; tried again where there is no connection."""
        found = do()
        while found[0] == _NO_CONNECTION and attempts > 1:
            time.sleep(PAUSE_S)
            attempts -= 1
            found = do()
        return found


def _run(command: Sequence[str], data: bytes, timeout_s: float, name: str) -> tuple[int, str]:
    with Child(command) as child:
        try:
            with contextlib.suppress(ChildEnded):
                child.write(data, timeout_s)
            printed, status = child.rest(timeout_s)
        except ChildTimeout as error:
            raise ProfilerError(_too_slow(name, timeout_s)) from error
        except ChildError as error:
            raise ProfilerError(f"{name}: {error}") from error
        said = child.said()
    text = printed.decode("utf-8", "replace")
    return status, f"{text}\n{said}" if said else text


def _too_slow(name: str, timeout_s: float) -> str:
    return f"{name} took longer than timeout_s ({timeout_s:g} s) and was ended"
