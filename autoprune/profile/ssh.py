"""Measures on another machine, over the system's ssh."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks, reference_failed
from autoprune.profile.energy_counters import METERS
from autoprune.profile.loading import load_and_measure
from autoprune.profile.metered import lengthened
from autoprune.profile.options import converted
from autoprune.profile.ssh_connection import Connection
from autoprune.profile.ssh_device import RemoteDevice
from autoprune.profile.ssh_link import Link, Visited
from autoprune.profile.ssh_network import RemoteNetwork
from autoprune.profile.ssh_options import remote_runtime
from autoprune.profile.ssh_runtime import FOLDER
from autoprune.profile.ssh_session import Session


class SshProfiler:
    """Measures on a machine that `ssh` reaches, with a runtime that is installed there.

    The system's ssh is called, so keys, jump hosts, names and known hosts are as the user's
    configuration has them; it is never asked for a password, and a host key that is unknown or
    changed is refused as ssh refuses it. Nothing is installed there and nothing listens on a
    port: a small agent is sent over the connection, checked by its hash, and gone with it.
    It needs Python 3.9, numpy and the runtime. Networks are sent once and kept by their hash.

    The connection is opened when it is needed and kept for all calls; it ends with this object,
    with the process, after two minutes without a call, and by `close`. Networks are loaded there
    for the time of a call. A copy in another process, forked or pickled, has its own connection.

    Rounds and the reference in between are as on this machine (`measure_interleaved`). A
    connection that is lost, or a run that hangs, costs the visit in flight: it is tried once more
    over a new connection, then recorded as that network's error.

    Args:
        address: ssh://user@host:port; user and port may be left out, and host may be a name from
            ssh's configuration.
        runtime: a name of `ssh_options.RUNTIMES`, such as "onnxruntime-cpu"; its options are
            given by `options`.
        calibration: for int8 alone: batches of inputs, or an .npz file with an array for each
            input; by default the example inputs, which do for latency.
        meter: reads the device's energy there: "jetson", "nvml" or "rapl".
        meter_options: of the meter, as `energy_counters.METERS` takes them.
        python: the interpreter there.
        ssh: the ssh program, with options where it needs any: "ssh -F myconfig".
        timeout_s: what one request (a few runs of one network, and a window of energy) may take.
        reconnect_s: for how long a lost device is waited for, as one that reboots.
        sessions: networks that are loaded there at a time, besides the reference.
        cache_mb: megabytes of networks that are kept there.
        options: of the runtime, `threads`, `precision` and more: those that the profiler of that
            name on this machine takes. Networks are converted here, and sent so.

    Raises:
        MissingDependencyError: there is no ssh.
        ProfilerError: an option is wrong.
    """

    #: A meter that reads this machine says nothing of what it measures.
    remote = True

    #: None on a call: each request to the agent has its own.
    limit_s = math.inf

    #: Names of the meters that it reads by itself, on the machine that it measures on.
    meters = tuple(METERS)

    def __init__(
        self,
        address: str = "",
        runtime: str = "onnxruntime-cpu",
        calibration: object = None,
        meter: str = "",
        meter_options: Mapping[str, Any] | None = None,
        python: str = "python3",
        ssh: str = "ssh",
        timeout_s: float = 60.0,
        reconnect_s: float = 60.0,
        sessions: int = 16,
        cache_mb: int = 1024,
        **options: Any,
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
            ("sessions", sessions, 1),
            ("cache_mb", cache_mb, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ProfilerError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, seconds, least in (("timeout_s", timeout_s, 1), ("reconnect_s", reconnect_s, 0)):
            if not least <= seconds < math.inf:
                raise ProfilerError(f"{name} must be at least {least} and finite, got {seconds!r}")
        target, port = _target(address)
        command = [
            *program, "-T", "-oBatchMode=yes", f"-oConnectTimeout={max(1, round(timeout_s))}",
            "-oServerAliveInterval=5", "-oServerAliveCountMax=3", "-oControlMaster=no", *port,
            "--", target,
        ]  # fmt: skip
        self._sessions = sessions
        if meter and meter not in METERS:
            raise ProfilerError(
                f"meter must be one of {', '.join(METERS)} where ssh reads it on the other "
                f"machine; got {meter!r}"
            )
        self._meter = meter
        counter = converted(f"meter {meter!r}", METERS[meter], meter_options or {}) if meter else {}
        if calibration is not None:
            options["calibration"] = calibration
        self._runtime = remote_runtime(runtime, options)
        start = {
            "runtime": self._runtime.runtime,
            "options": self._runtime.options,
            "meter": meter,
            "meter_options": counter,
            "folder": FOLDER,
            "limit": cache_mb << 20,
        }
        # It must not know this profiler: it ends with it.
        self._connection = Connection(
            target,
            shlex.join([*program, "-oBatchMode=yes", *port, target, "true"]),
            reconnect_s,
            partial(Session, command, python, timeout_s, start),
            RemoteDevice(target, self._runtime, meter).spec,
        )

    @property
    def device(self) -> DeviceSpec:
        """The device, as the agent finds it; asked for once.

        Raises:
            ProfilerError: it can't be reached, or can't measure.
        """
        known = self._connection.device
        if known is not None:
            return known
        with self._connection.used():
            return self._connection.describe(self._connection.session().about)

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks there; the first is the reference.

        With `protocol.kernels`, each is then also profiled there by the runtime itself, the
        reference again beside it, as by the profiler of that name on this machine. Where the
        connection is lost meanwhile, what was in flight of that is done anew, once.
        """
        link = Link(self._connection, self._runtime, self._meter)

        def chunk(some: list[Artifact], share: MeasuringProtocol) -> list[Measurement]:
            link.clear()
            unreachable = link.reach()  # what networks are turned into may depend on the device
            if unreachable:
                return reference_failed(some, unreachable)
            ready, errors = self._runtime.ready(some)
            networks = [
                RemoteNetwork(i, sent, self._runtime.load_s) for i, sent in enumerate(ready)
            ]
            by_key = {a.key: network for a, network in zip(some, networks, strict=True)}

            def load(artifact: Artifact) -> Visited:
                return Visited(link, by_key[artifact.key])

            measured = load_and_measure(self._runtime.runtime, load, some, share, errors)
            if protocol.kernels and measured[0].ok and self._runtime.tells_kernels:
                measured = link.profile(networks, measured, share)
            return link.noted(networks, measured)

        with self._connection.used():
            longer = lengthened(protocol, len(artifacts), link.window_s())
            return measure_in_chunks(artifacts, longer, chunk, sessions=self._sessions)

    def conditions(self) -> dict[str, str]:
        """Clocks and temperature there at this moment; {} where they can't be read.

        Raises:
            ProfilerError: it can't be reached, or can't measure.
        """
        link = Link(self._connection, self._runtime, self._meter)
        with self._connection.used():
            reply = link.again(lambda session: session.ask("conditions"), "conditions were read")
        return {str(name): str(value) for name, value in reply.get("conditions", {}).items()}

    def close(self) -> None:
        """End the connection now; the next call opens another one."""
        self._connection.close()


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
