"""AMC's walk through a network: the state of each step, and which actions are allowed there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from autoprune.core.cost import Floats
from autoprune.core.workload import Ints, Kernel, KernelGraph, Workloads
from autoprune.space.projection import Oracle, find_feasible, project_levels

#: What a state holds, in order (He et al. 2018, equation 1).
FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "macs", "reduced", "rest", "action")
#: Operations that make a group's channels, in order of preference; others follow.
_CHANNEL_DIM_LAST = ("linear", "matmul", "embedding", "layer_norm", "attention")


class Walk:
    """The steps of an episode: one for each decision that has a choice, in graph order.

    The state of step t is the paper's, of the layer that makes the group's channels: its index,
    output channels, input channels, input height and width, stride, kernel size, MACs; then the
    MACs reduced so far, the MACs of what is still to come, and the previous action; all in
    [0, 1]. Where a group runs through several layers, `macs` counts all that it makes wide.

    Args:
        oracle: of the space and its budget.
        low: the least keep ratio that is reserved for later groups while an action is clipped;
            taken lower where the budget could not be held otherwise.
    """

    def __init__(self, oracle: Oracle, low: float) -> None:
        self.oracle = oracle
        self.space = oracle.space
        self.steps = self.space.free
        self.low = low
        graph = self.space.kernels
        dense = graph.instantiate(graph.units[None])
        self._dense = kernel_macs(dense)[0]
        self._total = max(float(self._dense.sum()), 1.0)
        touched = self._touched(graph)
        rows = [self._layer(graph, dense, touched, t) for t in range(len(self.steps))]
        static = np.array(rows, dtype=np.float64).reshape(len(self.steps), 7)
        self._static = static / np.maximum(static.max(axis=0, initial=1e-12), 1e-12)
        self._position = np.arange(len(self.steps)) / max(len(self.steps) - 1, 1)
        later = [~touched[: t + 1].any(axis=0) for t in range(len(self.steps))]
        self._rest = np.array([self._dense[mask].sum() for mask in later]) / self._total

    def reserve(self) -> Ints:
        """(n,) levels that later groups can at most be pruned to: they hold the budget."""
        wanted: Floats = self.low * self.space.units.astype(np.float64)
        levels = project_levels(self.oracle, wanted, fill="none")
        if self.oracle.holds(levels[None])[0]:
            return levels
        return find_feasible(self.oracle)

    def states(self, levels: Ints) -> Floats:
        """(T, 11) the states of the episode that ends in (n,) levels."""
        decided = self.space.counts - 1
        rows = np.repeat(decided[None], len(self.steps), axis=0)
        for t in range(1, len(self.steps)):
            rows[t:, self.steps[t - 1]] = levels[self.steps[t - 1]]
        return self._states(np.arange(len(self.steps)), rows, self.actions(levels))

    def state(self, t: int, levels: Ints) -> Floats:
        """(11,) the state of step t, the levels of the steps before being decided."""
        row = self.space.counts - 1
        row[self.steps[:t]] = levels[self.steps[:t]]
        before = self.actions(levels)
        state: Floats = self._states(np.array([t]), row[None], before)[0]
        return state

    def actions(self, levels: Ints) -> Floats:
        """(T,) the keep ratios that (n,) levels stand for."""
        ratio: Floats = (self.space.choice(levels) / self.space.units)[self.steps]
        return ratio

    def clip(self, t: int, levels: Ints, action: float) -> int:
        """The allowed level of step t that is nearest to a keep ratio.

        Allowed is what holds the budget with the steps before as decided and all that follow at
        the levels given (those of `reserve`), for every bound at once: the paper's
        resource-constrained action clipping, without taking cost to grow with width.
        """
        index = int(self.steps[t])
        count = int(self.space.counts[index])
        rows = np.repeat(levels[None], count, axis=0)
        rows[:, index] = np.arange(count)
        held = self.oracle.holds(rows)
        if not held.any():
            return int(levels[index])
        choices = np.array(self.space.decisions[index].choices, dtype=np.float64)
        distance = np.where(held, np.abs(choices - action * self.space.units[index]), np.inf)
        return int(distance.argmin())

    def nearest(self, t: int, levels: Ints, action: float) -> int:
        """The level of step t that is nearest to a keep ratio, whether or not it is allowed."""
        del levels
        index = int(self.steps[t])
        choices = np.array(self.space.decisions[index].choices, dtype=np.float64)
        return int(np.abs(choices - action * self.space.units[index]).argmin())

    def _states(self, steps: Ints, rows: Ints, actions: Floats) -> Floats:
        """(M, 11) states of steps, given (M, n) levels in which what is undecided is widest."""
        workloads = self.space.kernels.instantiate(self.space.kept(rows))
        reduced = 1.0 - kernel_macs(workloads).sum(axis=1) / self._total
        before = np.where(steps > 0, actions[steps - 1], 1.0)
        columns = np.stack([reduced, self._rest[steps], before], axis=1)
        states = np.concatenate(
            [self._position[steps][:, None], self._static[steps], columns], axis=1
        )
        clipped: Floats = np.clip(states, 0.0, 1.0)
        return clipped

    def _touched(self, graph: KernelGraph) -> npt.NDArray[np.bool_]:
        """(T, K) whether a step's groups change a kernel's MACs."""
        depends = graph.weight != 0  # (sizes, groups)
        columns = {name: i for i, name in enumerate(graph.groups)}
        kernel = np.zeros((len(graph.kernels), len(graph.groups)), dtype=bool)
        for k, item in enumerate(graph.kernels):
            for term in item.macs:
                kernel[k] |= depends[list(term.sizes)].any(axis=0)
        touched = np.zeros((len(self.steps), len(graph.kernels)), dtype=bool)
        for t, index in enumerate(self.steps.tolist()):
            decision = self.space.decisions[index]
            for name in (decision.group, *decision.tied):
                touched[t] |= kernel[:, columns[name]]
        return touched

    def _layer(
        self, graph: KernelGraph, dense: Workloads, touched: npt.NDArray[np.bool_], t: int
    ) -> tuple[float, ...]:
        """n, c, h, w, stride, k and MACs of the layer that makes a step's group."""
        macs = float(self._dense[touched[t]].sum())
        group = graph.groups.index(self.space.decisions[int(self.steps[t])].group)
        for kernel in graph.kernels:
            if kernel.macs and any(graph.weight[size, group] for size in kernel.output):
                inputs = dense.shape(kernel.inputs[0])[0].tolist() if kernel.inputs else [1, 1]
                outputs = dense.shape(kernel.output)[0].tolist()
                return (*_geometry(kernel, inputs, outputs), macs)
        return (float(graph.units[group]), 0.0, 1.0, 1.0, 1.0, 1.0, macs)


def _geometry(kernel: Kernel, inputs: list[int], outputs: list[int]) -> tuple[float, ...]:
    """n, c, h, w, stride and k of a kernel."""
    if kernel.op in _CHANNEL_DIM_LAST or len(inputs) < 3:
        channels, area = inputs[-1], inputs[1:-1]
        made = outputs[-1]
    else:
        channels, area, made = inputs[1], inputs[2:], outputs[1]
    height = float(area[0]) if area else 1.0
    width = float(np.prod(area[1:])) if len(area) > 1 else 1.0
    stride, size = _first(kernel.attrs, "stride"), _first(kernel.attrs, "kernel_size")
    return (float(made), float(channels), height, width, stride, size)


def _first(attrs: Mapping[str, int | float | str | tuple[int, ...]], name: str) -> float:
    value = attrs.get(name, 1)
    if isinstance(value, tuple):
        value = value[0] if value else 1
    return float(value)


def kernel_macs(workloads: Workloads) -> Floats:
    """(N, K) multiply-accumulates of each kernel."""
    sizes = workloads.sizes.astype(np.float64)
    macs = np.zeros((len(workloads), len(workloads.graph.kernels)))
    for k, kernel in enumerate(workloads.graph.kernels):
        for term in kernel.macs:
            macs[:, k] += term.coefficient * sizes[:, list(term.sizes)].prod(axis=1)
    return macs
