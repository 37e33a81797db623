"""A synthetic device whose staircase is known, and small graphs to run on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core import (
    Buffer,
    Candidate,
    DeviceSpec,
    Kernel,
    KernelGraph,
    KernelTime,
    Measurement,
    Term,
)
from autoprune.cost.pace import Care

DEVICE = DeviceSpec("Test CPU", "testrt", "1.0", "cpu", "fp32", 1, {"clocks": "locked"})


def chain(
    units: Sequence[int] = (16, 32, 48), size: int = 8, batch: int = 2, light: bool = True
) -> KernelGraph:
    """Convolutions one after another, each followed by a relu; then a linear layer."""
    count = len(units)
    base, weight, constants = [], [], {}

    def constant(value: int) -> int:
        if value not in constants:
            constants[value] = len(base)
            base.append(value)
            weight.append([0] * count)
        return constants[value]

    rows = []
    for group in range(count):
        rows.append(len(base))
        base.append(0)
        weight.append([int(g == group) for g in range(count)])
    kernels, activations, parameters = [], [], []
    n, hw, three = constant(batch), constant(size), constant(3)

    def tensor(channels: int) -> tuple[int, ...]:
        return (n, channels, hw, hw)

    activations.append(Buffer("x", tensor(three), 4, -1, 0))
    last, read = three, ()
    for group, row in enumerate(rows):
        name = f"conv{group}"
        kernels.append(
            Kernel(
                name,
                f"layer{group}",
                "conv2d",
                (tensor(last),),
                tensor(row),
                (f"layer{group}.weight",),
                {"kernel_size": (3, 3), "stride": (1, 1)},
                constant(1),
                (Term(9.0, (n, row, hw, hw, last)),),
                read,
            )
        )
        parameters.append(
            Buffer(f"layer{group}.weight", (row, last, three, three), 4, -1, -1, True)
        )
        parameters.append(Buffer(f"layer{group}.mean", (row,), 4))
        last, read = row, (name,)
        if light:
            kernels.append(
                Kernel(f"relu{group}", "", "relu", (tensor(row),), tensor(row), reads=(name,))
            )
            read = (f"relu{group}",)
    ten = constant(10)
    kernels.append(
        Kernel(
            "linear",
            "head",
            "linear",
            ((n, last),),
            (n, ten),
            ("head.weight",),
            macs=(Term(1.0, (n, last, ten)),),
            reads=read,
        )
    )
    parameters.append(Buffer("head.weight", (ten, last), 4, trainable=True))
    for index, kernel in enumerate(kernels):
        end = next((i for i, k in enumerate(kernels) if kernel.name in k.reads), index)
        activations.append(Buffer(kernel.name, kernel.output, 4, index, end))
    return KernelGraph(
        tuple(f"layer{g}" for g in range(count)),
        np.array(units),
        np.array(base),
        np.array(weight),
        tuple(kernels),
        tuple(activations),
        tuple(parameters),
        batch,
    )


class FakeDevice:
    """Times convolutions in blocks of output channels, and adds noise and drift.

    Args:
        graph: of the network that is measured.
        block: output channels a block.
        noise: relative standard deviation of one repeat.
        kernels: whether it tells kernel times.
        extra: what one candidate takes more than its kernels, as a fraction of the dense latency.
    """

    def __init__(
        self,
        graph: KernelGraph,
        block: int = 16,
        noise: float = 0.0,
        kernels: bool = True,
        seed: int = 0,
        overhead: float = 0.05,
    ) -> None:
        self.graph, self.block, self.noise = graph, block, noise
        self.tells, self.overhead = kernels, overhead
        self.rng = np.random.default_rng(seed)
        self.calls: list[int] = []
        self.cares: list[Care] = []
        self.broken: set[str] = set()
        self.dense = self.latency(graph.dense)

    def kernel_times(self, candidate: Candidate) -> list[tuple[Kernel, float]]:
        sizes = self.graph.workloads([candidate]).sizes[0]
        result = []
        for kernel in self.graph.kernels:
            if kernel.op == "relu":
                continue  # fused
            channels = [int(sizes[s[1]]) for s in (kernel.inputs[0], kernel.output)]
            pixels = float(np.prod(sizes[list(kernel.output[2:])])) if kernel.op == "conv2d" else 1
            out = -(-channels[1] // self.block) * self.block
            result.append((kernel, 1e-6 * pixels * (50 + channels[0] * out)))
        return result

    def latency(self, candidate: Candidate) -> float:
        """The true latency in ms."""
        return self.overhead * 0.1 + sum(t for _, t in self.kernel_times(candidate))

    def ratio(self, candidate: Candidate) -> float:
        """The true ratio to the dense network."""
        return self.latency(candidate) / self.dense

    def measure(
        self, candidates: Sequence[Candidate], *, kernels: bool, care: Care = "usual"
    ) -> list[Measurement]:
        self.calls.append(len(candidates))
        self.cares.append(care)
        return [self._one(i, c, kernels) for i, c in enumerate(candidates)]

    def _one(self, index: int, candidate: Candidate, kernels: bool) -> Measurement:
        if candidate.key in self.broken:
            return Measurement(str(index), error="it failed")
        drift = float(np.exp(self.rng.normal(0, 0.1)))
        samples = drift * self.latency(candidate) * np.exp(self.rng.normal(0, self.noise, 8))
        reference = drift * self.dense * np.exp(self.rng.normal(0, self.noise / 4, 8))
        each = samples / reference
        ratio = 1.0 if index == 0 else float(np.median(each))
        half = 1.96 * 1.25 * max(self.noise, 1e-4) / np.sqrt(8) * ratio
        times: tuple[KernelTime, ...] = ()
        if kernels and self.tells:
            slower = float(np.exp(self.rng.normal(0, 0.05)))
            times = tuple(
                KernelTime(f"{k.name}_nchwc", (k.layer,), _OPS[k.op], float(t * slower * e))
                for (k, t), e in zip(
                    self.kernel_times(candidate),
                    np.exp(self.rng.normal(0, self.noise, len(self.graph.kernels))),
                    strict=False,
                )
            )
        return Measurement(
            str(index),
            latency_ms=ratio * self.dense,
            ratio=ratio,
            ratio_interval=(ratio - half, ratio + half),
            samples_ms=tuple(samples.tolist()),
            reference_ms=tuple(reference.tolist()),
            kernels=times,
        )


_OPS = {"conv2d": "Conv", "linear": "Gemm"}
