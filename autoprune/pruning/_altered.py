"""Where a pruned network's values differ from the dense ones, not only by what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from autoprune.graph.network import Network
from autoprune.pruning._sites import arguments_of, op_name

#: Op → the dimension of its weight that it sums over.
_WEIGHTED = {"linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1} | dict.fromkeys(
    ("addmm", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 0
)
#: Ops whose statistics run over channels.
_NORMS = {"layer_norm", "rms_norm", "group_norm"}


def altered(network: Network, keep: npt.NDArray[np.bool_]) -> set[fx.Node]:
    """Ops whose kept channels have other values than in the dense network.

    A layer that only loses output channels gives the same in those it keeps; what it is read by
    does not, nor does anything behind that.

    Args:
        network: the traced network.
        keep: which units are kept, as `Network.keep` gives them.
    """
    found: set[fx.Node] = set()
    for node in network.program.graph.nodes:
        if node.op != "call_function":
            continue
        if any(source in found for source in node.all_input_nodes) or _alters(network, node, keep):
            found.add(node)
    return found


def _alters(network: Network, node: fx.Node, keep: npt.NDArray[np.bool_]) -> bool:
    op = op_name(node)
    if op in _WEIGHTED:
        source = arguments_of(node)["mat2" if op == "addmm" else "weight"]
        weight: Any = network.labels.get(source.name, ())
        dim = _WEIGHTED[op]
        return len(weight) > dim and weight[dim] is not None and not keep[weight[dim]].all()
    lost = [_lost(network.labels.get(source.name, ()), keep) for source in node.all_input_nodes]
    if op in _NORMS:
        return any(lost)
    left = _lost(network.labels.get(node.name, ()), keep)
    return any(units - left for units in lost)


def _lost(labels: Any, keep: npt.NDArray[np.bool_]) -> set[int]:
    """The pruned units that a value's dimensions hold."""
    found: set[int] = set()
    for label in labels:
        if isinstance(label, tuple):
            found |= _lost(label, keep)
        elif label is not None and not keep[label].all():
            found.update(label[~keep[label]].tolist())
    return found
