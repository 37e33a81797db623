"""Measures networks with PyTorch itself, on this machine's CPU or an NVIDIA GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol
from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.chunks import measure_in_chunks
from autoprune.profile.loading import load_and_measure, short
from autoprune.profile.measuring import Runner, Visitor
from autoprune.profile.node_times import kernel_time
from autoprune.profile.pytorch_runs import Runs


def pytorch_cpu(threads: int = 1, mode: str = "eager", precision: str = "fp32") -> PyTorchProfiler:
    """PyTorch on this machine's CPU; arguments as of `PyTorchProfiler`."""
    return PyTorchProfiler("cpu", mode, precision, threads=threads)


def pytorch_cuda(mode: str = "eager", precision: str = "fp32", index: int = 0) -> PyTorchProfiler:
    """PyTorch on an NVIDIA GPU; arguments as of `PyTorchProfiler`."""
    return PyTorchProfiler("cuda", mode, precision, index=index)


class PyTorchProfiler:
    """Measures networks as PyTorch runs them: eager, compiled, or as a CUDA graph.

    A network is measured as the module that it is (`Artifact.call`), without gradients. On a CPU
    with one thread that thread's CPU time counts (see `OnnxRuntimeProfiler`), with more the wall
    time; on a GPU the time between CUDA events around a run.

    Args:
        device: "cpu" or "cuda".
        mode: "eager"; "compiled" by `torch.compile` (each network once, which takes seconds to
            minutes and comes on top of the protocol's time limit); "cuda-graph", captured once
            and replayed.
        precision: "fp32" as the network is, or "bf16" or "fp16" by autocast.
        threads: intra-op threads on a CPU, at least 1.
        index: of the GPU.

    Raises:
        MissingDependencyError: torch is not installed, or what compiling needs.
        ProfilerError: a setting is wrong, or there is no such device.
    """

    def __init__(
        self,
        device: str = "cpu",
        mode: str = "eager",
        precision: str = "fp32",
        *,
        threads: int = 1,
        index: int = 0,
    ) -> None:
        self._runs = Runs(_import(), device, mode, precision, threads, index)
        self._device = DeviceSpec(
            **self._runs.about, precision=precision, details=self._runs.details
        )

    @property
    def device(self) -> DeviceSpec:
        """What it measures on."""
        return self._device

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure networks as `measure_interleaved` does; the first is the reference.

        With `protocol.kernels`, each is also profiled eagerly by torch.profiler, the reference
        beside it: the `latency_ms` of a `KernelTime` is the operator's share of the reference's
        profiled time, times the reference's latency. Compiled networks tell no kernels: what was
        fused there is no operator of the network.

        Returns:
            One measurement for each, in order; one that has no module (`Artifact.call`) or can't
            be run has `error` set.
        """
        with self._runs.threads():
            return measure_in_chunks(artifacts, protocol, self._measure_chunk)

    def _measure_chunk(
        self, artifacts: list[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        networks: dict[str, tuple[Any, Callable[[], object]]] = {}

        def load(artifact: Artifact) -> Runner | Visitor:
            module, run = self._eager(artifact)
            ready = self._runs.ready(run)
            networks[artifact.key] = module, run
            return self._runs.timed(ready)

        measured = load_and_measure("PyTorch", load, artifacts, protocol)
        if not protocol.kernels or not measured[0].ok or self._runs.mode == "compiled":
            return measured
        latency_ms, reference = measured[0].latency_ms, networks[artifacts[0].key]
        return [
            self._with_kernels(m, reference, networks[m.key], latency_ms) if m.ok else m
            for m in measured
        ]

    def _with_kernels(
        self, measurement: Measurement, reference: Any, own: Any, latency_ms: float
    ) -> Measurement:
        """A measurement with its kernels, told in those milliseconds of the reference."""
        from autoprune.profile.pytorch_kernels import profile_beside

        try:
            told, whole_ms = profile_beside(reference, own, self._runs.cuda)
        except Exception as error:  # whatever torch's profiler raises belongs to this network
            return Measurement(measurement.key, error=f"PyTorch can't profile it: {short(error)}")
        scale = latency_ms / whole_ms
        kernels = [kernel_time(each, each["ms"] * scale) for each in told]
        return replace(measurement, kernels=tuple(kernels))

    def _eager(self, artifact: Artifact) -> tuple[Any, Callable[[], object]]:
        """The network on the device, and a function that runs it once."""
        if artifact.call is None:
            raise ProfilerError(NO_MODULE)
        call = artifact.call()
        module: Any = call.module
        if self._runs.cuda:
            module = copy.deepcopy(module).to(self._runs.place)
        module = module.eval()
        args, kwargs = self._runs.moved((call.args, dict(call.kwargs)))
        return module, self._runs.eager(module, args, kwargs)


#: Why a network that is given as ONNX alone is not measured.
NO_MODULE = (
    "it is given as ONNX alone, and PyTorch measures modules (Artifact.call); measure ONNX files "
    "by onnxruntime"
)


def _import() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"measuring with PyTorch needs the package torch: pip install torch ({error})"
        ) from error
    module: ModuleType = torch
    return module
