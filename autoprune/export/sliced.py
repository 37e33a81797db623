"""One ONNX export of the dense network serves every candidate: its weights are sliced."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from torch import nn

from autoprune.core.errors import ExportError
from autoprune.export._emptied import without_empty
from autoprune.export._graphs import Graph, Mismatch, check_same_structure, drop_idle_reshapes
from autoprune.export._matching import Book, State, choose_probes
from autoprune.export._rules import Rules, learn
from autoprune.export.onnx import TOLERANCE, compare, evaluating, export_onnx
from autoprune.graph.network import Network, Selection

#: Cuts a network to a selection and gives the smaller module.
Prune = Callable[[Network, Selection], nn.Module]

#: Pruned networks that are exported beside the dense one to learn how its constants change, and
#: how many at most, where what was learnt from those fails its check.
PROBES, MOST_PROBES = 2, 4

#: Other selections that what was learnt is checked on, of which each dimension keeps another
#: number; running them takes much less than an export.
CHECKS = 6

_LOG = logging.getLogger("autoprune.export")


class OnnxSlicer:
    """Makes the ONNX model of any candidate in milliseconds.

    The dense network is exported once (at the batch of its example inputs), and a few pruned ones
    beside it. Comparing them node by node tells which constants change and how: weights are
    sliced by the labels of their dimensions, sizes in reshapes, slices, splits, pads and
    attributes are counts of kept indices. What was learnt is checked on more random selections
    against the pruned network run by torch. Where a network resists (its graph changes with its
    widths, say), every candidate is exported instead, and `reason` says why.

    Weights are sliced from the dense network. Those of a pruned network that was reconstructed,
    recalibrated or fine-tuned differ, which no latency depends on; to ship a network, export it.

    Args:
        network: the traced network.
        prune: cuts a network to a selection without refitting any weight:
            `autoprune.pruning.surgery.apply`.
        seed: of the random selections.

    Attributes:
        network: the traced network.
        dense: the serialised dense model.
        reason: why candidates are exported one by one; "" where they are sliced.

    Raises:
        ExportError: the dense network can't be exported.
    """

    def __init__(self, network: Network, prune: Prune, seed: int = 0) -> None:
        self.network = network
        self._prune = prune
        self.dense = self._export(network.model)
        self.reason = ""
        self._rules: Rules | None = None
        if not network.groups:
            return
        try:
            self._rules = self._learn(np.random.default_rng(seed))
        except Mismatch as mismatch:
            self.reason = str(mismatch)
            _LOG.warning(
                "weights can't be sliced in the ONNX graph (%s): every candidate is exported "
                "instead, which takes seconds each",
                self.reason,
            )

    def module(self, selection: Selection) -> nn.Module:
        """The network cut to a selection, as a module in eval mode.

        Raises:
            CandidateError: the selection does not fit the network.
        """
        return self._prune(self.network, selection).eval()

    def slice(self, selection: Selection) -> bytes:
        """The serialised ONNX model of the network cut to a selection.

        Raises:
            CandidateError: the selection does not fit the network.
            ExportError: the network had to be exported as a whole, and could not be.
        """
        state = State.of(self.network, selection)
        if bool(state.keep.all()):
            return self.dense
        if self._rules is None:
            return self._export(self._prune(self.network, selection))
        data = self._rules.build(state)
        if all(mask.any() for mask in selection.values()):
            return data
        try:
            return without_empty(data, silent=True)
        except Mismatch as mismatch:
            _LOG.warning(
                "a network without %s is exported as a whole: %s", _gone(selection), mismatch
            )
            return self._export(self._prune(self.network, selection))

    def _export(self, model: nn.Module) -> bytes:
        return export_onnx(model, self.network.example_inputs, self.network.example_kwargs)

    def _learn(self, rng: np.random.Generator) -> Rules:
        """Learn from pruned networks; check on more, and learn from one that fails too.

        Raises:
            Mismatch: a constant's rule is not found, or the check keeps failing.
        """
        network = self.network
        book = Book(network)
        dense = Graph.read(self.dense)
        probes = choose_probes(network, book, PROBES, rng)
        models = [self._prune(network, probe) for probe in probes]
        others: list[Graph] = []
        while True:
            for model in models[len(others) :]:
                try:
                    others.append(Graph.read(self._export(model)))
                except ExportError as error:
                    raise Mismatch(str(error)) from error
                drop_idle_reshapes(dense, others[-1])
                check_same_structure(dense, others[-1])
            states = [State.of(network, probe) for probe in probes]
            rules = learn(dense, others, states, book)
            failure = ""
            for trial in choose_probes(network, book, CHECKS, rng, fewest=1, tries=8):
                model = self._prune(network, trial)
                failure = self._failure(rules.build(State.of(network, trial)), model)
                if failure:
                    break
            if not failure:
                return rules
            if len(probes) >= MOST_PROBES:
                raise Mismatch(failure)
            probes.append(trial)
            models.append(model)

    def _failure(self, sliced: bytes, model: nn.Module) -> str:
        """What is wrong with a sliced model, compared with the pruned network in torch."""
        network = self.network
        try:
            with evaluating(model):
                difference = compare(model, sliced, network.example_inputs, network.example_kwargs)
        except ExportError as error:
            return f"a sliced model does not run: {error}"
        if difference <= TOLERANCE:
            return ""
        return (
            f"a sliced model's output differs from the pruned network's by {difference:.2g} "
            "of its scale"
        )


def _gone(selection: Selection) -> str:
    return ", ".join(name for name, mask in selection.items() if not mask.any())
