"""Measures networks on a remote device; sent there by `SshProfiler`, read from a pipe and run.

It is sent as one file with the few modules that it imports (`agent_file`), and needs Python 3.9,
numpy and the runtime. It reads one JSON request a line from stdin and writes one JSON reply a line
to stdout. Networks and inputs are kept in a folder by their hash,
so that each is sent once. An operation that takes longer than its limit ends the process by the
operating system's timer, also where the runtime hangs; so does the end of stdin, and a long time
without a request.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import platform
import signal
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from autoprune.core.errors import AutopruneError, ProfilerError
from autoprune.profile.agent_running import Profiled, Running, Runtime
from autoprune.profile.agent_runtimes import make
from autoprune.profile.conditions import conditions_of
from autoprune.profile.energy import MeterError, Windows, window_s
from autoprune.profile.energy_counters import METERS

#: Of requests and replies; the other side refuses another.
VERSION = 4

#: An agent that is asked nothing for so long ends, though the other side's machine may be gone
#: without a word.
IDLE_S = 120.0

#: What a runtime may take to end.
END_S = 10.0


class Store:
    """Files by their hash, at most so many bytes of them."""

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = os.path.expanduser(folder), limit
        self.used: set[str] = set()
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a file is, or would be."""
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise ProfilerError(f"not a hash: {digest!r}")
        return os.path.join(self.folder, digest)

    def has(self, digest: str) -> bool:
        """Whether a file is there; it stays so until `Agent.clear`."""
        self.used.add(digest)
        return os.path.exists(self.path(digest))

    def read(self, digest: str) -> bytes:
        """A file, checked."""
        with open(self.path(digest), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            os.unlink(self.path(digest))
            raise ProfilerError(f"{digest} on the device was not what its name says; removed")
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keep a file; where the disk is full, in place of older ones."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise ProfilerError(f"{digest} was damaged on its way")
        self.make_room(len(data))
        try:
            self.write(digest, data)
        except OSError:
            self.make_room(self.limit)  # full: all that is not in use goes
            try:
                self.write(digest, data)
            except OSError as error:
                raise ProfilerError(
                    f"{len(data)} bytes can't be written to {self.folder} on the device: "
                    f"{error.strerror}; make room there"
                ) from error

    def write(self, digest: str, data: bytes) -> None:
        """Write a file whole, or not at all."""
        part = f"{self.path(digest)}.{os.getpid()}"
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, self.path(digest))
        except OSError:
            if os.path.exists(part):
                os.unlink(part)
            raise

    def make_room(self, size: int) -> None:
        """Remove the oldest files that are not in use."""
        found = []
        for name in os.listdir(self.folder):
            try:
                about = os.stat(os.path.join(self.folder, name))
            except OSError:
                continue
            found.append((about.st_mtime, about.st_size, name))
        total = sum(length for _, length, _ in found)
        for _, length, name in sorted(found):
            if total + size <= self.limit:
                break
            if name not in self.used:
                try:
                    os.unlink(os.path.join(self.folder, name))
                except OSError:
                    continue
                total -= length


class Agent:
    """The requests, one method each."""

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.networks: dict[int, Running] = {}
        self.profiled: dict[int, Profiled] = {}
        self.runtime: Runtime
        self.windows: Windows
        self.store: Store

    def start(
        self,
        runtime: str,
        options: Mapping[str, Any],
        meter: str,
        meter_options: Mapping[str, Any],
        folder: str,
        limit: int,
    ) -> dict[str, Any]:
        """Say what runtime to use, what meter, and where to keep files; tells the device."""
        self.runtime = make(runtime, options)
        told: dict[str, Any] = {}
        if meter:
            counter = METERS[meter](**meter_options)
            self.windows = Windows(counter)
            told = {"covers": counter.covers, "window_s": window_s(counter)}
        try:
            self.store = Store(folder, limit)
        except OSError as error:
            raise ProfilerError(f"folder {folder} can't be made there: {error.strerror}") from error
        return {
            "about": self.runtime.about,
            "details": {
                **self.runtime.details,
                "system": f"{platform.system()} {platform.machine()}",
                "host": platform.node(),
                "python": platform.python_version(),
            },
            "meter": told,
        }

    def conditions(self) -> dict[str, Any]:
        """Clocks and temperature at this moment, where they can be read."""
        about = self.runtime.about
        named = (about["name"], about["runtime"], about["provider"])
        return {"conditions": conditions_of(*named, self.runtime.gpu)}

    def clear(self) -> dict[str, Any]:
        """Forget the networks that are loaded, and make their files free to be removed."""
        self.networks.clear()
        self.profiled.clear()
        self.store.used.clear()
        gc.collect()
        return {}

    def put(self, digest: str, size: int) -> dict[str, Any]:
        """Keep the bytes that follow the request."""
        data = self.source.read(size)
        if len(data) != size:
            raise EOFError
        self.store.put(digest, data)
        return {}

    def load(
        self, number: int, model: str, inputs: Sequence[Mapping[str, Any]], profile: bool
    ) -> dict[str, Any]:
        """Load a network to be timed or profiled; or tell which files are missing.

        It tells what is to be known of the network's figures; of the reference, which is number
        0, which nodes run elsewhere too.
        """
        missing = [d for d in [model, *[i["sha256"] for i in inputs]] if not self.store.has(d)]
        if missing:
            return {"missing": sorted(set(missing))}
        import numpy

        arrays = {}
        for each in inputs:
            flat = numpy.frombuffer(self.store.read(each["sha256"]), dtype=each["dtype"])
            arrays[each["name"]] = flat.reshape(each["shape"]).copy()
        self.store.read(model)  # checks it
        if profile:
            profiled = self.runtime.profile(self.store.path(model), arrays)
            self.profiled[number] = profiled
            return {"graph": packed(getattr(profiled, "graph", b""))}
        elsewhere = self.runtime.elsewhere(self.store.path(model), arrays) if not number else ""
        network = self.runtime.load(self.store.path(model), arrays)
        self.networks[number] = network
        return {"elsewhere": elsewhere, "note": network.note}

    def run(self, number: int, runs: int, energy: bool) -> dict[str, Any]:
        """Run a network that many times in a row, and tell each time; then a window of energy."""
        network = self.networks[number]
        gc.disable()
        try:
            times = network.times_ms(runs)
        finally:
            gc.enable()
        slowed = list(getattr(network, "slowed", ()))
        told = {"slowed": slowed} if slowed else {}
        return {"latencies_ms": times, **told, **(self.metered(network) if energy else {})}

    def metered(self, network: Running) -> dict[str, Any]:
        """The energy of one run, or why there is none; a meter that fails is read once more."""
        for _ in range(2):
            try:
                return {"energy_mj": self.windows.per_run(network.run)}
            except MeterError as error:
                why = str(error)
        return {"no_energy": why}

    def profile(self, number: int, runs: int) -> dict[str, Any]:
        """Run a network that many times with the runtime's own profile on."""
        self.profiled[number].run(runs)
        return {}

    def nodes(self, number: int) -> dict[str, Any]:
        """A profiled network's nodes, and of each run the microseconds of each."""
        import numpy

        nodes, times = self.profiled[number].read()
        table = numpy.array(times, dtype="<u4").reshape(len(times), len(nodes))
        return {"nodes": nodes, "runs": len(times), "times_us": packed(table.tobytes())}

    def kernels(self, number: int) -> dict[str, Any]:
        """A loaded network's kernels, profiled beside the reference, which is number 0."""
        kernels, reference_ms = self.runtime.kernels(self.networks[0], self.networks[number])
        return {"kernels": kernels, "reference_ms": reference_ms}


def packed(data: bytes) -> str:
    """Bytes, compressed, as text."""
    return base64.b64encode(zlib.compress(data)).decode()


def serve() -> None:
    """Answer requests until stdin ends, or none comes."""
    source = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not get between the replies
    agent = Agent(source)
    methods: dict[str, Callable[..., Mapping[str, Any]]] = {
        "start": agent.start,
        "conditions": agent.conditions,
        "clear": agent.clear,
        "put": agent.put,
        "load": agent.load,
        "run": agent.run,
        "profile": agent.profile,
        "nodes": agent.nodes,
        "kernels": agent.kernels,
    }

    def reply(data: Mapping[str, Any]) -> None:
        replies.write(json.dumps(data).encode() + b"\n")
        replies.flush()

    reply({"autoprune_agent": VERSION})
    try:
        while True:
            signal.signal(signal.SIGALRM, idle)
            signal.setitimer(signal.ITIMER_REAL, IDLE_S)
            line = source.readline()
            # The default action of the alarm ends the process even where the runtime hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            if not line.endswith(b"\n"):
                return
            request = json.loads(line)
            method = methods[request.pop("do")]
            signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s"))
            answer: Mapping[str, Any]
            try:
                answer = method(**request)
            except EOFError:
                return
            except AutopruneError as error:
                answer = {"error": str(error)}
            except Exception as error:  # whatever the runtime raises belongs to this request
                answer = {"error": f"{type(error).__name__}: {error}"}
            reply(answer)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, END_S)


def idle(*_: object) -> None:
    """End the process, with what it keeps in temporary folders."""
    raise SystemExit("nothing was asked for too long")
