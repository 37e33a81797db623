"""One pruned network whose layers are refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from autoprune.core.errors import SurgeryError
from autoprune.graph.network import Selection
from autoprune.pruning._altered import altered
from autoprune.pruning._biases import whole
from autoprune.pruning._constants import rewrites
from autoprune.pruning._consumers import Consumer, downstream, order
from autoprune.pruning._probe import affine
from autoprune.pruning._ridge import Moments, solve
from autoprune.pruning._rows import Positions, as_matrix, as_weight, at, patches, renumbered
from autoprune.pruning._sites import Rewrite, arguments_of, op_name
from autoprune.pruning._walk import Walk, lookup
from autoprune.pruning.recalibrate import Running

if TYPE_CHECKING:
    from autoprune.pruning.reconstruct import Reconstructor

Keep = npt.NDArray[np.bool_]


class Sample:
    """Sampled positions of a layer's target, with the dense network's values there, by batch."""

    def __init__(self) -> None:
        self.positions: list[Positions] = []
        self.values: list[Tensor] = []


class Refit:
    """One pruned network being refitted."""

    def __init__(self, owner: Reconstructor, pruned: nn.Module, selection: Selection) -> None:
        network = owner.network
        self.owner = owner
        self.network = network
        self.keep = network.keep(selection)
        self.kept = kept = network.kept_indices(selection)
        self.silenced = network.silenced(selection)
        changed = altered(network, self.keep)
        changes = {r.node: r for r in rewrites(network, self.keep)}
        self.find = lookup(pruned)
        self._check(pruned, kept)
        behind = changed if owner.scope == "all" else self._behind_removed()
        self.layers = {
            c.node: c
            for c in owner._consumers
            if self._narrowed(c, changes.get(c.node.name)) or c.input in behind
        }
        aligned = {step for c in self.layers.values() for step in c.chain}
        self.norms = {
            node
            for node in network.program.graph.nodes
            if op_name(node) == "batch_norm" and node not in aligned and node.args[0] in changed
        }
        #: Layers that are not refitted, but have a bias to be corrected.
        self.biased = {
            node: mean
            for node, mean in owner.means.items()
            if node in changed
            and node not in self.layers
            and mean.bias not in self.silenced
            and whole(network, node, mean.channel, self.keep)
        }
        nodes = order(network, tuple(self.layers.values()), (*self.norms, *self.biased))
        looks = {c.node: c.other for c in self.layers.values() if c.other is not None}
        self.walk = Walk(
            network.program, nodes, self.find, owner._calls, changes, looks, owner.max_live_bytes
        )

    def run(self) -> tuple[str, ...]:
        self.walk.run(before=self._before, after=self._correct if self.biased else None)
        return tuple(c.weight for c in self.layers.values())

    def _behind_removed(self) -> set[fx.Node]:
        """The nodes behind layers that read nothing any more: those can't be refitted much."""
        emptied = {
            c.weight
            for c in self.owner._consumers
            if len(self.kept.get(c.weight, {}).get(c.reads, (0,))) == 0
        }
        return downstream(self.network, emptied) if emptied else set()

    def _narrowed(self, layer: Consumer, rewrite: Rewrite | None) -> bool:
        """Whether it lost input channels; whole groups that go leave the others as they are."""
        if layer.reads not in self.kept.get(layer.weight, {}):
            return False
        if layer.separable:
            return True
        groups = int(arguments_of(layer.node)["groups"])
        left = groups if rewrite is None else rewrite.changes.get("groups", (0, groups))[1]
        dense = layer.node.args[1].meta["val"].shape[0]  # type: ignore[union-attr]
        return bool(len(self.kept[layer.weight][0]) * groups < dense * left)

    def _check(self, pruned: nn.Module, kept: Mapping[str, Mapping[int, Any]]) -> None:
        for name, dims in kept.items():
            try:
                shape = self.find(name).shape
            except AttributeError as error:
                raise SurgeryError(
                    f"the pruned network must have the dense one's tensors, but {name} is not in "
                    f"this {type(pruned).__name__}; give what autoprune.prune made"
                ) from error
            for dim, indices in dims.items():
                if shape[dim] != len(indices):
                    raise SurgeryError(
                        f"{name} must keep {len(indices)} indices of dimension {dim} with this "
                        f"selection, got {shape[dim]}; give the selection it was pruned with"
                    )

    def _before(self, node: fx.Node) -> None:
        if node in self.layers:
            self._refit(self.layers[node])
        elif node in self.norms:
            self._normalise(node)

    def _normalise(self, node: fx.Node) -> None:
        """Move BatchNorm statistics by as much as pruning moved them on these batches."""
        arguments = arguments_of(node)
        names = [arguments[n] for n in ("running_mean", "running_var")]
        if not all(isinstance(n, fx.Node) and n.name in self.owner._names for n in names):
            return
        mean_name, var_name = (self.owner._names[n.name] for n in names)
        if mean_name in self.silenced:
            return
        running = Running()
        for value in self.walk.values(arguments["input"]):
            running.add(value)
        kept = self.kept.get(mean_name, {}).get(0)
        dense = self.owner._statistics[node]
        running.shift(self.find(mean_name), self.find(var_name), since=dense, kept=kept)

    def _correct(self, node: fx.Node) -> None:
        """Give a layer's output the dense one's mean again, on these batches."""
        if node not in self.biased:
            return
        mean = self.biased[node].new()
        for value in self.walk.values(node):
            mean.add(value)
        bias = self.find(mean.bias)
        moved = mean.since(self.owner.means[node], self.kept.get(mean.bias, {}).get(0))
        bias.sub_(moved)
        shape = [1] * node.meta["val"].ndim
        shape[mean.channel] = -1
        for value in self.walk.values(node):
            value.sub_(moved.view(shape))

    def _refit(self, layer: Consumer) -> None:
        weight, groups = layer.read(self.find, self.walk)
        if not weight.numel():
            return
        can_shift = layer.bias is not None or layer.shift is not None
        outputs = len(weight) // groups
        moments = Moments(can_shift)
        for x, y in self._regression(layer, groups):
            moments.add(x, y.view(-1, groups, outputs).transpose(0, 1))
        if moments.rows < 2:
            return
        scale, offset = affine(self.walk, layer, layer.node, layer.chain, weight)
        usable = scale.abs() > 1e-6 * scale.abs().max().clamp_min(1e-30)
        old = as_matrix(weight, groups)
        factors = scale.view(groups, 1, outputs)
        new = solve(moments, old * factors, self.owner.ridge, layer.weight)
        alive = usable.view(groups, 1, outputs)
        matrix = torch.where(alive, new.to(old.dtype) / torch.where(alive, factors, 1), old)
        if can_shift:
            fitted = moments.mean_y - moments.mean_x @ (matrix * factors)
            self._shift(layer, fitted.flatten() - offset, scale, usable)
        layer.write(self.find, as_weight(matrix, weight.shape), groups)

    def _regression(self, layer: Consumer, groups: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (groups, rows, inputs) and targets (rows, outputs) of each batch."""
        labels: Any = self.network.labels[layer.target.name]
        masks: list[Keep | None] = [None if label is None else self.keep[label] for label in labels]
        channels = masks.pop(layer.channel)
        sample = self.owner._samples[layer.node.name]
        for batch, (dense, positions) in enumerate(
            zip(sample.values, sample.positions, strict=True)
        ):
            places, rows = renumbered(positions, masks)
            y = dense if rows is None else dense[rows]
            y = y[:, torch.from_numpy(channels)] if channels is not None else y.clone()
            if layer.other is not None:
                y -= at(self.walk.value(layer.other, batch), layer.channel, places)
            yield patches(self.walk.value(layer.input, batch), layer.window, places, groups), y

    def _shift(self, layer: Consumer, amount: Tensor, scale: Tensor, usable: Tensor) -> None:
        """Set what makes the intercept: the layer's own bias, or one behind it."""
        if layer.bias is not None:
            bias = self.find(layer.bias)
            bias.copy_(torch.where(usable, amount / torch.where(usable, scale, 1), bias))
        elif layer.shift is not None:
            step, name = layer.shift
            behind = layer.chain[layer.chain.index(step) + 1 :]
            weight, _ = layer.read(self.find, self.walk)
            gain, _ = affine(self.walk, layer, step, behind, weight)
            fine = gain.abs() > 1e-12
            bias = self.find(name)
            change = torch.where(fine, amount / torch.where(fine, gain, 1), 0.0)
            bias.add_(change.view_as(bias))
