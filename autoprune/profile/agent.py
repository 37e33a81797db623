"""Measures networks on a remote device; sent there by `SshProfiler`, read from a pipe and run.

One file that needs Python 3.9, numpy and the runtime, and nothing else of autoprune. It reads
one JSON request a line from stdin and writes one JSON reply a line to stdout. Networks and inputs
are kept in a folder by their hash, so that each is sent once. An operation that takes longer than
its limit ends the process by the operating system's timer, also where the runtime hangs.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

#: Of requests and replies; the other side refuses another.
VERSION = 1


class Failed(Exception):
    """What is told to the other side as an error of this one request."""


class OnnxRuntime:
    """onnxruntime, one execution provider."""

    def __init__(self, provider: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Failed(f"needs onnxruntime (pip install onnxruntime) there: {error}") from error
        available = onnxruntime.get_available_providers()
        names = {p.replace("ExecutionProvider", "").lower(): p for p in available}
        if provider not in names:
            raise Failed(
                f"onnxruntime there has no provider {provider!r}; it has {', '.join(sorted(names))}"
            )
        self.ort, self.provider, self.threads = onnxruntime, names[provider], threads
        self.calling_thread_only = provider == "cpu" and threads == 1
        self.about = {
            "runtime": "onnxruntime",
            "runtime_version": onnxruntime.__version__,
            "provider": provider,
            "precision": "fp32",
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that runs the network once."""
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = self.ort.InferenceSession(model, options, providers=[self.provider])
        wanted = {i.name for i in session.get_inputs()}
        if wanted != set(inputs):
            raise Failed(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)

        def run() -> None:
            session.run_with_iobinding(binding)

        return run


class OpenVino:
    """OpenVINO on the CPU, in 32 bits."""

    def __init__(self, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise Failed(f"needs openvino (pip install openvino) there: {error}") from error
        self.calling_thread_only = threads == 1
        self.core, self.tensor = openvino.Core(), openvino.Tensor
        self.settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.about = {
            "runtime": "openvino",
            "runtime_version": openvino.__version__.partition("-")[0],
            "provider": "cpu",
            "precision": "fp32",
        }

    def load(self, model: str, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that runs the network once."""
        with open(model, "rb") as file:
            compiled = self.core.compile_model(
                self.core.read_model(file.read()), "CPU", self.settings
            )
        wanted = {port.get_any_name() for port in compiled.inputs}
        if wanted != set(inputs):
            raise Failed(f"its inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, self.tensor(array))
        run: Callable[[], Any] = request.infer
        return run


class Store:
    """Files by their hash, at most so many bytes of them."""

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = os.path.expanduser(folder), limit
        self.used: set[str] = set()
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a file is, or would be."""
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise Failed(f"not a hash: {digest!r}")
        return os.path.join(self.folder, digest)

    def has(self, digest: str) -> bool:
        """Whether a file is there; it stays so while this connection lasts."""
        self.used.add(digest)
        return os.path.exists(self.path(digest))

    def read(self, digest: str) -> bytes:
        """A file, checked."""
        with open(self.path(digest), "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            os.unlink(self.path(digest))
            raise Failed(f"{digest} on the device was not what its name says; removed")
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keep a file; where the disk is full, in place of older ones."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise Failed(f"{digest} was damaged on its way")
        self.make_room(len(data))
        try:
            self.write(digest, data)
        except OSError:
            self.make_room(self.limit)  # full: all that this connection does not use goes
            try:
                self.write(digest, data)
            except OSError as error:
                raise Failed(
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
        """Remove the oldest files that this connection has not asked for."""
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
        self.networks: dict[int, Callable[[], Any]] = {}
        self.runtime: Any = None
        self.store: Any = None

    def start(self, runtime: str, threads: int, folder: str, limit: int) -> dict[str, Any]:
        """Say what runtime to use, and where to keep files; tells the device."""
        name, _, rest = runtime.partition("-")
        if name == "onnxruntime":
            self.runtime = OnnxRuntime(rest or "cpu", threads)
        elif runtime == "openvino-cpu":
            self.runtime = OpenVino(threads)
        else:
            raise Failed(
                "runtime must be onnxruntime-cpu, onnxruntime- and another execution provider, or "
                f"openvino-cpu; got {runtime!r}"
            )
        try:
            self.store = Store(folder, limit)
        except OSError as error:
            raise Failed(f"folder {folder} can't be made there: {error.strerror}") from error
        try:
            with open("/proc/cpuinfo") as file:
                cpuinfo = file.read()
        except OSError:
            cpuinfo = ""
        return {
            "about": self.runtime.about,
            "cpuinfo": cpuinfo,
            "machine": platform.processor() or platform.machine(),
            "details": {
                "system": f"{platform.system()} {platform.machine()}",
                "host": platform.node(),
                "python": platform.python_version(),
                "clock": "thread CPU time" if self.cpu_time() else "wall",
            },
        }

    def cpu_time(self) -> bool:
        """Whether the calling thread's CPU time counts, as in `OnnxRuntimeProfiler`."""
        fine = time.get_clock_info("thread_time").resolution <= 1e-6
        return bool(fine and self.runtime.calling_thread_only)

    def clear(self) -> dict[str, Any]:
        """Forget the networks that are loaded."""
        self.networks.clear()
        gc.collect()
        return {}

    def put(self, digest: str, size: int) -> dict[str, Any]:
        """Keep the bytes that follow the request."""
        data = self.source.read(size)
        if len(data) != size:
            raise EOFError
        self.store.put(digest, data)
        return {}

    def load(self, number: int, model: str, inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Load a network and run it once; or tell which files are missing."""
        missing = [d for d in [model, *[i["sha256"] for i in inputs]] if not self.store.has(d)]
        if missing:
            return {"missing": sorted(set(missing))}
        import numpy

        arrays = {}
        for each in inputs:
            flat = numpy.frombuffer(self.store.read(each["sha256"]), dtype=each["dtype"])
            arrays[each["name"]] = flat.reshape(each["shape"]).copy()
        self.store.read(model)  # checks it
        run = self.runtime.load(self.store.path(model), arrays)
        run()
        self.networks[number] = run
        return {}

    def run(self, number: int, runs: int) -> dict[str, Any]:
        """Run a network that many times in a row, and tell each time."""
        run = self.networks[number]
        clock = time.thread_time_ns if self.cpu_time() else time.perf_counter_ns
        times = []
        gc.disable()
        try:
            for _ in range(runs):
                start = clock()
                run()
                times.append((clock() - start) / 1e6)
        finally:
            gc.enable()
        return {"latencies_ms": times}


def serve() -> None:
    """Answer requests until stdin ends."""
    source = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not get between the replies
    agent = Agent(source)
    methods: dict[str, Callable[..., Mapping[str, Any]]] = {
        "start": agent.start,
        "clear": agent.clear,
        "put": agent.put,
        "load": agent.load,
        "run": agent.run,
    }

    def reply(data: Mapping[str, Any]) -> None:
        replies.write(json.dumps(data).encode() + b"\n")
        replies.flush()

    reply({"autoprune_agent": VERSION})
    while True:
        line = source.readline()
        if not line.endswith(b"\n"):
            return
        request = json.loads(line)
        method = methods[request.pop("do")]
        # The default action of the alarm ends the process even where the runtime hangs.
        signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s"))
        answer: Mapping[str, Any]
        try:
            answer = method(**request)
        except EOFError:
            return
        except Failed as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever the runtime raises belongs to this request
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        reply(answer)


if __name__ == "__main__":
    serve()
