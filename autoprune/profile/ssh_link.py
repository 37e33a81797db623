"""The connection of one call of `SshProfiler.measure`, made anew where it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from autoprune.core.device import DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile import onnxruntime_kernels, openvino_kernels, replies
from autoprune.profile.measuring import Visit
from autoprune.profile.node_times import Source
from autoprune.profile.ssh_network import RemoteNetwork
from autoprune.profile.ssh_session import Lost, Session

T = TypeVar("T")

#: A visit whose connection is lost is tried so many times in all.
ATTEMPTS = 2


class Device(Protocol):
    """What a link connects to: `SshProfiler`."""

    target: str
    reconnect_s: float
    meter: str

    def connect(self) -> Session:
        """Connect, and start the agent."""

    def spec(self, session: Session) -> DeviceSpec:
        """The device at the other end of a connection."""


class Link:
    """The connection, and what is known of the device at its other end.

    Args:
        profiler: connects.
    """

    def __init__(self, profiler: Device) -> None:
        self.profiler = profiler
        self.session: Session | None = None
        self.loaded: set[int] = set()
        #: Which of the reference's nodes run elsewhere than they should, in words.
        self.elsewhere = ""
        self._no_energy = ""
        self._spec: DeviceSpec | None = None
        self._over = ""  # why there is no use in trying again

    def clear(self) -> None:
        """Forget the networks that are loaded; a new chunk numbers its own."""
        self.loaded.clear()
        self.elsewhere = ""
        if self.session is not None:
            try:
                self.session.ask("clear")
            except (Lost, ProfilerError):
                self.drop()

    def drop(self) -> None:
        """End the connection."""
        self.loaded.clear()
        if self.session is not None:
            self.session.close()
            self.session = None

    def window_s(self) -> float:
        """How long a window of energy lasts there at least; 0 where none is measured."""
        if not self.profiler.meter:
            return 0.0
        try:
            return float(self._connected().about.get("meter", {}).get("window_s", 0.0))
        except ProfilerError:
            return 0.0  # told of each network when it is visited

    def visit(self, network: RemoteNetwork, runs: int, *, energy: bool) -> Visit:
        """Have a network run; tried once more where the connection is lost.

        Args:
            network: which.
            runs: in a row.
            energy: whether a window of energy follows; not any more once the meter has failed.

        Raises:
            ProfilerError: it can't be run there, or the connection was lost each time.
        """

        def visit(session: Session) -> Visit:
            if network.number not in self.loaded:
                self.elsewhere = network.load(session).get("elsewhere", "") or self.elsewhere
                self.loaded.add(network.number)
            metered = energy and bool(self.profiler.meter) and not self._no_energy
            reply = session.ask("run", number=network.number, runs=runs, energy=metered)
            return replies.visit(reply, runs, "the device")

        found = self._again(visit, "measured")
        self._no_energy = found.no_energy or self._no_energy
        return found

    def profile(
        self,
        networks: Sequence[RemoteNetwork],
        measured: Sequence[Measurement],
        protocol: MeasuringProtocol,
    ) -> list[Measurement]:
        """Measurements with their kernels; those that can't be profiled have `error` set."""

        def profile(session: Session) -> list[Measurement]:
            def load(index: int) -> Source:
                return networks[index].profiled(session)

            if self._spec is not None and self._spec.runtime == "openvino":
                return openvino_kernels.profile_kernels(load, measured)
            return onnxruntime_kernels.profile_kernels(load, measured, protocol)

        try:
            return self._again(profile, "profiled")
        except ProfilerError as error:
            return [Measurement(m.key, error=m.error or str(error)) for m in measured]

    def _again(self, do: Callable[[Session], T], what: str) -> T:
        """Do it; once more where the connection is lost."""
        problem: Lost | None = None
        for _ in range(ATTEMPTS):
            session = self._connected()
            try:
                return do(session)
            except Lost as error:
                problem = error
                self.drop()
        raise ProfilerError(
            f"the connection to {self.profiler.target} was lost {ATTEMPTS} times while this was "
            f"{what}; the last time: {problem}"
        )

    def _connected(self) -> Session:
        if self._over:
            raise ProfilerError(self._over)
        if self.session is not None:
            return self.session
        # A device that was there a moment ago may be rebooting: it is waited for.
        deadline = time.monotonic() + (self.profiler.reconnect_s if self._spec else 0.0)
        pause = 0.5
        while self.session is None:
            try:
                self.session = self.profiler.connect()
            except Lost as error:
                if time.monotonic() + pause > deadline:
                    self._over = f"{self.profiler.target} can't be reached over ssh: {error}"
                    raise ProfilerError(self._over) from error
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            except ProfilerError as error:
                self._over = str(error)
                raise
        found = self.profiler.spec(self.session)
        if self._spec is not None and found != self._spec:
            self.drop()
            self._over = f"another device answers than before: {found}, before {self._spec}"
            raise ProfilerError(self._over)
        self._spec = found
        return self.session


class Visited:
    """A network that is timed there; its first visit, which warms it up, tells no energy.

    Args:
        link: the connection.
        network: to be run.
    """

    def __init__(self, link: Link, network: RemoteNetwork) -> None:
        self._link, self._network = link, network
        self._warm = False

    def visit(self, runs: int) -> Visit:
        """Have it run that many times in a row."""
        found = self._link.visit(self._network, runs, energy=self._warm)
        self._warm = True
        return found
