"""A network as its traced graph: used where the user's own forward hard-codes a width."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from autoprune.core.errors import SurgeryError
from autoprune.graph.network import Network
from autoprune.pruning._batches import recut
from autoprune.pruning._leaves import leaf_of, own_tensors
from autoprune.pruning._sites import Rewrite, Scaled, arguments_of, module_stack, op_name

#: Makes the node that stands for one of the traced graph; None leaves it as it is.
Replace = Callable[[fx.Graph, fx.Node, Callable[[fx.Node], fx.Node]], fx.Node | None]

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")

#: Ops with an argument that says whether the network is being trained.
_TRAINING = {
    "batch_norm": "training",
    "instance_norm": "use_input_stats",
    "lstm": "train",
    "gru": "train",
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), "train"
    ),
    **dict.fromkeys(("dropout_", "feature_dropout_", "alpha_dropout_"), "train"),
}


class GraphNetwork(nn.Module):
    """Runs a traced graph on the submodules, parameters and buffers of a copy of the model.

    Parameters, buffers and submodules have the names that they have in the model, so it trains,
    is saved and is looked through like it. It takes the same inputs as the example inputs it was
    traced with, at any batch size (in parts, where the graph takes a fixed one), positional or by
    keyword, and gives the same structure. Convolutions, linear layers, norms, embeddings and
    dropout that are modules of `torch.nn` are called as modules, so that their hooks and their
    training mode work; dropout and BatchNorm called as functions follow the training mode of the
    module that calls them. Dropout inside `scaled_dot_product_attention` stays off, as it was
    traced.

    Attributes:
        autoprune_note: why the network is a graph, in words.
        code: the Python source that runs.
        autoprune_inputs: names of the tensors it takes, as the dense network's forward calls them.
    """

    def __init__(
        self,
        network: Network,
        source: nn.Module,
        rewrites: Mapping[str, Rewrite],
        replace: Replace | None = None,
        note: str = "",
        constants: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Make one.

        Args:
            network: the traced network.
            source: a copy of its model with the tensors to use; its submodules are taken over.
            rewrites: node name → new constants.
            replace: makes other nodes for some of the graph's.
            note: why the network is a graph.
            constants: name → tensor that takes the place of a constant in the graph.

        Raises:
            SurgeryError: the graph holds something that can't be run outside of an exported
                program.
        """
        super().__init__()
        for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[table] = getattr(source, table).copy()
        self.training = source.training
        self.autoprune_note = note
        builder = _Builder(self, network, rewrites, replace, constants or {})
        graph = builder.build()
        code = graph.python_code("self")
        self.code: str = code.src
        names: dict[str, Any] = dict(code.globals)
        exec(compile(code.src, "<autoprune graph>", "exec"), names)
        self._run: Callable[..., Any] = names["forward"]
        call = network.program.call_spec
        self._in_spec, self._out_spec = call.in_spec, call.out_spec
        self.autoprune_inputs = _input_names(network)
        self._batch = network.fixed_batch
        self._positional = len(network.example_inputs)
        self._keywords = tuple(network.example_kwargs)
        self._signature = inspect.signature(network.model.forward)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Raises:
            TypeError: the inputs' structure is not that of the example inputs.
        """
        args, kwargs = self._bind(args, kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self._in_spec:
            raise TypeError(
                f"the inputs must have the structure of the example inputs, {self._in_spec}; "
                f"got {spec}"
            )
        return pytree.tree_unflatten(self._outputs(leaves), self._out_spec)

    def _outputs(self, leaves: list[Any]) -> list[Any]:
        """What the graph gives; in parts and together again where it takes a fixed batch."""
        first = next((x for x in leaves if isinstance(x, Tensor) and x.ndim), None)
        if self._batch is None or first is None or len(first) == self._batch:
            return list(self._run(self, *leaves))
        parts = [self._run(self, *part) for part in recut([leaves], self._batch)]
        return [
            torch.cat(values)[: len(first)]
            if isinstance(values[0], Tensor) and values[0].shape[:1] == (self._batch,)
            else values[0]
            for values in zip(*parts, strict=True)
        ]

    def _bind(self, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as they were given when tracing: by position or by keyword."""
        if len(args) == self._positional and tuple(kwargs) == self._keywords:
            return args, kwargs
        bound = self._signature.bind(*args, **kwargs)
        kinds = {p.kind for p in self._signature.parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            return args, {k: kwargs[k] for k in self._keywords if k in kwargs}
        bound.apply_defaults()
        values = dict(bound.arguments)
        names = list(self._signature.parameters)[: self._positional]
        positional = tuple(values.pop(name) for name in names)
        keywords = {name: values.pop(name) for name in self._keywords}
        for name, value in values.items():
            default = self._signature.parameters[name].default
            if value is not default and value != default:
                raise TypeError(
                    f"input {name!r} was not among the example inputs, so the traced graph can't "
                    "take it; trace with it, or leave it out"
                )
        return positional, keywords

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphNetwork:
        for constant in (self._in_spec, self._out_spec, self._signature):
            memo[id(constant)] = constant  # never changed, so shared
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def extra_repr(self) -> str:
        """The note, in the printed module."""
        return self.autoprune_note


class _Builder:
    """Builds the graph of a `GraphNetwork` from an exported program."""

    def __init__(
        self,
        holder: GraphNetwork,
        network: Network,
        rewrites: Mapping[str, Rewrite],
        replace: Replace | None,
        constants: Mapping[str, Tensor],
    ) -> None:
        self.holder = holder
        self.program = network.program
        self.rewrites = rewrites
        self.replace = replace
        self.constants = constants
        self.graph = fx.Graph()
        self.map: dict[fx.Node, fx.Node] = {}
        specs = network.program.graph_signature.input_specs
        self.targets = {spec.arg.name: spec for spec in specs}

    def build(self) -> fx.Graph:
        """Copy every node, parameters and buffers taken from the holder."""
        inputs = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node in inputs:  # placeholders come first in a graph's code
            if self.targets[node.name].kind == InputKind.USER_INPUT:
                self.map[node] = self.graph.placeholder(node.name)
        for node in self.program.graph.nodes:
            if node.op == "output":
                self._output(node)
            elif node not in self.map and not self._is_check(node):
                self.map[node] = self._node(node)
        for node in reversed(self.graph.nodes):
            if (not node.users and node.op in ("get_attr", "call_module")) or _is_idle(node):
                self.graph.erase_node(node)
        return self.graph

    def _is_check(self, node: fx.Node) -> bool:
        return op_name(node) in _CHECKS

    def _node(self, node: fx.Node) -> fx.Node:
        if node.op == "placeholder":
            return self._tensor(node)
        if node.op == "get_attr":
            target = str(node.target)
            part = getattr(self.program.graph_module, target)
            if not hasattr(self.holder, target):
                self.holder.add_module(target, part)
            return self.graph.get_attr(target)
        if self.replace is not None:
            replaced = self.replace(self.graph, node, self.map.__getitem__)
            if replaced is not None:
                return replaced
        return self._leaf(node) or self._call(node)

    def _tensor(self, node: fx.Node) -> fx.Node:
        spec = self.targets[node.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            return self.graph.get_attr(str(spec.target))
        if spec.kind == InputKind.CONSTANT_TENSOR:
            name = "constant_" + str(spec.target).replace(".", "_")
            value = self.constants.get(str(spec.target))
            if value is None:
                value = self.program.constants[str(spec.target)].detach().clone()
            self.holder.register_buffer(name, value, persistent=False)
            return self.graph.get_attr(name)
        raise SurgeryError(
            f"the traced graph needs {node.name!r} ({spec.kind.name}), which only an exported "
            "program can hold; a network like this can only be pruned where its own forward "
            "hard-codes no width"
        )

    def _owner(self, node: fx.Node) -> tuple[str, nn.Module | None]:
        """The innermost module that a node ran in."""
        stack = module_stack(node)
        path = stack[-1][0] if stack else ""
        try:
            return path, self.holder.get_submodule(path)
        except AttributeError:
            return path, None

    def _leaf(self, node: fx.Node) -> fx.Node | None:
        """Call a module of torch.nn where the node is all that it does."""
        path, module = self._owner(node)
        op, position = leaf_of(module) if path and module is not None else ("", 0)
        if op_name(node) != op or not op:
            return None
        weights = [a for a in node.all_input_nodes if a.name in self.targets]
        tensors = [self.targets[a.name] for a in weights]
        named = [s for s in tensors if s.kind in (InputKind.PARAMETER, InputKind.BUFFER)]
        for spec in named:
            if self._resolve(str(spec.target)) not in own_tensors(module):
                return None
        return self.graph.call_module(path, (self.map[node.args[position]],))  # type: ignore[index]

    def _resolve(self, target: str) -> int:
        path, _, name = target.rpartition(".")
        return id(getattr(self.holder.get_submodule(path), name))

    def _call(self, node: fx.Node) -> fx.Node:
        rewrite = self.rewrites.get(node.name)
        changed = (
            {}
            if rewrite is None
            else {name: self._mapped(value) for name, (_, value) in rewrite.changes.items()}
        )
        new = self.graph.node_copy(node, self.map.__getitem__)
        if rewrite is not None and rewrite.target is not None:
            new.target = rewrite.target
            new.args = (new.args[0], *changed.values())
            new.kwargs = {}
        else:
            for name, value in changed.items():
                set_argument(new, name, value)
        self._training(node, new)
        return new

    def _mapped(self, value: Any) -> Any:
        """A value of the traced graph in this one: nodes exchanged, scaled sizes worked out."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._mapped(v) for v in value)
        if isinstance(value, Scaled):
            size = self.map[value.node]
            product = self.graph.call_function(operator.mul, (size, value.numerator))
            return self.graph.call_function(operator.floordiv, (product, value.denominator))
        return self.map.get(value, value) if isinstance(value, fx.Node) else value

    def _training(self, node: fx.Node, new: fx.Node) -> None:
        """Let an op follow the training mode of the module that called it."""
        argument = _TRAINING.get(op_name(node))
        if argument is None:
            return
        values = arguments_of(node)
        if values.get(argument) is not False:
            return
        path, module = self._owner(node)
        path = path if module is not None else ""
        flag = f"{path}.training" if path else "training"
        with self.graph.inserting_before(new):
            set_argument(new, argument, self.graph.get_attr(flag))

    def _output(self, node: fx.Node) -> None:
        results = []
        values: Any = node.args[0]
        specs = self.program.graph_signature.output_specs
        for spec, value in zip(specs, values, strict=True):
            mapped = self._mapped(value)
            if spec.kind == OutputKind.USER_OUTPUT:
                results.append(mapped)
            elif spec.kind == OutputKind.BUFFER_MUTATION:
                buffer = self.graph.get_attr(str(spec.target))
                self.graph.call_function(torch.ops.aten.copy_.default, (buffer, mapped))
            else:
                raise SurgeryError(
                    f"the traced graph has an output of kind {spec.kind.name}, which a graph "
                    "module can't have; the network must return what it computes"
                )
        self.graph.output(tuple(results))


def _input_names(network: Network) -> tuple[str, ...]:
    """Names of the tensors that the traced graph takes."""
    leaves = pytree.tree_leaves((network.example_inputs, dict(network.example_kwargs)))
    names = network.program.graph_signature.user_inputs
    pairs = zip(names, leaves, strict=False)
    return tuple(str(name) for name, leaf in pairs if isinstance(leaf, Tensor))


def _is_idle(node: fx.Node) -> bool:
    """Whether nothing uses a call's result and it changes nothing."""
    if node.op != "call_function" or node.users:
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or not schema.is_mutable


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set an ATen call's argument by its name in the op's schema."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    position = names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)
