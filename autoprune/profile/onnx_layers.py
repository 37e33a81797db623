"""Which of a network's layers a runtime's fused node covers."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

#: What a node is told by which layer it came from, before a network is turned into another
#: precision and its weights stand behind casts.
STAMP = "autoprune.layer"

#: What onnxruntime puts after the name of a node that it wrote anew.
_NUMBER = re.compile(r"_token_\d+$")


def stamp(graph: Any) -> None:
    """Give every node of an `onnx.GraphProto` a name of its own, and the layer it came from."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for number, node in enumerate(graph.node):
        layer = layer_of(node)
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
        taken.add(node.name)
        seen.add(node.name)
        entry = node.metadata_props.add()
        entry.key, entry.value = STAMP, layer


def layer_of(node: Any) -> str:
    """The layer that an ONNX node came from.

    Args:
        node: an `onnx.NodeProto` as `torch.onnx.export` writes them, or as `stamp` left it.

    Returns:
        The dotted path of the module whose weights it reads, where it reads any; else the name
        of the graph node it came from ("relu_3"); else the ONNX node's own name.
    """
    for entry in node.metadata_props:
        if entry.key == STAMP:
            return str(entry.value)
    for name in node.input:
        path, _, leaf = name.rpartition(".")
        if path and leaf in ("weight", "in_proj_weight"):
            return str(path)
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            if isinstance(scopes, list) and scopes:
                return str(scopes[-1])
    return str(node.name or node.output[0])


@dataclass(frozen=True)
class FusedLayers:
    """Node of an optimised graph → the layers it covers."""

    table: dict[str, tuple[str, ...]]

    def layers(self, name: str) -> tuple[str, ...]:
        """Layers that a node covers, in order; () where that is not known."""
        return self.table.get(name, ())

    @classmethod
    def of(cls, original: bytes, optimised: bytes) -> FusedLayers:
        """Compare a graph with what the runtime made of it.

        Fusion and layout passes rename nodes but keep the names of most tensors, so a fused node
        covers what lies in the original graph between its output and its inputs. A tensor that a
        layout pass made is called by the original tensor it is a copy of.

        Args:
            original: the serialised ONNX model.
            optimised: the optimised graph as the runtime wrote it, with or without its weights;
                b"" where it wrote none: then no node's layers are known.
        """
        if not optimised:
            return cls({})
        import onnx

        before = onnx.load_from_string(original).graph
        after = onnx.load_from_string(optimised).graph
        original_graph = _Graph(before)
        alias: dict[str, str] = {}
        table: dict[str, tuple[str, ...]] = {}
        taken: set[str] = set()
        for node in after.node:
            sources = {alias.get(name, name) for name in node.input}
            outputs = [original_graph.called(output, node) for output in node.output if output]
            if not any(outputs) and node.op_type in ("ReorderInput", "ReorderOutput", "Transpose"):
                outputs = [next(iter(sources))] if len(sources) == 1 else outputs
            alias.update({n: o for n, o in zip(node.output, outputs, strict=False) if o})
            made = [o for o in outputs if o]
            table[node.name] = original_graph.between(sources, made, taken)
        return cls(table)


class _Graph:
    """The original graph: who makes and who reads each tensor."""

    def __init__(self, graph: Any) -> None:
        self.makers = {output: node for node in graph.node for output in node.output}
        self.named = {node.name: str(node.output[0]) for node in graph.node if node.name}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def called(self, output: str, node: Any) -> str:
        """The original tensor that an output of a node of the optimised graph is, or ""."""
        if output in self.makers:
            return output
        tensor = str(node.name).removesuffix("_nchwc")
        if tensor not in self.makers:
            # A node whose tensor was renamed keeps its own name, but for a number.
            return self.named.get(_NUMBER.sub("", str(node.name)), "")
        # A blocked convolution is named after its own output; what it adds (its fourth input)
        # and its activation were fused into it without renaming it.
        if len(node.input) == 4:
            tensor = self._only_reader(tensor, "Add")
        activation = [a.s.decode() for a in node.attribute if a.name == "activation"]
        if activation and self.makers[tensor].op_type != activation[0]:
            tensor = self._only_reader(tensor, activation[0])
        return tensor

    def _only_reader(self, tensor: str, op: str) -> str:
        """The output of the one node that reads a tensor, where that is such an op."""
        readers = self.readers.get(tensor, [])
        if len(readers) == 1 and readers[0].op_type == op:
            return str(readers[0].output[0])
        return tensor

    def between(self, sources: set[str], outputs: list[str], taken: set[str]) -> tuple[str, ...]:
        """Layers of the nodes between sources and outputs, each node taken once, in order."""
        found: dict[str, None] = {}
        waiting = [o for o in outputs if o not in sources]
        while waiting:
            node = self.makers.get(waiting.pop())
            if node is None or node.output[0] in taken:
                continue
            taken.add(node.output[0])
            found.setdefault(layer_of(node))
            waiting += [name for name in node.input if name not in sources]
        return tuple(reversed(found))
