"""Measures ONNX networks with OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, KernelTime, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks, reference_failed
from autoprune.profile.cpu import cpu
from autoprune.profile.measuring import measure_interleaved, timed

#: Precision → OpenVINO's name of it, and the capability that a CPU must have for it.
PRECISIONS: Mapping[str, tuple[str, str]] = {
    "fp32": ("f32", "FP32"),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
}

#: Profiled runs of each network, and of the reference beside it.
PROFILED_RUNS = 12


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
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ProfilerError(f"threads must be an integer of at least 1, got {threads!r}")
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
        self._settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
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
                runners.append((index, timed(request.infer, cpu_time=self._threads == 1)))
        timings = measure_interleaved(
            [artifacts[i].key for i, _ in runners], [runner for _, runner in runners], protocol
        )
        found = {i: m for (i, _), m in zip(runners, timings, strict=True)}
        found |= {i: Measurement(artifacts[i].key, error=why) for i, why in errors.items()}
        measured = [found[i] for i in range(len(artifacts))]
        if protocol.kernels and measured[0].ok:
            return self._profiled(artifacts, measured)
        return measured

    def _profiled(
        self, artifacts: list[Artifact], measured: list[Measurement]
    ) -> list[Measurement]:
        """Fill in the kernels, each network in turn with the reference."""
        reference = _Profile(*self._request(artifacts[0], profile=True))
        results = list(measured)
        for index, measurement in enumerate(measured):
            if not measurement.ok:
                continue
            own = reference
            if index:
                try:
                    own = _Profile(*self._request(artifacts[index], profile=True))
                except Exception as error:  # as above
                    text = f"OpenVINO can't profile it: {type(error).__name__}: {error}"
                    results[index] = Measurement(measurement.key, error=text)
                    continue
            reference.runs.clear()
            for _ in range(PROFILED_RUNS):
                reference.run()
                if own is not reference:
                    own.run()
            total = sum(reference.times().values())
            results[index] = replace(
                measurement, kernels=own.kernels(measured[0].latency_ms / total)
            )
        return results

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


class _Profile:
    """A network that counts the times of its nodes, run by run."""

    def __init__(self, compiled: Any, request: Any) -> None:
        self._request = request
        self._nodes = {
            op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ordered_ops()
        }
        self.runs: list[dict[str, float]] = []
        self._request.infer()

    def run(self) -> None:
        self._request.infer()
        self.runs.append(
            {
                p.node_name: p.real_time.total_seconds() * 1e3
                for p in self._request.profiling_info
                if p.status == p.Status.EXECUTED
            }
        )

    def times(self) -> dict[str, float]:
        """Milliseconds of each node: the median over the runs."""
        names = list(dict.fromkeys(name for run in self.runs for name in run))
        rows = [sorted(run.get(name, 0.0) for run in self.runs) for name in names]
        middle = len(self.runs) // 2
        return {name: row[middle] for name, row in zip(names, rows, strict=True)}

    def kernels(self, scale: float) -> tuple[KernelTime, ...]:
        return tuple(self._kernel(name, time * scale) for name, time in self.times().items())

    def _kernel(self, name: str, latency_ms: float) -> KernelTime:
        op = self._nodes.get(name)
        if op is None:
            return KernelTime(name, (), "unknown", latency_ms)
        about = op.get_rt_info()
        layers = str(about["originalLayersNames"].value) if "originalLayersNames" in about else ""
        return KernelTime(
            name=name,
            layers=tuple(layer for layer in layers.split(",") if layer),
            op=str(about["layerType"].value) if "layerType" in about else op.get_type_name(),
            latency_ms=latency_ms,
            input_shapes=tuple(_shape(port) for port in op.inputs()),
            output_shapes=tuple(_shape(port) for port in op.outputs()),
        )


def _shape(port: Any) -> tuple[int, ...]:
    shape = port.get_partial_shape()
    return tuple(int(size) for size in shape.to_shape()) if shape.is_static else ()
