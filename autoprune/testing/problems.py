"""A made-up pruning problem: searchers can be compared on it in seconds, without a network.

The graph is that of a CIFAR ResNet: three stages of two-convolution blocks, with one group inside
each block and, if asked for, one for each stage's trunk. The accuracy is a formula: each group has
a sensitivity and a shape of its own (a trunk, which every block of its stage reads and writes, a
much greater one), neighbours that are both narrow hurt more than their sum, and evaluation has a
little noise that depends on the candidate alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Costs
from autoprune.core.workload import Buffer, Ints, Kernel, KernelGraph, Term, Workloads
from autoprune.cost.base import CostModel


class ShapeCost(CostModel):
    """MACs and convolution parameters counted from a graph's terms and parameter shapes."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """`macs` and `params`."""
        return ("macs", "params")

    def predict(self, workloads: Workloads) -> Costs:
        """Exact counts."""
        sizes = workloads.sizes.astype(np.float64)
        macs = np.zeros(len(workloads))
        for kernel in workloads.graph.kernels:
            for term in kernel.macs:
                macs += term.coefficient * np.prod(sizes[:, list(term.sizes)], axis=1)
        params = np.zeros(len(workloads))
        for buffer in workloads.graph.parameters:
            params += np.prod(sizes[:, list(buffer.shape)], axis=1)
        return Costs.exact({"macs": macs / workloads.graph.batch, "params": params})


class StaircaseCost(CostModel):
    """A made-up latency that does not always grow with width, and is not known exactly.

    Each kernel's time steps every 8 output channels, and widths of 1 below a multiple of 8 pay a
    penalty, as some runtimes make them; the standard deviation is `noise` of the mean.
    """

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise

    @property
    def metrics(self) -> tuple[str, ...]:
        """`latency_ms`."""
        return ("latency_ms",)

    def predict(self, workloads: Workloads) -> Costs:
        """Latency with its standard deviation."""
        total = np.zeros(len(workloads))
        for kernel in workloads.graph.kernels:
            if not kernel.macs:
                continue
            width = workloads.sizes[:, kernel.output[1]]
            depth = workloads.sizes[:, kernel.inputs[0][1]]
            area = workloads.sizes[:, kernel.output[2]] * workloads.sizes[:, kernel.output[3]]
            steps = -(-width // 8) + 0.3 * (width % 8 == 7)
            total += 1e-6 * area * steps * (4 + depth) + 0.01
        return Costs(
            {"latency_ms": total},
            {"latency_ms": self.noise * total},
            {"latency_ms": np.full(len(workloads), "modelled")},
        )


def residual_graph(
    widths: tuple[int, ...] = (16, 32, 64), blocks: int = 9, *, trunk: bool = False, size: int = 32
) -> KernelGraph:
    """The kernels of a CIFAR ResNet (3 × 9 blocks of two convolutions: ResNet-56).

    Args:
        widths: channels of each stage.
        blocks: in each stage.
        trunk: whether the channels that the shortcuts carry may be pruned too.
        size: of the image, in pixels.
    """
    groups: list[str] = []
    units: list[int] = []
    for stage, width in enumerate(widths):
        if trunk:
            groups.append(f"layer{stage + 1}.trunk")
            units.append(width)
        groups += [f"layer{stage + 1}.{block}.conv1" for block in range(blocks)]
        units += [width] * blocks
    base: list[int] = []
    weight: list[list[int]] = []

    def row(constant: int, group: str | None = None) -> int:
        base.append(constant)
        weight.append([int(name == group) for name in groups])
        return len(base) - 1

    one, three, nine = row(1), row(3), row(9)
    kernels: list[Kernel] = []
    buffers: list[Buffer] = []
    activations: list[Buffer] = []

    def conv(name: str, inputs: int, outputs: int, before: int, after: int, stride: int) -> None:
        kernels.append(
            Kernel(
                name=f"conv2d_{len(kernels)}",
                layer=name,
                op="conv2d",
                inputs=((one, inputs, before, before),),
                output=(one, outputs, after, after),
                params=(f"{name}.weight",),
                attrs={"kernel_size": (3, 3), "stride": (stride, stride), "padding": (1, 1)},
                macs=(Term(1.0, (inputs, outputs, after, after, nine)),),
                reads=(kernels[-1].name,) if kernels else (),
            )
        )
        buffers.append(Buffer(f"{name}.weight", (outputs, inputs, three, three), 4, trainable=True))
        activations.append(
            Buffer(
                kernels[-1].name,
                (one, outputs, after, after),
                4,
                first=len(kernels) - 1,
                last=len(kernels),
            )
        )

    image = row(size)
    image_channels = three
    carried: int | None = None
    before = image
    for stage, width in enumerate(widths):
        after = row(size // 2**stage)
        own = row(0, f"layer{stage + 1}.trunk") if trunk else row(width)
        if carried is None:
            conv("conv1", image_channels, own, before, after, 1)
            carried, before = own, after
        for block in range(blocks):
            inner = row(0, f"layer{stage + 1}.{block}.conv1")
            stride = 2 if before != after else 1
            conv(f"layer{stage + 1}.{block}.conv1", carried, inner, before, after, stride)
            conv(f"layer{stage + 1}.{block}.conv2", inner, own, after, after, 1)
            carried, before = own, after
    return KernelGraph(
        groups=tuple(groups),
        units=np.array(units, dtype=np.int64),
        base=np.array(base, dtype=np.int64),
        weight=np.array(weight, dtype=np.int64).reshape(len(base), len(groups)),
        kernels=tuple(kernels),
        activations=tuple(activations),
        parameters=tuple(buffers),
    )


@dataclass(frozen=True)
class SyntheticProblem:
    """A network without a network: kernels, and a formula for its accuracy.

    Attributes:
        kernels: symbolic kernels (so it can be given to `SearchSpace.from_network`).
        seed: of the sensitivities.
        noise: standard deviation of the accuracy, the same for the same candidate every time.
    """

    kernels: KernelGraph
    seed: int = 0
    noise: float = 0.001

    @classmethod
    def resnet(
        cls, blocks: int = 9, *, trunk: bool = False, seed: int = 0, noise: float = 0.001
    ) -> SyntheticProblem:
        """3 × `blocks` blocks; 9 is ResNet-56."""
        return cls(residual_graph(blocks=blocks, trunk=trunk), seed, noise)

    @cached_property
    def _shape(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, 7])
        count = len(self.kernels.groups)
        names = self.kernels.groups
        stages = sorted({name.partition(".")[0] for name in names})
        # As in trained residual networks: wide stages and the first block of a stage need more.
        late = np.array([stages.index(name.partition(".")[0]) for name in names])
        first = np.array([name.split(".")[1] in ("0", "trunk") for name in names])
        scale = rng.lognormal(0.0, 0.5, count) * 2.0**late * np.where(first, 2.0, 1.0)
        # What the shortcuts carry is read and written by every block of its stage.
        trunk = np.array([name.endswith(".trunk") for name in names])
        scale *= np.where(trunk, np.maximum(1.0, (count - trunk.sum()) / len(stages) / 2), 1.0)
        scale *= 9.0 / count / scale.mean()
        power = rng.uniform(1.5, 3.5, count)
        pair = rng.lognormal(0.0, 0.6, max(count - 1, 0)) * 6.0 / count
        return scale, power, pair

    def budget(self, fraction: float = 0.5) -> Budget:
        """A bound on MACs, absolute."""
        dense = ShapeCost().predict(self.kernels.instantiate(self.kernels.units[None]))
        return Budget(macs=fraction * float(dense.mean["macs"][0]))

    def accuracy(self, kept: Ints) -> float:
        """Top-1 of (G,) kept units, without the noise: 0.93 when dense, 0.1 at worst."""
        scale, power, pair = self._shape
        lost = 1.0 - kept / self.kernels.units
        damage = float((scale * lost**power).sum())
        damage += float((pair * (lost[:-1] * lost[1:]) ** 1.5).sum())
        return 0.1 + 0.83 * math.exp(-0.02 * damage - 0.005 * damage**2)

    def evaluate(self, candidate: Candidate) -> dict[str, float]:
        """What a user's `evaluate` gives: `{"accuracy": top-1}`."""
        kept = self.kernels.kept([candidate])[0]
        rng = np.random.default_rng([self.seed, int(candidate.key, 16)])
        return {"accuracy": self.accuracy(kept) + self.noise * float(rng.standard_normal())}
