"""The walk over the graph that applies the rules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from autoprune.core.errors import UnsupportedOpError
from autoprune.core.workload import Ints
from autoprune.graph.atoms import Atoms
from autoprune.graph.export import Export
from autoprune.graph.names import layer_of
from autoprune.graph.network import Labels
from autoprune.graph.rules import Op, find
from autoprune.graph.statistics import normalising
from autoprune.graph.values import Value, inert


@dataclass(frozen=True, eq=False)
class Propagation:
    """What the walk found.

    Attributes:
        atoms: and the constraints between them.
        values: graph node name → its output, or a list of outputs.
        parameters: name of a parameter or buffer in the graph → its labels.
        sources: placeholder node name → name of the parameter or buffer.
        cuts: see `Op.cuts`.
        groups: node name of a grouped convolution → labels of its groups.
    """

    atoms: Atoms
    values: dict[str, Value | list[Value]]
    parameters: dict[str, Labels]
    sources: dict[str, str]
    cuts: list[Ints]
    groups: dict[str, Ints]


@dataclass(eq=False)
class _Walk:
    export: Export
    strict: bool
    atoms: Atoms = field(default_factory=Atoms)
    known: dict[fx.Node, Any] = field(default_factory=dict)
    parameters: dict[str, Labels] = field(default_factory=dict)
    owners: dict[int, tuple[str, ...]] = field(default_factory=dict)
    holders: dict[Any, list[str]] = field(default_factory=dict)
    tied: dict[Any, str] = field(default_factory=dict)
    cuts: list[Ints] = field(default_factory=list)
    groups: dict[str, Ints] = field(default_factory=dict)
    statistics: frozenset[str] = frozenset()

    def placeholder(self, node: fx.Node, kind: InputKind, target: str | None) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return self.export.size(value)
        shape = self.shape(value)
        if target is not None and kind == InputKind.CONSTANT_TENSOR:
            return replace(inert(shape), known=self.constant(target))
        if target is None or kind not in (InputKind.PARAMETER, InputKind.BUFFER):
            return inert(shape)
        labels = self.parameters.get(self.same(target))
        if labels is None:
            labels = tuple(None if n == 1 else self.atoms.fresh(n) for n in shape)
            for label in labels:
                if label is not None and len(label):
                    self.owners[int(label[0])] = self.layers(target)
        self.parameters[target] = labels
        return Value(shape, labels, weight=True)

    def constant(self, target: str) -> Ints | None:
        """A list of integers that forward writes out."""
        tensor = self.export.program.constants.get(target)
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 1 or tensor.dtype != torch.int64:
            return None
        return tensor.detach().cpu().numpy()

    def layers(self, target: str) -> tuple[str, ...]:
        """The layers that hold a tensor, the one of this name first."""
        if not self.holders:
            for name, tensor in self.export.model.named_parameters(remove_duplicate=False):
                self.holders.setdefault(storage(tensor), []).append(name)
        held = named(self.export.model, target)
        names = [target, *self.holders.get(None if held is None else storage(held), [])]
        return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in names))

    def same(self, target: str) -> str:
        """The first name seen of the tensor that a name stands for."""
        tensor = named(self.export.model, target)
        key = storage(tensor) if tensor is not None else target
        return self.tied.setdefault(key, target)

    def shape(self, value: torch.Tensor) -> tuple[int, ...]:
        return tuple(int(self.export.size(size)) for size in value.shape)

    def call(self, node: fx.Node) -> Any:
        meta = node.meta.get("val")
        if node.target is operator.getitem:
            return self.known[node.args[0]][node.args[1]]  # type: ignore[index]
        shapes = [self.shape(value) for value in _outputs(meta)]
        if not shapes:
            return self.export.size(meta)
        values = self.apply(node, shapes)
        return values if isinstance(meta, list | tuple) else values[0]

    def apply(self, node: fx.Node, shapes: list[tuple[int, ...]]) -> list[Value]:
        name = op_name(node)
        given = bind(node, lambda n: self.known[n])
        op = Op(name, layer_of(node), given, tuple(shapes), self.atoms, owners=self.owners)
        op.normalises = node.name in self.statistics
        function = find(name) or (find(name[:-1]) if name.endswith("_") else None)
        if function is None:
            live = [value for value in op.tensors() if value.live()]
            if live and self.strict:
                raise UnsupportedOpError(
                    f"every op must have a coupling rule with strict=True; {op.where()} has none. "
                    "Trace with strict=False to freeze what reaches it"
                )
            for value in live:
                op.freeze_all(value, f"the op {op.where()} has no coupling rule")
            return [inert(shape) for shape in shapes]
        result = function(op)
        self.cuts += [cut for cut in op.cuts if len(cut)]
        if op.groups is not None:
            self.groups[node.name] = op.groups
        results = result if isinstance(result, list) else [result]
        if name in ("lift_fresh_copy", "lift_fresh"):
            return [replace(op.first, labels=results[0])]
        return [
            Value(shape, labels, weight=op.weight)
            for shape, labels in zip(shapes, results, strict=True)
        ]

    def output(self, node: fx.Node) -> None:
        for leaf in node.all_input_nodes:
            value = self.known[leaf]
            for tensor in value if isinstance(value, list) else [value]:
                if isinstance(tensor, Value):
                    for label in tensor.live():
                        self.atoms.freeze(label, "it is an output of the network")


def propagate(export: Export, strict: bool = False) -> Propagation:
    """Label every tensor of a graph.

    Raises:
        UnsupportedOpError: an op has no rule, with `strict`.
    """
    walk = _Walk(export, strict, statistics=normalising(export.program.graph))
    specs = {spec.arg.name: spec for spec in export.program.graph_signature.input_specs}
    sources: dict[str, str] = {}
    for node in export.program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            walk.known[node] = walk.placeholder(node, spec.kind, spec.target)
            if spec.target is not None and node.meta.get("val") is not None:
                sources[node.name] = spec.target
        elif node.op == "output":
            walk.output(node)
        elif node.op == "call_function":
            walk.known[node] = walk.call(node)
        else:
            walk.known[node] = None
    values = {n.name: v for n, v in walk.known.items() if isinstance(v, Value | list)}
    return Propagation(walk.atoms, values, walk.parameters, sources, walk.cuts, walk.groups)


def op_name(node: fx.Node) -> str:
    """An op's name without namespace and overload; a dotted namespace other than aten is kept."""
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, name = node.target._schema.name.split("::")
        return name if namespace == "aten" else f"{namespace}.{name}"
    return str(getattr(node.target, "__name__", node.target))


def bind(node: fx.Node, value: Callable[[fx.Node], Any]) -> dict[str, Any]:
    """A node's arguments by the names of its op's schema, defaults filled in."""
    args = fx.map_arg(node.args, value)
    kwargs = fx.map_arg(node.kwargs, value)
    if not isinstance(node.target, torch._ops.OpOverload):
        return {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    bound: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[index]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def named(model: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter or buffer of a model by its dotted name."""
    path, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(path), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, torch.Tensor) else None


def storage(tensor: torch.Tensor) -> Any:
    """Equal for tensors that share their memory as a whole."""
    if tensor.numel() == 0 or tensor.is_meta:
        return id(tensor)
    return (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.device)


def _outputs(meta: Any) -> Iterator[torch.Tensor]:
    if isinstance(meta, torch.Tensor):
        yield meta
    elif isinstance(meta, list | tuple):
        for item in meta:
            if isinstance(item, torch.Tensor):
                yield item
