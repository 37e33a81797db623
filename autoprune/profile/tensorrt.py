"""Measures ONNX networks with TensorRT on an NVIDIA GPU of this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from autoprune.core.data import cache_folder
from autoprune.core.device import Artifact, DeviceSpec, KernelTime, Measurement, MeasuringProtocol
from autoprune.profile.chunks import measure_in_chunks
from autoprune.profile.loading import load_and_measure
from autoprune.profile.onnx_precision import Converter, converted
from autoprune.profile.tensorrt_build import BuildSettings
from autoprune.profile.tensorrt_engines import Engines
from autoprune.profile.tensorrt_nodes import OnnxNodes, kernels
from autoprune.profile.tensorrt_run import EngineRun, profile_beside
from autoprune.profile.tensorrt_sparse import sparse
from autoprune.profile.visits import Visit

#: Engines on the GPU at a time, besides the reference's.
SESSIONS = 16


class TensorRTProfiler:
    """Measures networks as TensorRT engines, each run as a CUDA graph between CUDA events.

    Inputs and outputs stay on the GPU. TensorRT 10.x is told the precision by flags of its
    builder and may compute a layer in more bits where that is faster; 11.x and TensorRT for RTX
    take it from the network's types, so the network is converted. In int8 and fp8 convolutions
    and matrix products are quantised (symmetric, biases left alone), and the rest is in fp16. The
    dense network is treated alike.

    Building takes seconds to minutes for each network; what the builder found out is kept in a
    timing cache for each device in the user's cache folder.

    Args:
        precision: "fp32", "tf32" (fp32 with 19-bit products), "fp16", "bf16", "int8" or "fp8".
        sparse_weights: let networks that have 2:4 sparse weights run with kernels for those.
        optimization_level: of the builder, 0 (fast build) to 5 (fast engine).
        gpu: number of the GPU.
        library: "tensorrt", or "tensorrt_rtx" for RTX GPUs.
        calibration: for int8 and fp8 alone: batches of inputs, or an .npz file with an array for
            each input; by default the example inputs, which do for latency.

    Raises:
        MissingDependencyError: TensorRT, or CUDA for Python, is not installed.
        ProfilerError: a setting is wrong, or there is no such GPU.
    """

    #: None on a call: building engines takes what it takes.
    limit_s = math.inf

    def __init__(
        self,
        precision: str = "fp32",
        sparse_weights: bool = False,
        optimization_level: int = 3,
        gpu: int = 0,
        library: str = "tensorrt",
        calibration: object = None,
    ) -> None:
        self._settings = BuildSettings(precision, sparse_weights, optimization_level)
        self._engines = Engines(library, self._settings, gpu, cache_folder() / "tensorrt")
        self._converter = network_converter(precision, self._engines.typed, calibration)
        self._device = DeviceSpec(
            **self._engines.about,
            precision=precision,
            threads=0,
            details={**self._converter.details, **self._engines.details},
            settings=self._settings.told(),
        )

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""
        return self._device

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is also profiled layer by layer, without a CUDA graph,
        beside the reference: the `latency_ms` of a `KernelTime` is the layer's share of the
        reference's profiled time beside it, times the reference's latency.
        """
        return measure_in_chunks(artifacts, protocol, self._measure_chunk, sessions=SESSIONS)

    def _measure_chunk(
        self, artifacts: list[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        ready, errors = converted(self._converter, artifacts)
        runs: dict[str, EngineRun] = {}

        def load(artifact: Artifact) -> _Visited:
            looked_for = sparse(self._settings, artifact.onnx)
            run = self._engines.make(artifact.onnx, artifact.inputs, sparse=looked_for)
            runs[artifact.key] = run
            return _Visited(run)

        measured = load_and_measure("TensorRT", load, ready, protocol, errors)
        for index, (artifact, found) in enumerate(zip(ready, measured, strict=True)):
            if not found.ok:
                continue
            run = runs[artifact.key]
            if run.note:
                found = replace(found, notes=(*found.notes, run.note))
            if protocol.kernels:
                try:
                    found = replace(
                        found,
                        kernels=_profile(runs[ready[0].key], run, artifact, measured[0].latency_ms),
                    )
                except Exception as error:  # whatever TensorRT raises belongs to this network
                    text = f"TensorRT can't profile it: {type(error).__name__}: {error}"
                    found = Measurement(artifact.key, error=text)
            measured[index] = found
        return measured


class _Visited:
    """A `Visitor` of an engine: the fastest of its runs in a row counts."""

    def __init__(self, run: EngineRun) -> None:
        self._run = run

    def visit(self, runs: int) -> Visit:
        return Visit(min(self._run.times_ms(runs)))


def network_converter(precision: str, typed: bool, calibration: object = None) -> Converter:
    """What networks are converted by before they are built.

    Args:
        precision: as of `TensorRTProfiler`.
        typed: whether the builder takes precision from the network's types.
        calibration: batches, for int8 and fp8.
    """
    if precision in ("int8", "fp8"):
        rest = "fp16" if typed else "fp32"  # flags of the builder bring the rest to fp16
        return Converter(
            precision, rest=rest, computed="fp16", calibration=calibration, stamped=True
        )
    halved = typed and precision in ("fp16", "bf16")
    return Converter(precision if halved else "fp32", stamped=True)


def _profile(
    reference: EngineRun, own: EngineRun, artifact: Artifact, reference_ms: float
) -> tuple[KernelTime, ...]:
    """A network's layers, each with its share of the reference's time beside it."""
    times, total = profile_beside(reference, own)
    return kernels(times, OnnxNodes(artifact.onnx), reference_ms / total)
