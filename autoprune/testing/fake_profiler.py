"""A profiler whose device is a formula: for tests of what stands on a profiler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autoprune.core.device import (
    Artifact,
    DeviceSpec,
    KernelTime,
    Measurement,
    MeasuringProtocol,
)
from autoprune.profile.measuring import Visit, measure_interleaved
from autoprune.profile.onnx_layers import layer_of


class FakeProfiler:
    """A simulated device: the latency of a network is a formula of its ONNX graph.

    Each node takes a fixed overhead; convolutions, Gemm and MatMul add their multiply-accumulates
    with the output channels rounded up to whole blocks, so that latency is a staircase as on real
    devices. Time is simulated: a measurement takes none, `MeasuringProtocol` is obeyed all the
    same, and the same seed gives the same figures.

    Args:
        gmacs_per_s: speed, in 10⁹ multiply-accumulates a second.
        overhead_us: of each node.
        block: output channels are rounded up to multiples of this.
        noise: standard deviation of a run's relative noise; it only ever slows a run down.
        drift: amplitude of a slow relative drift of the whole device.
        seed: of the noise.
        name: of the device.
        idle_w: watts that it draws all the time.
        pj_per_mac: picojoules that each multiply-accumulate takes besides, blocks not rounded up,
            so that energy is not proportional to latency; where both are 0, it tells no energy.
        throttled: (from, until, factor): between these seconds of its time everything takes longer
            by the factor.
    """

    def __init__(
        self,
        gmacs_per_s: float = 10.0,
        overhead_us: float = 5.0,
        block: int = 16,
        noise: float = 0.0,
        drift: float = 0.0,
        seed: int = 0,
        name: str = "fake device",
        idle_w: float = 0.0,
        pj_per_mac: float = 0.0,
        throttled: tuple[float, float, float] = (0.0, 0.0, 1.0),
    ) -> None:
        self._speed = gmacs_per_s
        self._overhead = overhead_us
        self._block = block
        self._noise = noise
        self._drift = drift
        self._rng = np.random.default_rng(seed)
        self._idle_w = idle_w
        self._pj_per_mac = pj_per_mac
        self._throttled = throttled
        self._now_s = 0.0
        self._device = DeviceSpec(name=name, runtime="fake", runtime_version="1", threads=0)

    @property
    def device(self) -> DeviceSpec:
        """What it pretends to measure on."""
        return self._device

    def latency_ms(self, artifact: Artifact) -> float:
        """The true latency of a network: the formula, no noise.

        Raises:
            ValueError: the ONNX can't be read, or its inputs are not those given.
        """
        return sum(kernel.latency_ms for kernel in self._kernels(artifact))

    def energy_mj(self, artifact: Artifact) -> float:
        """The true energy of a network: the formula, no noise.

        Raises:
            ValueError: the ONNX can't be read, or its inputs are not those given.
        """
        return self._energy_mj(self._kernels(artifact))

    def measure(
        self, artifacts: Sequence[Artifact], protocol: MeasuringProtocol
    ) -> list[Measurement]:
        """Measure in simulated time, by the same protocol as a real profiler."""
        runners, errors = [], {}
        kernels: dict[int, tuple[KernelTime, ...]] = {}
        for index, artifact in enumerate(artifacts):
            try:
                kernels[index] = self._kernels(artifact)
            except Exception as error:  # whatever onnx raises belongs to this artifact
                errors[index] = f"can't be measured: {type(error).__name__}: {error}"
            else:
                latency = sum(k.latency_ms for k in kernels[index])
                runners.append(_Network(self, latency, self._energy_mj(kernels[index])))
        if 0 in errors:
            reason = f"the reference (artifact {artifacts[0].key!r}) has no figure: {errors[0]}"
            return [
                Measurement(artifact.key, error=reason if index else errors[0])
                for index, artifact in enumerate(artifacts)
            ]
        good = list(kernels)
        timings = measure_interleaved(
            [artifacts[i].key for i in good],
            runners,
            protocol,
            clock=lambda: self._now_s,
            sleep=self._wait,
        )
        results = dict(zip(good, timings, strict=True))
        return [
            Measurement(artifact.key, error=errors[index])
            if index in errors
            else replace(results[index], kernels=kernels[index] if protocol.kernels else ())
            for index, artifact in enumerate(artifacts)
        ]

    def _wait(self, seconds: float) -> None:
        self._now_s += seconds

    def run(self, latency_ms: float) -> float:
        """Let a run's time go by; what it took, in ms."""
        start, end, factor = self._throttled
        slow = 1 + self._drift * math.sin(self._now_s / 3.0)
        slow *= factor if start <= self._now_s < end else 1.0
        taken = latency_ms * slow * (1 + abs(float(self._rng.normal(0, self._noise))))
        self._now_s += taken / 1e3
        return taken

    def _energy_mj(self, kernels: tuple[KernelTime, ...]) -> float:
        latency = sum(kernel.latency_ms for kernel in kernels)
        return self._idle_w * latency + self._pj_per_mac * sum(map(_macs, kernels)) / 1e9

    def _kernels(self, artifact: Artifact) -> tuple[KernelTime, ...]:
        import onnx

        model = onnx.load_from_string(artifact.onnx)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        wanted = {i.name: _shape(i) for i in model.graph.input}
        given = {name: tuple(array.shape) for name, array in artifact.inputs.items()}
        if wanted != given:
            raise ValueError(f"its inputs are {wanted}, got arrays of {given}")
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        shapes = {
            value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)
        }
        shapes |= {i.name: tuple(i.dims) for i in graph.initializer}
        return tuple(self._kernel(node, shapes) for node in graph.node)

    def _kernel(self, node: Any, shapes: dict[str, tuple[int, ...]]) -> KernelTime:
        inputs = tuple(shapes[name] for name in node.input if name in shapes)
        output = shapes.get(node.output[0], ())
        work = 0.0
        if node.op_type == "Conv" and len(inputs) > 1:
            channels = math.ceil(inputs[1][0] / self._block) * self._block
            work = output[0] * channels * math.prod(output[2:]) * math.prod(inputs[1][1:])
        elif node.op_type in ("Gemm", "MatMul") and inputs and output:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            columns = math.ceil(output[-1] / self._block) * self._block
            work = math.prod(output[:-1]) * columns * inputs[0][-2 if transposed else -1]
        return KernelTime(
            name=node.name or node.output[0],
            layers=(layer_of(node),),
            op=node.op_type,
            latency_ms=self._overhead / 1e3 + work / (self._speed * 1e6),
            input_shapes=inputs,
            output_shapes=(output,),
        )


class _Network:
    """A network on the simulated device."""

    def __init__(self, device: FakeProfiler, latency_ms: float, energy_mj: float) -> None:
        self._device = device
        self._latency_ms = latency_ms
        self._energy_mj = energy_mj

    def visit(self, runs: int) -> Visit:
        times = [self._device.run(self._latency_ms) for _ in range(runs)]
        if not self._energy_mj:
            return Visit(min(times))
        return Visit(min(times), self._energy_mj * sum(times) / (runs * self._latency_ms))


def _macs(kernel: KernelTime) -> float:
    """Multiply-accumulates of a convolution or product, of its real channels."""
    output = kernel.output_shapes[0] if kernel.output_shapes else ()
    if kernel.op == "Conv" and len(kernel.input_shapes) > 1:
        return math.prod(output) * math.prod(kernel.input_shapes[1][1:])
    if kernel.op in ("Gemm", "MatMul") and kernel.input_shapes and output:
        return math.prod(output) * kernel.input_shapes[0][-1]
    return 0.0


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(d.dim_value) for d in value.type.tensor_type.shape.dim)
