"""Measures ONNX networks with onnxruntime on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks, reference_failed
from autoprune.profile.cpu import cpu
from autoprune.profile.measuring import measure_interleaved, timed
from autoprune.profile.onnxruntime_kernels import profile_kernels

#: Graph optimisation levels by name → onnxruntime's name of them.
LEVELS: Mapping[str, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


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
    its CPU time is not. With more threads it is the wall time.

    Args:
        threads: intra-op threads, at least 1; inter-op is always 1 (sequential execution).
        provider: execution provider: "cpu", "cuda", ..., or onnxruntime's own name of it.
        precision: what the networks compute in; the networks are run as they are, so only
            "fp32" is taken.
        graph_optimization: "all", "extended", "basic" or "disabled".

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ProfilerError: a setting is wrong, or the provider is not in this build of onnxruntime.
    """

    def __init__(
        self,
        threads: int = 1,
        provider: str = "cpu",
        precision: str = "fp32",
        graph_optimization: str = "all",
    ) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ProfilerError(f"threads must be an integer of at least 1, got {threads!r}")
        processors = os.cpu_count() or threads
        if threads > processors:
            raise ProfilerError(
                f"threads must be at most {processors}, the processors there are: more only wait "
                f"for each other; got {threads}"
            )
        if graph_optimization not in LEVELS:
            raise ProfilerError(
                f"graph_optimization must be one of {', '.join(LEVELS)}; got {graph_optimization!r}"
            )
        if precision != "fp32":
            raise ProfilerError(
                f'precision must be "fp32" (networks are run as they are); got {precision!r}'
            )
        self._ort = _import()
        self._provider = _provider(provider, self._ort.get_available_providers())
        self._threads = threads
        self._level = graph_optimization
        name, details = cpu()
        short = self._provider.removesuffix("ExecutionProvider").lower()
        self._device = DeviceSpec(
            name=name,
            runtime="onnxruntime",
            runtime_version=str(self._ort.__version__),
            provider=short,
            precision=precision,
            threads=threads,
            details={
                **details,
                "graph_optimization": graph_optimization,
                "clock": "thread CPU time" if self._cpu_time else "wall",
            },
        )

    @property
    def _cpu_time(self) -> bool:
        return self._threads == 1 and self._provider == "CPUExecutionProvider"

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
        measurements = self._time(artifacts, protocol)
        if protocol.kernels and measurements[0].ok:
            good = [i for i, m in enumerate(measurements) if m.ok]
            profiled = profile_kernels(
                self._options,
                lambda artifact, options: self._runner(artifact, options),
                [artifacts[i] for i in good],
                [measurements[i].latency_ms for i in good],
                protocol,
            )
            for i, kernels in zip(good, profiled, strict=True):
                if isinstance(kernels, str):
                    measurements[i] = Measurement(artifacts[i].key, error=kernels)
                else:
                    measurements[i] = replace(measurements[i], kernels=kernels)
        return measurements

    def _time(self, artifacts: list[Artifact], protocol: MeasuringProtocol) -> list[Measurement]:
        """Load all, and time those that load."""
        runners, errors = [], {}
        for index, artifact in enumerate(artifacts):
            try:
                _, run = self._runner(artifact, self._options())
                run()
            except Exception as error:  # whatever the runtime raises belongs to this artifact
                errors[index] = f"onnxruntime can't run it: {type(error).__name__}: {error}"
                if index == 0:
                    break
            else:
                runners.append((index, timed(run, cpu_time=self._cpu_time)))
        if 0 in errors:
            return reference_failed(artifacts, errors[0])
        timings = measure_interleaved(
            [artifacts[i].key for i, _ in runners], [runner for _, runner in runners], protocol
        )
        measured = {i: m for (i, _), m in zip(runners, timings, strict=True)}
        return [
            measured[i] if i in measured else Measurement(a.key, error=errors[i])
            for i, a in enumerate(artifacts)
        ]

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(
            self._ort.GraphOptimizationLevel, LEVELS[self._level]
        )
        options.log_severity_level = 4  # fatal only: an error is reported as a value
        return options

    def _runner(self, artifact: Artifact, options: Any) -> tuple[Any, Any]:
        """A session and a function that runs it once, with inputs and outputs bound."""
        session = self._ort.InferenceSession(artifact.onnx, options, providers=[self._provider])
        wanted = {i.name for i in session.get_inputs()}
        if wanted != set(artifact.inputs):
            raise ProfilerError(
                f"its inputs must be {sorted(wanted)}, got arrays for {sorted(artifact.inputs)}"
            )
        binding = session.io_binding()
        for name, array in artifact.inputs.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        return session, lambda: session.run_with_iobinding(binding)


def _provider(name: str, available: Sequence[str]) -> str:
    """onnxruntime's name of an execution provider."""
    wanted = name.lower().removesuffix("executionprovider")
    for candidate in available:
        if candidate.lower().removesuffix("executionprovider") == wanted:
            return candidate
    short = sorted(p.removesuffix("ExecutionProvider").lower() for p in available)
    raise ProfilerError(
        f"provider must be one of {', '.join(short)} (what this onnxruntime was built with); got "
        f"{name!r}. Other providers come with other packages: onnxruntime-gpu (cuda, tensorrt), "
        "onnxruntime-openvino, onnxruntime-directml; install one of them instead of onnxruntime"
    )
