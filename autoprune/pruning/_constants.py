"""Constants of a graph that a selection changes: sizes in reshapes, splits, slices, pads, ...

`torch.export` writes every static size into the graph. Each rule below works one op's constants
out anew, from the labels of its input and output: how many of the indices that a constant stood
for are kept.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import fx

from autoprune.graph.network import Network
from autoprune.pruning._rules import RULES
from autoprune.pruning._sites import Keep, Rewrite, Site, arguments_of, one_tensor, op_name

__all__ = ["Rewrite", "arguments_of", "find_sites", "op_name", "rewrites"]


def rewrites(network: Network, keep: Keep) -> list[Rewrite]:
    """Every change of a constant that a selection makes necessary (`keep` of `Network.keep`).

    Raises:
        SurgeryError: a constant can't be worked out, which is a mistake in a coupling rule.
    """
    sites = _SITES.get(network)
    if sites is None:
        sites = _SITES[network] = find_sites(network)
    return [found for site in sites if (found := site.rewrite(keep)) is not None]


_SITES: WeakKeyDictionary[Network, list[Site]] = WeakKeyDictionary()


def find_sites(network: Network) -> list[Site]:
    """Every node with constants that some selection may change."""
    sites = []
    for node in network.program.graph.nodes:
        rule = RULES.get(op_name(node)) if node.op == "call_function" else None
        if rule is None:
            continue
        arguments = arguments_of(node)
        first = next((a for a in _flat(arguments.values()) if isinstance(a, fx.Node)), None)
        inputs = network.labels.get(first.name, ()) if first is not None else ()
        output = network.labels.get(node.name, ())
        if _labelled(inputs) or _labelled(output):
            sites.append(Site(node, arguments, one_tensor(inputs), output, network.labels, rule))
    return sites


def _flat(values: Any) -> Any:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _labelled(labels: Any) -> bool:
    return any(
        _labelled(entry) if isinstance(entry, tuple) else entry is not None for entry in labels
    )
