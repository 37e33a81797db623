"""The one connection of a profiler to its device, kept from call to call."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ProfilerError
from autoprune.profile.ssh_session import Lost, Session


class Connection:
    """Opened when it is asked for, kept, and opened anew where it is lost.

    It ends with this object, with the process, and when nothing is asked for `agent.IDLE_S`
    seconds. It is its process's own: forked or pickled, the other process opens another one. The
    device at its other end must stay the same for as long as this object lives.

    Args:
        target: user@host, for messages.
        trial: a command that must work where the device can be reached.
        reconnect_s: for how long a device that answered before is waited for.
        start: connects and starts the agent.
        describe: the device, of what the agent tells of it.
    """

    def __init__(
        self,
        target: str,
        trial: str,
        reconnect_s: float,
        start: Callable[[], Session],
        describe: Callable[[dict[str, Any]], DeviceSpec],
    ) -> None:
        self.target, self._trial = target, trial
        self._reconnect_s = reconnect_s
        self._start, self.describe = start, describe
        #: What answered first.
        self.device: DeviceSpec | None = None
        self._there = False  # whether it did the last time
        self._disown()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_session", "_close", "_lock", "_owner")
        return {**{k: v for k, v in self.__dict__.items() if k not in own}, "_there": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._disown()

    def _disown(self) -> None:
        """Begin without a connection, in this process."""
        self._session: Session | None = None
        self._close: weakref.finalize[..., Any] | None = None
        self._lock = threading.RLock()
        self._owner = os.getpid()

    @contextmanager
    def used(self) -> Iterator[None]:
        """For one call: by one thread at a time, and over a connection that answers.

        What is loaded on the device is forgotten there before and after.
        """
        with self._mine():
            self.clear()
            try:
                yield
            finally:
                self.clear()

    def close(self) -> None:
        """End the connection, as soon as no call uses it; the next call opens another one."""
        with self._mine():
            self.drop()

    def _mine(self) -> threading.RLock:
        """The lock of this process's connection."""
        if self._owner != os.getpid():
            self.drop()  # a copy of another process's, which goes on there
            self._disown()
        return self._lock

    def session(self) -> Session:
        """The connection, opened where there is none.

        Raises:
            ProfilerError: the device can't be reached, can't measure, or is another one.
        """
        if self._session is not None and not self._session.closed:
            return self._session
        self.drop()
        session = self._reached()
        try:
            found = self.describe(session.about)
            if self.device not in (None, found):
                raise ProfilerError(
                    f"another device answers than before: {found}, before {self.device}"
                )
        except BaseException:
            session.close()
            raise
        self.device = self.device or found
        self._session = session
        self._close = weakref.finalize(self, session.close)
        return session

    def clear(self) -> None:
        """Forget what is loaded; a connection that does not answer in time is ended."""
        if self._session is None or self._session.closed:
            return
        try:
            self._session.clear()
        except (Lost, ProfilerError):
            self.drop()

    def drop(self) -> None:
        """End the connection, if there is one."""
        self._session = None
        if self._close is not None:
            self._close()

    def _reached(self) -> Session:
        # A device that was there a moment ago may be rebooting: it is waited for.
        deadline = time.monotonic() + (self._reconnect_s if self._there else 0.0)
        pause = 0.5
        while True:
            try:
                session = self._start()
            except Lost as error:
                if time.monotonic() + pause > deadline:
                    self._there = False
                    why = str(error).rstrip(".")
                    raise ProfilerError(
                        f"{self.target} can't be reached over ssh: {why}. This must work without a "
                        f"question: {self._trial}"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self._there = True
                return session
