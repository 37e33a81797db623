"""Measures ONNX networks with OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks, reference_failed
from autoprune.profile.cpu import cpu
from autoprune.profile.measuring import measure_interleaved
from autoprune.profile.neighbours import watched
from autoprune.profile.node_times import LocalSource
from autoprune.profile.openvino_kernels import profile_kernels
from autoprune.profile.openvino_nodes import ProfiledRequest, settings
from autoprune.profile.threads import check_threads

#: Precision → OpenVINO's name of it, and the capability that a CPU must have for it.
PRECISIONS: Mapping[str, tuple[str, str]] = {
    "fp32": ("f32", "FP32"),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
}


class OpenVinoProfiler:
    """Measures ONNX networks with OpenVINO's CPU plug-in, in a precision that is told.

    OpenVINO by itself computes in bfloat16 on CPUs that can; here it computes in what
    `precision` says, 32 bits by default. One inference at a time, one stream. With one thread,
    inference runs in the calling thread, whose CPU time counts (see `OnnxRuntimeProfiler`); with
    more it is the wall time.

    Args:
        threads: at least 1.
        precision: "fp32", "bf16" or "fp16"; the CPU must have instructions for it.

    Raises:
        MissingDependencyError: openvino is not installed.
        ProfilerError: a setting is wrong, or the CPU can't compute in that precision.
    """

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        check_threads(threads)
        if precision not in PRECISIONS:
            raise ProfilerError(
                f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}"
            )
        try:
            import openvino
        except ImportError as error:
            raise MissingDependencyError(
                "measuring with OpenVINO needs the package openvino: "
                "pip install 'autoprune[openvino]'"
            ) from error
        self._ov = openvino
        self._core = openvino.Core()
        hint, capability = PRECISIONS[precision]
        has = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if capability not in has:
            can = [name for name, (_, needed) in PRECISIONS.items() if needed in has]
            raise ProfilerError(
                f"this CPU can't compute in {precision} with OpenVINO; it can in {', '.join(can)}"
            )
        self._threads = threads
        self._settings = settings(hint, threads)
        name, details = cpu()
        self._device = DeviceSpec(
            name=name,
            runtime="openvino",
            runtime_version=str(openvino.__version__).partition("-")[0],
            provider="cpu",
            precision=precision,
            threads=threads,
            details={**details, "clock": "thread CPU time" if threads == 1 else "wall"},
        )

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""
        return self._device

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is also profiled by OpenVINO itself, beside the reference:
        the `latency_ms` of a `KernelTime` is the node's share of the reference's profiled time
        beside it, times the reference's latency; the reference's kernels add up to its latency.
        """
        return measure_in_chunks(artifacts, protocol, self._measure_chunk)

    def _measure_chunk(
        self, artifacts: list[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        runners, errors = [], {}
        for index, artifact in enumerate(artifacts):
            try:
                _, request = self._request(artifact, profile=False)
                request.infer()
            except Exception as error:  # whatever the runtime raises belongs to this artifact
                errors[index] = f"OpenVINO can't run it: {type(error).__name__}: {error}"
                if index == 0:
                    return reference_failed(artifacts, errors[0])
            else:
                runners.append((index, watched(request.infer, cpu_time=self._threads == 1)))
        timings = measure_interleaved(
            [artifacts[i].key for i, _ in runners], [runner for _, runner in runners], protocol
        )
        found = {i: m for (i, _), m in zip(runners, timings, strict=True)}
        found |= {i: Measurement(artifacts[i].key, error=why) for i, why in errors.items()}
        measured = [found[i] for i in range(len(artifacts))]
        if protocol.kernels and measured[0].ok:
            return profile_kernels(
                lambda i: LocalSource("OpenVINO", partial(self._profiled, artifacts[i])), measured
            )
        return measured

    def _profiled(self, artifact: Artifact) -> tuple[ProfiledRequest, None]:
        return ProfiledRequest(*self._request(artifact, profile=True)), None

    def _request(self, artifact: Artifact, *, profile: bool) -> tuple[Any, Any]:
        """A compiled network, and a request with its inputs set."""
        model = self._core.read_model(artifact.onnx)
        compiled = self._core.compile_model(model, "CPU", {**self._settings, "PERF_COUNT": profile})
        wanted = {port.get_any_name() for port in compiled.inputs}
        if wanted != set(artifact.inputs):
            raise ProfilerError(
                f"its inputs must be {sorted(wanted)}, got arrays for {sorted(artifact.inputs)}"
            )
        request = compiled.create_infer_request()
        for name, array in artifact.inputs.items():
            request.set_tensor(name, self._ov.Tensor(array))
        return compiled, request
