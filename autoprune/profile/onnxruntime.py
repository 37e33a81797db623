"""Measures ONNX networks with onnxruntime on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile import onnxruntime_providers as providers
from autoprune.profile.chunks import measure_in_chunks
from autoprune.profile.loading import load_and_measure
from autoprune.profile.measuring import Runner, Visitor
from autoprune.profile.neighbours import core_of, watched
from autoprune.profile.node_times import LocalSource
from autoprune.profile.onnx_layers import FusedLayers
from autoprune.profile.onnx_precision import Converter, converted
from autoprune.profile.onnxruntime_kernels import profile_kernels
from autoprune.profile.onnxruntime_nodes import ProfiledSession
from autoprune.profile.onnxruntime_sessions import LEVELS, Sessions
from autoprune.profile.threads import check_threads

#: What networks can be measured in.
PRECISIONS = ("fp32", "fp16", "int8")


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "measuring with onnxruntime needs the package onnxruntime: pip install onnxruntime"
        ) from error
    module: ModuleType = onnxruntime
    return module


class OnnxRuntimeProfiler:
    """Measures ONNX networks with onnxruntime, with a fixed number of threads.

    One forward pass is timed with its inputs bound beforehand. With one thread on the CPU
    provider it is the thread's CPU time that counts: on a shared machine the minimum of the wall
    time of a 10 ms run is off by tens of percent when other processes take turns on the core,
    its CPU time is not. With more threads it is the wall time. On NVIDIA's providers inputs and
    outputs stay on the GPU.

    In fp16, networks are converted with their inputs and outputs in 32 bits. The CPU provider has
    few 16-bit kernels: for the others onnxruntime computes in 32 bits between casts, so there
    fp16 is no faster than fp32. In int8 they are quantised by onnxruntime's own quantiser
    (QDQ, symmetric, a scale for each output channel). The dense network is treated alike.

    Args:
        threads: intra-op threads, at least 1; inter-op is always 1 (sequential execution).
        provider: execution provider: "cpu", "cuda", ..., or onnxruntime's own name of it.
        precision: what the networks compute in: "fp32", "fp16" or "int8".
        graph_optimization: "all", "extended", "basic" or "disabled".
        provider_options: of the provider: a mapping, or "name:value,name:value".
        cpu_fallback: whether nodes that the provider can't run may run on the CPU; they are told
            in the measurements' notes. Without it such a network is an error.
        calibration: for int8 alone: batches of inputs, or an .npz file with an array for each
            input; by default the example inputs, which do for latency.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ProfilerError: a setting is wrong, or the provider is not in this build of onnxruntime, or
            what it runs on is not here.
    """

    def __init__(
        self,
        threads: int = 1,
        provider: str = "cpu",
        precision: str = "fp32",
        graph_optimization: str = "all",
        provider_options: Mapping[str, Any] | str = "",
        cpu_fallback: bool = True,
        calibration: object = None,
    ) -> None:
        check_threads(threads)
        if graph_optimization not in LEVELS:
            raise ProfilerError(
                f"graph_optimization must be one of {', '.join(LEVELS)}; got {graph_optimization!r}"
            )
        if precision not in PRECISIONS:
            raise ProfilerError(
                f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}"
            )
        ort = _import()
        found = providers.find(provider, ort.get_available_providers())
        if not cpu_fallback and found == providers.CPU:
            raise ProfilerError("cpu_fallback must be left out where the provider is the CPU's")
        given = providers.parse_options(provider_options)
        self._sessions = Sessions(ort, found, given, threads, graph_optimization, cpu_fallback)
        self._converter = Converter(precision, calibration=calibration, quantizer="onnxruntime")
        self._placements: dict[str, str] = {}
        self._cpu_time = self._sessions.calling_thread_only
        name, details = providers.runs_on(found, given)
        self._device = DeviceSpec(
            name=name,
            runtime="onnxruntime",
            runtime_version=str(ort.__version__),
            provider=providers.short(found),
            precision=precision,
            threads=threads,
            details={
                **details,
                **providers.precision_details(found, precision),
                **self._converter.details,
                "graph_optimization": graph_optimization,
                "clock": "thread CPU time" if self._cpu_time else "wall",
            },
            settings=providers.settings(given, graph_optimization),
        )

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""
        return self._device

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is then also profiled by onnxruntime itself, in separate
        sessions so that timing is not disturbed, the reference again beside it: the
        `latency_ms` of a `KernelTime` is the node's share of the reference's profiled time
        beside it, times the reference's latency. So a machine that drifts cancels, the
        reference's kernels add up to its latency, and `latency_ms / reference.latency_ms` of a
        node is comparable between calls. This takes 10 profiled runs of each at least and comes
        on top of `protocol.timeout_s`.

        Returns:
            One measurement for each, in order; one that can't be loaded or run has `error` set.
        """
        return measure_in_chunks(artifacts, protocol, self._measure_chunk)

    def _measure_chunk(
        self, artifacts: list[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        ready, errors = converted(self._converter, artifacts)
        note = self._placement(ready[0], errors)
        measurements = load_and_measure("onnxruntime", self._load, ready, protocol, errors)
        if protocol.kernels and measurements[0].ok:
            measurements = profile_kernels(
                lambda i: LocalSource("onnxruntime", partial(self._profiled, ready[i])),
                measurements,
                protocol,
                core_of(cpu_time=self._cpu_time),
            )
        if note:
            measurements = [replace(m, notes=(*m.notes, note)) for m in measurements]
        return measurements

    def _load(self, artifact: Artifact) -> Runner | Visitor:
        _, run = self._sessions.make(artifact.onnx, artifact.inputs, self._sessions.options())
        run()
        return watched(run, cpu_time=self._cpu_time)

    def _profiled(self, artifact: Artifact) -> tuple[ProfiledSession, FusedLayers]:
        """A session that is profiled, and the layers of its nodes."""
        session = self._sessions.profiled(artifact.onnx, artifact.inputs)
        return session, FusedLayers.of(artifact.onnx, session.graph)

    def _placement(self, reference: Artifact, errors: dict[int, str]) -> str:
        """Which of the reference's nodes run on the CPU; an error where all do."""
        if 0 in errors:
            return ""
        key = hashlib.sha256(reference.onnx).hexdigest()
        if key not in self._placements:
            try:
                self._placements[key] = self._sessions.on_the_cpu(reference.onnx, reference.inputs)
            except Exception as error:  # whatever the runtime raises belongs to this network
                errors[0] = f"onnxruntime can't run it: {type(error).__name__}: {error}"
                return ""
        return self._placements[key]
