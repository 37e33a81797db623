"""Least-squares reconstruction of the layers that read pruned channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from autoprune.core.errors import ConfigError, SurgeryError
from autoprune.graph.network import Network, Selection
from autoprune.pruning._activations import LIVE_BYTES
from autoprune.pruning._batches import as_calls, recut
from autoprune.pruning._biases import means
from autoprune.pruning._consumers import Consumer, consumers, downstream, order
from autoprune.pruning._refit import Refit, Sample
from autoprune.pruning._rows import at, draw
from autoprune.pruning._sites import arguments_of, op_name
from autoprune.pruning._walk import Walk, lookup, tensor_names
from autoprune.pruning.recalibrate import Running

Scope = Literal["bias", "consuming", "all"]


class Reconstructor:
    """Refits layers by least squares, so that they make up for what was pruned before them.

    The method of He et al. 2017 ("Channel pruning for accelerating very deep neural networks"),
    which AMC (He et al. 2018) uses too. The pruned network is run once, layer by layer, on
    calibration data; each layer that reads pruned channels is refitted, on its already pruned
    inputs, to give what the dense network gives at sampled positions: convolutions of any kernel
    size, stride, dilation and group count, transposed ones too, and linear layers, weight and
    bias. Where a layer's output passes through BatchNorm or a scale into a residual add, it is
    the add's output that is aimed at, with what the pruned network has in the other branch, so
    that earlier errors are corrected.

    On the way, layers that are not refitted are given back the means they had. BatchNorm
    statistics are moved by as much as pruning moved them on the calibration data: added to the
    mean, multiplied into the variance. What training knows of the statistics (all of its data,
    augmented) is so kept, and the sampling error of a few calibration batches cancels. Those
    behind a refitted layer stay as they are, for its output is the dense one's again. So
    recalibrating afterwards is not needed, and as a rule makes things worse. Convolutions, linear
    layers, LayerNorms and GroupNorms that have a bias are corrected by it (Nagel et al. 2019,
    "Data-free quantization through weight equalization and bias correction", section 4.2, the
    empirical way).

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
        scope: "bias" refits nothing, and moves biases and BatchNorm statistics alone; "consuming"
            refits layers that lost input channels, and all those behind a layer that lost every
            one of them; "all" also those whose input is only changed by layers before, which is a
            little better and takes about twice as long.
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
        if scope not in ("bias", "consuming", "all"):
            raise ConfigError(f"scope must be 'bias', 'consuming' or 'all', got {scope!r}")
        if max_live_bytes < 0:
            raise ConfigError(f"max_live_bytes must be at least 0, got {max_live_bytes!r}")
        self.network = network
        self.ridge = ridge
        self.scope = scope
        self.max_live_bytes = max_live_bytes
        self._calls = recut(as_calls(batches), network.fixed_batch)
        self._names = tensor_names(network.program)
        self._reached = self._behind_groups()
        self._consumers = self._candidates()
        #: BatchNorm's node → statistics of its input in the dense network.
        self._statistics = {
            node: Running()
            for node in network.program.graph.nodes
            if op_name(node) == "batch_norm" and arguments_of(node)["input"] in self._reached
        }
        #: Layer that has a bias of its own → mean of its output in the dense network.
        self.means = {n: mean for n, mean in means(network).items() if n in self._reached}
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
            return Refit(self, pruned, selection).run()

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
        if self.scope == "bias":
            return ()
        found = []
        for consumer in consumers(self.network):
            labels = self.network.parameters[consumer.weight]
            if consumer.input in self._reached and (
                self.scope == "all" or labels[consumer.reads] is not None
            ):
                found.append(consumer)
        return tuple(found)

    def _sample(self, positions: int, seed: int, max_bytes: int) -> dict[str, Sample]:
        """Run the dense network and store what it gives at drawn positions."""
        by_target: dict[str, list[Consumer]] = {}
        for consumer in self._consumers:
            by_target.setdefault(consumer.target.name, []).append(consumer)
        result = {c.node.name: Sample() for c in self._consumers}
        generator = torch.Generator().manual_seed(seed)
        share = min(1.0, max_bytes / max(self._bytes(positions), 1))
        ends = [*(c.target for c in self._consumers), *self._statistics, *self.means]
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
            if node in self.means:
                for value in dense.values(node):
                    self.means[node].add(value)
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
