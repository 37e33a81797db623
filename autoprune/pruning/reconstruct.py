"""Least-squares reconstruction of the layers that read pruned channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from autoprune.core.errors import ConfigError, SurgeryError
from autoprune.graph.network import Network, Selection
from autoprune.pruning._activations import LIVE_BYTES
from autoprune.pruning._altered import altered
from autoprune.pruning._batches import as_calls
from autoprune.pruning._constants import rewrites
from autoprune.pruning._consumers import Consumer, consumers, downstream, order
from autoprune.pruning._probe import affine
from autoprune.pruning._ridge import Moments, solve
from autoprune.pruning._rows import Positions, as_matrix, as_weight, at, draw, patches, renumbered
from autoprune.pruning._sites import Rewrite, arguments_of, op_name
from autoprune.pruning._walk import Walk, lookup, tensor_names
from autoprune.pruning.recalibrate import Running

Scope = Literal["consuming", "all"]
Keep = npt.NDArray[np.bool_]


class _Sample:
    """Sampled positions of a layer's target, with the dense network's values there, by batch."""

    def __init__(self) -> None:
        self.positions: list[Positions] = []
        self.values: list[Tensor] = []


class Reconstructor:
    """Refits layers by least squares, so that they make up for what was pruned before them.

    The method of He et al. 2017 ("Channel pruning for accelerating very deep neural networks"),
    which AMC (He et al. 2018) uses too. The pruned network is run once, layer by layer, on
    calibration data; each layer that reads pruned channels is refitted, on its already pruned
    inputs, to give what the dense network gives at sampled positions: convolutions of any kernel
    size, stride, dilation and group count, transposed ones too, and linear layers, weight and
    bias. Where a layer's
    output passes through BatchNorm or a scale into a residual add, it is the add's output that
    is aimed at, with what the pruned network has in the other branch, so that earlier errors are
    corrected. BatchNorm statistics behind layers that are not refitted are moved on the way, by
    as much as pruning moved them on the calibration data: added to the mean, multiplied into the
    variance. What training knows of the statistics (all of its data, augmented) is so kept, and
    the sampling error of a few calibration batches cancels. Those behind a refitted layer stay
    as they are, for its output is the dense one's again. So recalibrating afterwards is not
    needed, and as a rule makes things worse.

    The dense network is run only once, when this is made. Memory: the sampled targets, and while
    a network runs the live activations of all batches, up to a limit (`max_live_bytes`); beyond
    it, those that are needed last wait in a temporary file (in $TMPDIR). Results are the same.

    Args:
        network: the traced network.
        batches: calibration inputs; each a tensor, a tuple of positional inputs or a mapping.
        positions: sampled output positions per sample of a batch, for layers with more (the
            pixels of a feature map, the tokens of a sequence). More samples (images) do more
            than more positions.
        ridge: of the regression, relative to the mean variance of a layer's inputs; pulls to
            the weights as pruned.
        scope: "consuming" refits layers that lost input channels; "all" also those whose input
            is only changed by layers before, which is a little better and takes about twice as
            long.
        seed: of the positions.
        max_bytes: of the sampled targets; fewer positions are taken where they would need more.
        max_live_bytes: of activations held in memory, beside those of a single batch that one op
            reads and gives.

    Raises:
        ConfigError: no batches, or a setting out of range.
        SurgeryError: the network can't be run on the batches, or gives no finite values, or the
            temporary file can't be written.
    """

    def __init__(
        self,
        network: Network,
        batches: Iterable[Any],
        *,
        positions: int = 40,
        ridge: float = 1e-3,
        scope: Scope = "consuming",
        seed: int = 0,
        max_bytes: int = 2**30,
        max_live_bytes: int = LIVE_BYTES,
    ) -> None:
        if positions < 1:
            raise ConfigError(f"positions must be at least 1, got {positions!r}")
        if not ridge > 0:
            raise ConfigError(f"ridge must be greater than 0, got {ridge!r}")
        if scope not in ("consuming", "all"):
            raise ConfigError(f"scope must be 'consuming' or 'all', got {scope!r}")
        if max_live_bytes < 0:
            raise ConfigError(f"max_live_bytes must be at least 0, got {max_live_bytes!r}")
        self.network = network
        self.ridge = ridge
        self.scope = scope
        self.max_live_bytes = max_live_bytes
        self._calls = as_calls(batches)
        self._names = tensor_names(network.program)
        self._reached = self._behind_groups()
        self._consumers = self._candidates()
        #: BatchNorm's node → statistics of its input in the dense network.
        self._statistics = {
            node: Running()
            for node in network.program.graph.nodes
            if op_name(node) == "batch_norm" and arguments_of(node)["input"] in self._reached
        }
        self._samples = self._sample(positions, seed, max_bytes)

    def apply(self, pruned: nn.Module, selection: Selection) -> tuple[str, ...]:
        """Refit the layers of a pruned network in place.

        Args:
            pruned: what surgery made of the network with this selection, weights not yet changed.
            selection: which units it keeps.

        Returns:
            Dotted names of the weights that were refitted.

        Raises:
            SurgeryError: the network does not fit the selection, or can't be run on the batches.
            CandidateError: the selection does not fit the network.
        """
        with torch.no_grad():
            return _Refit(self, pruned, selection).run()

    def _behind_groups(self) -> set[fx.Node]:
        """The nodes behind anything that can be pruned."""
        labelled = {
            name
            for name, labels in self.network.parameters.items()
            if any(label is not None for label in labels)
        }
        return downstream(self.network, labelled)

    def _candidates(self) -> tuple[Consumer, ...]:
        """Layers behind anything that can be pruned."""
        found = []
        for consumer in consumers(self.network):
            labels = self.network.parameters[consumer.weight]
            if consumer.input in self._reached and (
                self.scope == "all" or labels[consumer.reads] is not None
            ):
                found.append(consumer)
        return tuple(found)

    def _sample(self, positions: int, seed: int, max_bytes: int) -> dict[str, _Sample]:
        """Run the dense network and store what it gives at drawn positions."""
        by_target: dict[str, list[Consumer]] = {}
        for consumer in self._consumers:
            by_target.setdefault(consumer.target.name, []).append(consumer)
        result = {c.node.name: _Sample() for c in self._consumers}
        generator = torch.Generator().manual_seed(seed)
        share = min(1.0, max_bytes / max(self._bytes(positions), 1))
        ends = [*(c.target for c in self._consumers), *self._statistics]
        nodes = order(self.network, (), ends)
        dense = Walk(
            self.network.program,
            nodes,
            lookup(self.network.model),
            self._calls,
            limit=self.max_live_bytes,
        )

        def before(node: fx.Node) -> None:
            if node in self._statistics:
                for value in dense.values(arguments_of(node)["input"]):
                    self._statistics[node].add(value)

        def after(node: fx.Node) -> None:
            for consumer in by_target.get(node.name, ()):
                sample = result[consumer.node.name]
                for value in dense.values(node):
                    count = max(1, int(len(value) * positions * share))
                    drawn = draw(value.shape, consumer.channel, count, generator)
                    sample.positions.append(drawn)
                    sample.values.append(at(value, consumer.channel, drawn).clone())
                if not all(bool(torch.isfinite(v).all()) for v in sample.values):
                    raise SurgeryError(
                        f"the dense network must give finite values on the calibration batches, "
                        f"but {consumer.node.name} ({consumer.weight}) gives NaN or infinity"
                    )

        with torch.no_grad():
            dense.run(before=before, after=after)
        return result

    def _bytes(self, positions: int) -> int:
        """What the targets would take at most (a sample is an index of dimension 0)."""
        samples = sum(
            max((len(x) for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x.ndim),
                default=1)
            for args, kwargs in self._calls
        )  # fmt: skip
        width = sum(c.target.meta["val"].shape[c.channel] for c in self._consumers)
        return 4 * samples * positions * int(width)


class _Refit:
    """One pruned network being refitted."""

    def __init__(self, owner: Reconstructor, pruned: nn.Module, selection: Selection) -> None:
        network = owner.network
        self.owner = owner
        self.network = network
        self.keep = network.keep(selection)
        self.kept = kept = network.kept_indices(selection)
        changed = altered(network, self.keep)
        changes = {r.node: r for r in rewrites(network, self.keep)}
        self.find = lookup(pruned)
        self._check(pruned, kept)
        self.layers = {
            c.node: c
            for c in owner._consumers
            if self._narrowed(c, changes.get(c.node.name))
            or (owner.scope == "all" and c.input in changed)
        }
        aligned = {step for c in self.layers.values() for step in c.chain}
        self.norms = {
            node
            for node in network.program.graph.nodes
            if op_name(node) == "batch_norm" and node not in aligned and node.args[0] in changed
        }
        nodes = order(network, tuple(self.layers.values()), tuple(self.norms))
        looks = {c.node: c.other for c in self.layers.values() if c.other is not None}
        self.walk = Walk(
            network.program, nodes, self.find, owner._calls, changes, looks, owner.max_live_bytes
        )

    def run(self) -> tuple[str, ...]:
        self.walk.run(before=self._before)
        return tuple(c.weight for c in self.layers.values())

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
        running = Running()
        for value in self.walk.values(arguments["input"]):
            running.add(value)
        mean_name, var_name = (self.owner._names[n.name] for n in names)
        kept = self.kept.get(mean_name, {}).get(0)
        dense = self.owner._statistics[node]
        running.shift(self.find(mean_name), self.find(var_name), since=dense, kept=kept)

    def _refit(self, layer: Consumer) -> None:
        weight, groups = layer.read(self.find, self.walk)
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
