"""The symbolic kernels of a traced network."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from autoprune.core.workload import Buffer, Kernel, KernelGraph, Shape
from autoprune.graph.export import Export
from autoprune.graph.groups import Units
from autoprune.graph.liveness import Liveness
from autoprune.graph.macs import Operand, macs
from autoprune.graph.names import layer_of
from autoprune.graph.network import Labels
from autoprune.graph.ops import canonical, settings
from autoprune.graph.propagate import Propagation, bind, named, op_name, storage
from autoprune.graph.sizes import Sizes
from autoprune.graph.values import Value


def kernel_graph(
    exported: Export, found: Propagation, units: Units, parameters: dict[str, Labels]
) -> KernelGraph:
    """Every op with its symbolic shapes, and every tensor that takes memory."""
    builder = _Builder(exported, found, units, Sizes(units))
    kernels, activations = builder.kernels()
    stored = builder.parameters(parameters)
    base, weight = builder.sizes.table()
    return KernelGraph(
        groups=tuple(name for name, _ in units.groups),
        units=np.array([count for _, count in units.groups], dtype=np.int64),
        base=base,
        weight=weight,
        kernels=kernels,
        activations=activations,
        parameters=stored,
        batch=exported.batch,
    )


@dataclass(frozen=True, eq=False)
class _Builder:
    exported: Export
    found: Propagation
    units: Units
    sizes: Sizes

    def kernels(self) -> tuple[tuple[Kernel, ...], tuple[Buffer, ...]]:
        kernels: list[Kernel] = []
        live = Liveness()
        for node in self.exported.program.graph.nodes:
            value = self.found.values.get(node.name)
            if node.op == "output":
                live.output(node, len(kernels))
            elif value is None or node.name in self.found.sources:
                continue
            elif node.op == "placeholder":
                live.input(node)
            elif node.target is operator.getitem:
                live.item(node)
            else:
                live.call(node, len(kernels))
                kernels.append(self.kernel(node))
        buffers = []
        for node, first, last in live.spans():
            for name, shape, itemsize in self.tensors(node):
                buffers.append(Buffer(name, shape, itemsize, first, last))
        return tuple(kernels), tuple(buffers)

    def tensors(self, node: fx.Node) -> list[tuple[str, Shape, int]]:
        """Name, rows and bytes an element of the outputs of a node."""
        value, meta = self.found.values[node.name], node.meta["val"]
        if isinstance(value, Value):
            return [(node.name, self.rows(value), meta.element_size())]
        metas = [item for item in meta if isinstance(item, torch.Tensor)]
        return [
            (f"{node.name}.{i}", self.rows(item), m.element_size())
            for i, (item, m) in enumerate(zip(value, metas, strict=True))
        ]

    def rows(self, value: Value) -> Shape:
        return self.sizes.shape(value.shape, self.units.labels(value.labels))

    def operand(self, node: fx.Node) -> Any:
        value = self.found.values.get(node.name)
        if isinstance(value, Value):
            return Operand(self.rows(value), value.shape)
        if isinstance(value, list):
            return [Operand(self.rows(item), item.shape) for item in value]
        return self.exported.size(node.meta.get("val"))

    def kernel(self, node: fx.Node) -> Kernel:
        value = self.found.values[node.name]
        output = value[0] if isinstance(value, list) else value
        rows = Operand(self.rows(output), output.shape)
        args = bind(node, self.operand)
        name = op_name(node)
        inputs, params, reads = [], [], []
        for source in node.all_input_nodes:
            given = self.found.values.get(source.name)
            if given is None:
                continue
            if source.name in self.found.sources:
                params.append(self.found.sources[source.name])
                continue
            items = given if isinstance(given, list) else [given]
            inputs += [self.rows(item) for item in items]
            maker = _maker(source)
            if maker.op != "placeholder":
                reads.append(maker.name)
        group = self.found.groups.get(node.name)
        return Kernel(
            name=node.name,
            layer=layer_of(node),
            op=canonical(name, args),
            inputs=tuple(inputs),
            output=rows.rows,
            params=tuple(params),
            attrs=settings(args),
            groups=None if group is None else self.group_row(group),
            macs=macs(name, args, rows),
            reads=tuple(dict.fromkeys(reads)),
        )

    def group_row(self, group: np.ndarray) -> int:
        labels = self.units.labels((group,))
        return self.sizes.row(len(group), labels[0])

    def parameters(self, labels: dict[str, Labels]) -> tuple[Buffer, ...]:
        model = self.exported.model
        trainable = dict(model.named_parameters(remove_duplicate=False))
        seen = set()
        buffers = []
        for name, label in labels.items():
            tensor = named(model, name)
            if tensor is None or storage(tensor) in seen:
                continue
            seen.add(storage(tensor))
            shape = self.sizes.shape(tuple(tensor.shape), label)
            itemsize = tensor.element_size()
            buffers.append(Buffer(name, shape, itemsize, trainable=name in trainable))
        return tuple(buffers)


def _maker(node: fx.Node) -> fx.Node:
    """The node that made a value: `getitem` only picks one of its outputs."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node
