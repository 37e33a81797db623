"""Regions that torch.export keeps as sub-graphs (`no_grad`, autocast off), inlined."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx
from torch.export import ExportedProgram

#: Higher-order op → (index of the sub-graph among its arguments).
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def inline_regions(program: ExportedProgram) -> None:
    """Replace each region by the nodes in it; an autocast region that is switched on stays."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        name = str(node.target)
        if node.op != "call_function" or name not in _REGIONS:
            continue
        if name == "wrap_with_autocast" and node.args[2] is True:
            continue
        place = _REGIONS[name]
        module = getattr(program.graph_module, node.args[place].target)
        inline_regions_of(module, program)
        _inline(graph, node, module.graph, node.args[place + 1 :])
    program.graph_module.recompile()


def inline_regions_of(module: fx.GraphModule, program: ExportedProgram) -> None:
    """The regions inside a region."""
    for node in list(module.graph.nodes):
        name = str(node.target)
        if node.op == "call_function" and name in _REGIONS:
            place = _REGIONS[name]
            inner = getattr(module, node.args[place].target)
            inline_regions_of(inner, program)
            _inline(module.graph, node, inner.graph, node.args[place + 1 :])


def _inline(graph: fx.Graph, node: fx.Node, region: fx.Graph, args: Any) -> None:
    known: dict[fx.Node, Any] = {}
    given = iter(args)
    results: Any = None
    with graph.inserting_before(node):
        for inner in region.nodes:
            if inner.op == "placeholder":
                known[inner] = next(given)
            elif inner.op == "output":
                results = fx.map_arg(inner.args[0], lambda n: known[n])
            else:
                known[inner] = graph.node_copy(inner, lambda n: known[n])
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        else:
            user.replace_input_with(node, results)
    graph.erase_node(node)
