"""Measures on another machine, over the system's ssh."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import onnxruntime_kernels, openvino_kernels, replies
from autoprune.profile.chunks import measure_in_chunks
from autoprune.profile.cpu import parse_cpuinfo
from autoprune.profile.measuring import Visit, measure_interleaved
from autoprune.profile.node_times import Source
from autoprune.profile.ssh_network import RemoteNetwork
from autoprune.profile.ssh_options import runtime_options
from autoprune.profile.ssh_session import Lost, Session

T = TypeVar("T")

#: A visit whose connection is lost is tried so many times in all.
ATTEMPTS = 2

#: Where the agent keeps networks and inputs on the device.
FOLDER = "~/.cache/autoprune"


class SshProfiler:
    """Measures on a machine that `ssh` reaches, with a runtime that is installed there.

    The system's ssh is called, so keys, jump hosts, names and known hosts are as the user's
    configuration has them; it is never asked for a password, and a host key that is unknown or
    changed is refused as ssh refuses it. Nothing is installed there and nothing listens on a
    port: a small agent is sent over the connection, checked by its hash, and gone with it.
    It needs Python 3.9, numpy and the runtime. Networks are sent once and kept by their hash.

    Rounds and the reference in between are as on this machine (`measure_interleaved`). A
    connection that is lost, or a run that hangs, costs the visit in flight: it is tried once more
    over a new connection, then recorded as that network's error.

    Args:
        address: ssh://user@host:port; user and port may be left out, and host may be a name from
            ssh's configuration.
        runtime: "onnxruntime-cpu", "onnxruntime-" and another execution provider, "openvino-cpu".
        threads: of the runtime, at least 1.
        precision: what OpenVINO computes in: "fp32", "bf16" or "fp16".
        graph_optimization: of onnxruntime: "all", "extended", "basic" or "disabled".
        python: the interpreter there.
        ssh: the ssh program, with options where it needs any: "ssh -F myconfig".
        timeout_s: what one request (a few runs of one network) may take.
        reconnect_s: for how long a lost device is waited for, as one that reboots.
        sessions: networks that are loaded there at a time, besides the reference.
        cache_mb: megabytes of networks that are kept there.

    Raises:
        MissingDependencyError: there is no ssh.
        ProfilerError: an option is wrong.
    """

    #: A meter that reads this machine says nothing of what it measures.
    remote = True

    def __init__(
        self,
        address: str = "",
        runtime: str = "onnxruntime-cpu",
        threads: int = 1,
        precision: str = "fp32",
        graph_optimization: str = "all",
        python: str = "python3",
        ssh: str = "ssh",
        timeout_s: float = 60.0,
        reconnect_s: float = 60.0,
        sessions: int = 16,
        cache_mb: int = 1024,
    ) -> None:
        program = shlex.split(ssh)
        if not program or shutil.which(program[0]) is None:
            raise MissingDependencyError(
                f"measuring over ssh needs the program {program[0] if program else 'ssh'!r}: "
                "apt-get install openssh-client"
            )
        if not address:
            raise ProfilerError(
                "ssh measures on another machine: write its address, for example "
                "ssh://user@host?runtime=onnxruntime-cpu&threads=1"
            )
        for name, value, least in (
            ("threads", threads, 1),
            ("sessions", sessions, 1),
            ("cache_mb", cache_mb, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ProfilerError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, seconds, least in (("timeout_s", timeout_s, 1), ("reconnect_s", reconnect_s, 0)):
            if not seconds >= least:
                raise ProfilerError(f"{name} must be at least {least}, got {seconds!r}")
        self.target, port = _target(address)
        self._command = [
            *program, "-T", "-oBatchMode=yes", f"-oConnectTimeout={max(1, round(timeout_s))}",
            "-oServerAliveInterval=5", "-oServerAliveCountMax=3", *port, "--", self.target,
        ]  # fmt: skip
        self._python = python
        self._timeout_s = timeout_s
        self.reconnect_s = reconnect_s
        self._sessions = sessions
        changed = graph_optimization != "all"
        self._settings = {"graph_optimization": graph_optimization} if changed else {}
        self._start = {
            "runtime": runtime,
            "threads": threads,
            "options": runtime_options(runtime, precision, graph_optimization),
            "folder": FOLDER,
            "limit": cache_mb << 20,
        }

    @cached_property
    def device(self) -> DeviceSpec:
        """The device, as the agent finds it; asked for once.

        Raises:
            ProfilerError: it can't be reached, or can't measure.
        """
        try:
            session = self.connect()
        except Lost as error:
            raise ProfilerError(f"{self.target} can't be reached over ssh: {error}") from error
        session.close()
        return self.spec(session)

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks there; the first is the reference.

        With `protocol.kernels`, each is then also profiled there by the runtime itself, the
        reference again beside it, as by `OnnxRuntimeProfiler` and `OpenVinoProfiler`. Where the
        connection is lost meanwhile, all of this is done anew, once.
        """
        link = _Link(self)

        def chunk(some: list[Artifact], share: MeasuringProtocol) -> list[Measurement]:
            link.clear()
            networks = [RemoteNetwork(number, a) for number, a in enumerate(some)]
            visited = [_Visited(link, network) for network in networks]
            measured = measure_interleaved([a.key for a in some], visited, share)
            if protocol.kernels and measured[0].ok:
                return link.profile(networks, measured, share)
            return measured

        try:
            return measure_in_chunks(artifacts, protocol, chunk, sessions=self._sessions)
        finally:
            link.drop()

    def connect(self) -> Session:
        """Connect, and start the agent.

        Raises:
            ProfilerError: it can't measure there.
            Lost: there is no connection.
        """
        return Session(self._command, self._python, self._timeout_s, self._start)

    def spec(self, session: Session) -> DeviceSpec:
        """The device at the other end of a connection."""
        told = session.about
        name, details = parse_cpuinfo(str(told.get("cpuinfo", "")))
        about = {
            **told.get("about", {}),
            "name": name or told.get("machine") or "unknown CPU",
            "threads": self._start["threads"],
            "details": {**details, **told.get("details", {}), "over": f"ssh to {self.target}"},
        }
        return replace(replies.device(about, "the device"), settings=self._settings)


class _Link:
    """The connection of one call of `measure`, made anew where it is lost."""

    def __init__(self, profiler: SshProfiler) -> None:
        self.profiler = profiler
        self.session: Session | None = None
        self.loaded: set[int] = set()
        self._spec: DeviceSpec | None = None
        self._over = ""  # why there is no use in trying again

    def clear(self) -> None:
        """Forget the networks that are loaded; a new chunk numbers its own."""
        self.loaded.clear()
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

    def visit(self, network: RemoteNetwork, runs: int) -> Visit:
        """Have a network run; tried once more where the connection is lost.

        Raises:
            ProfilerError: it can't be run there, or the connection was lost each time.
        """

        def visit(session: Session) -> Visit:
            if network.number not in self.loaded:
                network.load(session)
                self.loaded.add(network.number)
            reply = session.ask("run", number=network.number, runs=runs)
            return replies.visit(reply, runs, "the device")

        return self._again(visit, "measured")

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


class _Visited:
    """A network that is timed there."""

    def __init__(self, link: _Link, network: RemoteNetwork) -> None:
        self._link, self._network = link, network

    def visit(self, runs: int) -> Visit:
        """Have it run that many times in a row."""
        return self._link.visit(self._network, runs)


def _target(address: str) -> tuple[str, list[str]]:
    """user@host and ssh's option for the port, of an address.

    Raises:
        ProfilerError: it is not of the form ssh://user@host:port.
    """
    parts: SplitResult | None
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = None, "", None
    if (
        parts is None
        or parts.scheme != "ssh"
        or not host
        or host.startswith("-")
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.password is not None
        or (parts.username or "").startswith("-")
    ):
        raise ProfilerError(
            "an address must be written ssh://user@host:port (user and port may be left out, a "
            f"password is never given), with options after ?; got {address!r}"
        )
    # As it is written: urlsplit makes a name small, ssh's configuration tells case apart.
    host = parts.netloc.rpartition("@")[2]
    host = host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]
    target = f"{parts.username}@{host}" if parts.username else host
    return target, [f"-p{port}"] if port is not None else []
