"""Measures ONNX networks with trtexec, where TensorRT has no Python bindings."""

from __future__ import annotations

import hashlib
import math
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from autoprune.core.device import Artifact, DeviceSpec, KernelTime, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import trtexec_files as files
from autoprune.profile.loading import load_and_measure
from autoprune.profile.onnx_precision import Converter, converted
from autoprune.profile.tensorrt import network_converter
from autoprune.profile.tensorrt_build import BuildSettings
from autoprune.profile.tensorrt_cache import file_name
from autoprune.profile.tensorrt_layers import layer_times, read_layers
from autoprune.profile.tensorrt_nodes import OnnxNodes, kernels
from autoprune.profile.tensorrt_sparse import sparse
from autoprune.profile.trtexec_place import Here, Place, There
from autoprune.profile.visits import Visit

#: Where NVIDIA's packages put it, where it is not on the PATH.
USUAL = "/usr/src/tensorrt/bin/trtexec"

#: Milliseconds that trtexec warms the GPU up in each visit, and runs that it profiles.
WARM_UP_MS, PROFILED_RUNS = 200, 30

_RUN = ("--noDataTransfers", "--useCudaGraph", "--useSpinWait", "--duration=0", "--avgRuns=1")


class TrtexecProfiler:
    """Measures networks with NVIDIA's program trtexec, on this machine or over ssh.

    Each network is built once; each visit starts the program again to run its engine some times
    as a CUDA graph, and the fastest GPU time counts. Starting takes a second or more, so the
    `tensorrt` profiler is the faster way where Python bindings are there. Rounds and the
    reference in between are as everywhere (`measure_interleaved`).

    Args:
        precision: "fp32", "tf32", "fp16", "bf16", "int8" or "fp8", as of `TensorRTProfiler`.
        sparse_weights: let networks that have 2:4 sparse weights run with kernels for those.
        optimization_level: of the builder, 0 (fast build) to 5 (fast engine).
        gpu: number of the GPU.
        program: trtexec with its path; by default from the PATH, or where NVIDIA's packages put
            it.
        host: "user@host" that ssh reaches, where it runs; this machine by default.
        ssh: the ssh program, with options where it needs any.
        timeout_s: what building or running one network may take.
        calibration: for int8 and fp8 alone: batches of inputs, or an .npz file.

    Raises:
        MissingDependencyError: the program is not there.
        ProfilerError: a setting is wrong, or the host can't be reached.
    """

    #: None on a call: each start of the program has its own.
    limit_s = math.inf

    #: For each visit: no meter can be read beside it.
    starts_programs = True

    def __init__(
        self,
        precision: str = "fp32",
        sparse_weights: bool = False,
        optimization_level: int = 3,
        gpu: int = 0,
        program: str = "",
        host: str = "",
        ssh: str = "ssh",
        timeout_s: float = 600.0,
        calibration: object = None,
    ) -> None:
        self._settings = BuildSettings(precision, sparse_weights, optimization_level)
        if not 0 < timeout_s < math.inf:
            raise ProfilerError(f"timeout_s must be above 0 and finite, got {timeout_s!r}")
        self.remote = bool(host)
        self._program = [program or (USUAL if host else _find())]
        self._gpu, self._timeout_s, self._calibration = gpu, timeout_s, calibration
        self._place: Place = There(host, ssh) if host else Here()
        weakref.finalize(self, self._place.close)
        self._version = files.version(self._call(["--help"]))

    @cached_property
    def device(self) -> DeviceSpec:
        """What trtexec says that it runs on, from a network of one op that it builds once.

        Raises:
            ProfilerError: it can't build.
        """
        tiny = self._place.put("tiny.onnx", _tiny())
        printed = self._call([f"--onnx={tiny}", "--skipInference", f"--device={self._gpu}"])
        name, capability = files.device(printed)
        return DeviceSpec(
            name=name,
            runtime="tensorrt",
            runtime_version=".".join(map(str, self._version)),
            provider="trtexec",
            precision=self._settings.precision,
            threads=0,
            details={
                **self._converter.details,
                "gpu": str(self._gpu),
                "compute_capability": capability,
                "clock": "trtexec's GPU compute time, CUDA graph",
            },
            settings=self._settings.told(),
        )

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is also profiled by trtexec, right after the reference.
        """
        if not artifacts:
            return []
        ready, failed = converted(self._converter, artifacts)
        engines: dict[str, _Engine] = {}

        def load(artifact: Artifact) -> _Engine:
            engine = engines[artifact.key] = _Engine(self, artifact)
            engine.visit(max(1, protocol.warmup))
            return engine

        measured = load_and_measure("trtexec", load, ready, protocol, failed)
        if protocol.kernels and measured[0].ok:
            for index, (artifact, found) in enumerate(zip(ready, measured, strict=True)):
                if found.ok:
                    measured[index] = _with_kernels(
                        found, engines[ready[0].key], engines[artifact.key], measured[0].latency_ms
                    )
        return measured

    @cached_property
    def _converter(self) -> Converter:
        return network_converter(
            self._settings.precision, self._version[0] >= 11, self._calibration
        )

    @cached_property
    def _cache_path(self) -> str:
        version = ".".join(map(str, self._version))
        return self._place.cache(file_name(self.device.name, f"trtexec-{version}"))

    def _call(self, options: Sequence[str]) -> str:
        """Run the program; what it printed.

        Raises:
            ProfilerError: it fails or is too slow; says what it said.
        """
        status, printed = self._place.run([*self._program, *options], self._timeout_s)
        if status:
            raise ProfilerError(f"trtexec ended with status {status}: {files.errors(printed)}")
        return printed


class _Engine:
    """A network's engine on the device; a `Visitor`.

    Raises:
        ProfilerError: it can't be built.
    """

    def __init__(self, profiler: TrtexecProfiler, artifact: Artifact) -> None:
        wanted, varying = _inputs(artifact)
        if wanted != set(artifact.inputs):
            raise ProfilerError(
                f"its inputs must be {sorted(wanted)}, got arrays for {sorted(artifact.inputs)}"
            )
        self._profiler, self.artifact = profiler, artifact
        self._stem = hashlib.sha256(artifact.key.encode() + artifact.onnx).hexdigest()[:16]
        place = profiler._place
        model = place.put(f"{self._stem}.onnx", artifact.onnx)
        self._shapes = []
        if varying:
            shapes = ",".join(
                f"{name}:{'x'.join(map(str, artifact.inputs[name].shape))}" for name in varying
            )
            self._shapes = [f"--shapes={shapes}"]
        loaded = ",".join(
            f"{name}:{place.put(f'{self._stem}-{number}.bin', _raw(array))}"
            for number, (name, array) in enumerate(artifact.inputs.items())
        )
        self._common = [
            f"--loadEngine={place.path(f'{self._stem}.engine')}",
            f"--device={profiler._gpu}",
            f"--loadInputs={loaded}",
            *self._shapes,
        ]
        settings = profiler._settings
        profiler._call(
            [
                f"--onnx={model}",
                f"--saveEngine={place.path(f'{self._stem}.engine')}",
                "--skipInference",
                "--profilingVerbosity=detailed",
                f"--timingCacheFile={profiler._cache_path}",
                f"--builderOptimizationLevel={settings.optimization_level}",
                f"--device={profiler._gpu}",
                *(["--sparsity=enable"] if sparse(settings, artifact.onnx) else []),
                *files.precision_options(settings.precision, profiler._version[0]),
                *self._shapes,
            ]
        )

    def visit(self, runs: int) -> Visit:
        """Run that many times in a row; the fastest counts."""
        name = f"{self._stem}.times.json"
        self._profiler._call(
            [
                *self._common, *_RUN, f"--iterations={runs}", f"--warmUp={WARM_UP_MS}",
                f"--exportTimes={self._profiler._place.path(name)}",
            ]
        )  # fmt: skip
        return Visit(min(files.read_times(self._profiler._place.get(name))))

    def profile(self) -> tuple[dict[str, float], str]:
        """Milliseconds of each layer of the engine, and its layer information in JSON."""
        times, layers = f"{self._stem}.profile.json", f"{self._stem}.layers.json"
        place = self._profiler._place
        self._profiler._call(
            [
                *self._common, "--noDataTransfers", "--separateProfileRun", "--duration=0",
                f"--iterations={PROFILED_RUNS}", "--profilingVerbosity=detailed",
                f"--exportProfile={place.path(times)}", f"--exportLayerInfo={place.path(layers)}",
            ]
        )  # fmt: skip
        return dict(files.read_profile(place.get(times))), place.get(layers)


def _with_kernels(
    found: Measurement, reference: _Engine, own: _Engine, reference_ms: float
) -> Measurement:
    try:
        total, (times, layers) = _profiles(reference, own)
        nodes = OnnxNodes(own.artifact.onnx)
        parts: tuple[KernelTime, ...] = kernels(
            layer_times(times, read_layers(layers)), nodes, reference_ms / total
        )
    except ProfilerError as error:
        return Measurement(found.key, error=f"trtexec can't profile it: {error}")
    return replace(found, kernels=parts)


def _profiles(reference: _Engine, own: _Engine) -> tuple[float, tuple[dict[str, float], str]]:
    """What the reference's layers take together, and a network's profile right after it."""
    beside = reference.profile()
    total = float(np.sum(list(beside[0].values())))
    if not total > 0:
        raise ProfilerError("the layers of the reference must take some time")
    return total, beside if own is reference else own.profile()


def _find() -> str:
    """The program on this machine.

    Raises:
        MissingDependencyError: it is not there.
    """
    found = shutil.which("trtexec") or shutil.which(USUAL)
    if found is None:
        raise MissingDependencyError(
            f"trtexec must be on the PATH or at {USUAL}; it comes with TensorRT's Debian and tar "
            "packages (libnvinfer-bin) and with JetPack. Give its path by the option program, or "
            "another machine by the option host"
        )
    return found


def _inputs(artifact: Artifact) -> tuple[set[str], list[str]]:
    """Names of a network's inputs, and of those with a size that varies."""
    import onnx

    graph = onnx.load_from_string(artifact.onnx).graph
    fed = {i.name: i for i in graph.input if i.name not in {t.name for t in graph.initializer}}
    varying = [
        name
        for name, value in fed.items()
        if any(not d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)
    ]
    return set(fed), varying


def _raw(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.tobytes()


def _tiny() -> bytes:
    """A network of one op."""
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")], "tiny", tensors[:1], tensors[1:]
    )
    opsets = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data
