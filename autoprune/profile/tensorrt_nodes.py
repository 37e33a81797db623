"""Which of a network's layers each layer of a TensorRT engine covers.

TensorRT fuses layers and names what comes out after them ("conv1 + relu1"), or after nothing that
the network has ("__myl_MulAdd_myl0_9"). The engine's inspector tells the ONNX nodes of each as
metadata ("[ONNX Layer: conv1]"); where it tells none, they are read from the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoprune.core.device import KernelTime
from autoprune.profile.onnx_layers import STAMP
from autoprune.profile.tensorrt_layers import LayerInfo, LayerTime

_METADATA = re.compile(r"\[ONNX Layer: (.+?)\](?=\s*(?:\[|[\x1e\x1f]|$))")
_RANGE = re.compile(r"^\{?ForeignNode\[(.+?)\.\.\.(.+?)\]\}?$")
_MYELIN = re.compile(r"_myl\d+_\d+$")
_REFORMAT = re.compile(r"^(Reformatting|shuffle|copy)", re.I)

#: ONNX ops whose kind the cost of a kernel depends on, before what is fused into it.
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Attention")


class OnnxNodes:
    """The nodes of the network that was built, by name, in order.

    Args:
        onnx: the serialised model, its nodes named and stamped (see `onnx_layers.stamp`).
    """

    def __init__(self, onnx: bytes) -> None:
        import onnx as package

        graph = package.load_from_string(onnx).graph
        self._order = {node.name: number for number, node in enumerate(graph.node)}
        self._names = list(self._order)
        self._ops = {node.name: str(node.op_type) for node in graph.node}
        self._layers = {
            node.name: str(entry.value)
            for node in graph.node
            for entry in node.metadata_props
            if entry.key == STAMP
        }

    def covered(self, info: LayerInfo) -> list[str]:
        """Names of the nodes that a layer of the engine covers, in the network's order."""
        found = {name.strip() for name in _METADATA.findall(info.metadata)}
        if not found and not _REFORMAT.match(info.name):
            plain = _MYELIN.sub("", info.name).replace("PWN(", "")
            for part in re.split(r" \+ | \|\| |, ", plain):
                found |= self._part(part.strip())
        return sorted(found & self._order.keys(), key=self._order.__getitem__)

    def _part(self, text: str) -> set[str]:
        """Nodes of one part of a fused name."""
        match = _RANGE.match(text)
        if match and {*match.groups()} <= self._order.keys():
            first, last = (self._order[name] for name in match.groups())
            return set(self._names[min(first, last) : max(first, last) + 1])
        return {text, text.rstrip(")")}

    def kernel(self, info: LayerInfo, name: str, latency_ms: float) -> KernelTime:
        """A layer of the engine with its time, told in layers of the network."""
        nodes = self.covered(info)
        heavy = [self._ops[node] for node in nodes if self._ops[node] in _HEAVY]
        layers = dict.fromkeys(self._layers[node] for node in nodes if node in self._layers)
        return KernelTime(
            name=name,
            layers=tuple(layers),
            op=heavy[0] if heavy else info.type or "unknown",
            latency_ms=latency_ms,
            input_shapes=info.input_shapes,
            output_shapes=info.output_shapes,
        )


def kernels(times: Iterable[LayerTime], nodes: OnnxNodes, scale: float) -> tuple[KernelTime, ...]:
    """The layers of an engine as kernels of a network.

    Args:
        times: of the engine's layers.
        nodes: of the network that was built.
        scale: what to multiply times by.
    """
    return tuple(nodes.kernel(each.info, each.name, each.ms * scale) for each in times)
