"""One call of `SshProfiler.measure`: what is asked over its connection, twice where it is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from autoprune.core.device import Measurement, MeasuringProtocol
from autoprune.core.errors import ProfilerError
from autoprune.profile import replies
from autoprune.profile.measuring import Visit
from autoprune.profile.node_times import Source
from autoprune.profile.ssh_connection import Connection
from autoprune.profile.ssh_network import RemoteNetwork
from autoprune.profile.ssh_runtime import RemoteRuntime
from autoprune.profile.ssh_session import Lost, Session

T = TypeVar("T")

#: What is asked is tried so many times in all where the connection is lost.
ATTEMPTS = 2


class Link:
    """What is known of the device in one call.

    Args:
        connection: to the device.
        runtime: there.
        meter: the name of a meter that is read there; "" for none.
    """

    def __init__(self, connection: Connection, runtime: RemoteRuntime, meter: str) -> None:
        self._connection, self._runtime, self._meter = connection, runtime, meter
        self._elsewhere = ""  # which of the reference's nodes run there, in words
        self._no_energy = ""
        self._over = ""  # why there is no use in trying again

    def clear(self) -> None:
        """Forget the networks that are loaded; a new chunk numbers its own."""
        self._elsewhere = ""
        self._connection.clear()

    def reach(self) -> str:
        """Connect, where that is still to be done; why it can't be, "" where it can."""
        try:
            self._connected()
        except ProfilerError as error:
            return str(error)
        return ""

    def window_s(self) -> float:
        """How long a window of energy lasts there at least; 0 where none is measured."""
        if not self._meter:
            return 0.0
        try:
            return float(self._connected().about.get("meter", {}).get("window_s", 0.0))
        except ProfilerError:
            return 0.0  # told of each network when it is visited

    def load(self, network: RemoteNetwork) -> None:
        """Have a network loaded there, which may take minutes where it is built or compiled.

        Raises:
            ProfilerError: it can't be loaded there, or the connection was lost each time.
        """
        self.again(lambda session: self._load(session, network), "this was loaded")

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
            self._load(session, network)
            metered = energy and bool(self._meter) and not self._no_energy
            reply = session.ask("run", number=network.number, runs=runs, energy=metered)
            return replies.visit(reply, runs, "the device")

        found = self.again(visit, "this was measured")
        self._no_energy = found.no_energy or self._no_energy
        return found

    def _load(self, session: Session, network: RemoteNetwork) -> None:
        """Have a network loaded there, to be timed."""
        if network.number not in session.loaded:
            reply = network.load(session)
            self._elsewhere = str(reply.get("elsewhere", ""))[:1000] or self._elsewhere
            session.loaded.add(network.number)

    def profile(
        self,
        networks: Sequence[RemoteNetwork],
        measured: Sequence[Measurement],
        protocol: MeasuringProtocol,
    ) -> list[Measurement]:
        """Measurements with their kernels; those that can't be profiled have `error` set."""
        if self._runtime.beside:
            return [
                self._beside(networks[0], network, m, measured[0].latency_ms) if m.ok else m
                for network, m in zip(networks, measured, strict=True)
            ]

        def profile(session: Session) -> list[Measurement]:
            def load(index: int) -> Source:
                return networks[index].profiled(session)

            return self._runtime.profiled(load, measured, protocol)

        try:
            return self.again(profile, "this was profiled")
        except ProfilerError as error:
            return [Measurement(m.key, error=m.error or str(error)) for m in measured]

    def _beside(
        self, first: RemoteNetwork, own: RemoteNetwork, measurement: Measurement, latency_ms: float
    ) -> Measurement:
        """A measurement with the kernels of its network, which was profiled beside the first."""

        def profile(session: Session) -> Measurement:
            for network in (first, own):
                self._load(session, network)
            reply = session.ask("kernels", number=own.number)
            told, whole_ms = replies.kernels(reply, "the device", reference=own is first)
            kernels = self._runtime.kernels(told, own.sent)
            scale = latency_ms / whole_ms
            scaled = tuple(replace(k, latency_ms=k.latency_ms * scale) for k in kernels)
            return replace(measurement, kernels=scaled)

        try:
            return self.again(profile, "this was profiled")
        except ProfilerError as error:
            return Measurement(measurement.key, error=str(error))

    def noted(
        self, networks: Sequence[RemoteNetwork], measured: Sequence[Measurement]
    ) -> list[Measurement]:
        """Measurements with what was told of them when their networks were loaded."""
        return [
            replace(m, notes=(*m.notes, *filter(None, (network.note, self._elsewhere))))
            for network, m in zip(networks, measured, strict=True)
        ]

    def again(self, do: Callable[[Session], T], while_: str) -> T:
        """Do it; once more where the connection is lost.

        Raises:
            ProfilerError: it fails, the device is not there, or the connection was lost each time.
        """
        problem: Lost | None = None
        for _ in range(ATTEMPTS):
            session = self._connected()
            try:
                return do(session)
            except Lost as error:
                problem = error
                self._connection.drop()
        raise ProfilerError(
            f"the connection to {self._connection.target} was lost {ATTEMPTS} times while "
            f"{while_}; the last time: {problem}"
        )

    def _connected(self) -> Session:
        if self._over:
            raise ProfilerError(self._over)
        try:
            return self._connection.session()
        except ProfilerError as error:
            self._over = str(error)
            raise


class Visited:
    """A network that is loaded there and timed; its first visit, to warm it up, tells no energy.

    Args:
        link: of the call.
        network: to be run.

    Raises:
        ProfilerError: as of `Link.load`.
    """

    def __init__(self, link: Link, network: RemoteNetwork) -> None:
        self._link, self._network = link, network
        link.load(network)  # before the time limit of measuring begins
        self._warm = False

    def visit(self, runs: int) -> Visit:
        """Have it run that many times in a row."""
        found = self._link.visit(self._network, runs, energy=self._warm)
        self._warm = True
        return found
