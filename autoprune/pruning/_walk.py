"""Running an exported graph layer by layer, on all batches at once.

`torch.fx.Interpreter` runs one batch through the whole graph. Here each node is run on every
batch before the next one, so that a layer can be changed, by what all batches show at its input,
before anything behind it is computed: one forward pass in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from autoprune.core.errors import SurgeryError
from autoprune.pruning._activations import LIVE_BYTES, Activations
from autoprune.pruning._batches import Call, flat_inputs
from autoprune.pruning._sites import Rewrite, Scaled, arguments_of
from autoprune.pruning.empty import call

#: Finds a parameter or buffer by its dotted name.
Lookup = Callable[[str], Tensor]


def lookup(model: nn.Module) -> Lookup:
    """Parameters and buffers of a module by dotted name, looked up when asked for."""

    def find(name: str) -> Tensor:
        path, _, attribute = name.rpartition(".")
        value = getattr(model.get_submodule(path), attribute)
        if not isinstance(value, Tensor):
            raise AttributeError(f"{name} is a {type(value).__name__}, not a tensor")
        return value

    return find


def tensor_names(program: ExportedProgram) -> dict[str, str]:
    """Placeholder → dotted name of the parameter or buffer it stands for."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


class Walk:
    """Runs the nodes of an exported graph one by one, each on all batches.

    Values are dropped after their last use. The live activations of all batches are held in memory
    up to a limit; beyond it, those that are read last wait in a temporary file.

    Args:
        program: gives the signature and the constants.
        nodes: what to run, in an order in which inputs come first.
        tensors: parameters and buffers by dotted name, looked up anew at each use.
        calls: the batches.
        rewrites: node → its constants in a pruned network.
        looks: node → another one whose value is looked at before the node is run.
        limit: bytes of activations held in memory, beside those of a single batch that one op
            reads and gives; None holds all, as gradients need it.
    """

    def __init__(
        self,
        program: ExportedProgram,
        nodes: Sequence[fx.Node],
        tensors: Lookup,
        calls: Sequence[Call],
        rewrites: Mapping[str, Rewrite] | None = None,
        looks: Mapping[fx.Node, fx.Node] | None = None,
        limit: int | None = LIVE_BYTES,
    ) -> None:
        self._looks = looks or {}
        self._program = program
        self._nodes = nodes
        self._rewrites = rewrites or {}
        self._tensors = tensors
        self._names = tensor_names(program)
        self._constants = program.graph_signature.inputs_to_lifted_tensor_constants
        self._inputs = [flat_inputs(program, call) for call in calls]
        uses: dict[str, list[int]] = {}
        for index, node in enumerate(nodes):
            for source in self._reads(node):
                uses.setdefault(source.name, []).append(index)
        self._last = {name: indices[-1] for name, indices in uses.items()}
        self._values = Activations(uses, limit)

    @property
    def peak(self) -> int:
        """The most bytes of activations that were in memory at a time; 0 without a limit."""
        return self._values.peak

    def run(
        self,
        before: Callable[[fx.Node], None] | None = None,
        after: Callable[[fx.Node], None] | None = None,
    ) -> None:
        """Run every node whose value is read by a later one, or that `after` may look at.

        Args:
            before: called with each node when what it reads is there, before it is run.
            after: called with each node when its value is there; what it read may be gone.

        Raises:
            SurgeryError: the graph can't be run on these batches, or the temporary file can't be
                written.
        """
        try:
            for index, node in enumerate(self._nodes):
                self._values.now = (index, -1)
                if before is not None:
                    before(node)
                done = [n.name for n in self._reads(node) if self._last[n.name] == index]
                if after is not None or node.name in self._last:
                    self._run(node, done)
                if after is not None:
                    after(node)
                for name in done if node.name in self._last else [*done, node.name]:
                    self._values.drop(name)
        finally:
            self._values.close()

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        look = self._looks.get(node)
        return node.all_input_nodes if look is None else [*node.all_input_nodes, look]

    def values(self, node: fx.Node) -> Iterator[Any]:
        """The node's value for each batch; each is to be used before the next one is taken."""
        for batch in range(len(self._inputs)):
            yield self.value(node, batch)

    def value(self, node: fx.Node, batch: int) -> Any:
        """The node's value for a batch, to be used before any other is asked for."""
        (found,) = self._loaded([node], batch)
        return found

    def _loaded(self, nodes: Sequence[fx.Node], batch: int) -> list[Any]:
        for node in nodes:
            if node.name not in self._values and node.op in ("placeholder", "get_attr"):
                self._run(node)
        return self._values.get([(node.name, batch) for node in nodes])

    def argument(self, node: fx.Node, name: str, default: Any = None) -> Any:
        """A constant argument of a node, as it is in the pruned network."""
        rewrite = self._rewrites.get(node.name)
        if rewrite is not None and name in rewrite.changes:
            return rewrite.changes[name][1]
        return arguments_of(node).get(name, default)

    def call(self, node: fx.Node, replaced: Mapping[str, Any], batch: int = 0) -> Any:
        """Run one node on a batch, with other values for some of its inputs; not remembered.

        Raises:
            SurgeryError: it can't be run on these batches.
        """
        sources = [n for n in node.all_input_nodes if n.name not in replaced]
        known = {n.name: v for n, v in zip(sources, self._loaded(sources, batch), strict=True)}
        known.update(replaced)
        target, args, kwargs = _prepared(node, self._rewrites.get(node.name))
        args, kwargs = _filled(args, known), _filled(kwargs, known)
        try:
            return call(target, args, kwargs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SurgeryError(
                f"the traced graph must run on the calibration batches, but {node.name} "
                f"({node.target}) said: {said}. Give batches shaped like the example inputs "
                "(the number of samples may differ)"
            ) from error

    def _run(self, node: fx.Node, done: Sequence[str] = ()) -> None:
        """Run a node on all batches, and drop the values of those that are then done with."""
        if node.op == "placeholder":
            self._values.give(node.name, self._placeholder(node))
        elif node.op == "get_attr":
            owner: Any = self._program.graph_module
            for part in str(node.target).split("."):
                owner = getattr(owner, part)
            self._values.give(node.name, [owner] * len(self._inputs))
        elif node.op == "call_function":
            for batch in range(len(self._inputs)):
                self._values.now = (self._values.now[0], batch)
                self._values.put(node.name, batch, self.call(node, {}, batch))
                for name in done:
                    self._values.drop(name, batch)

    def _placeholder(self, node: fx.Node) -> list[Any]:
        if node.name in self._names:
            return [self._tensors(self._names[node.name])] * len(self._inputs)
        if node.name in self._constants:
            return [self._program.constants[self._constants[node.name]]] * len(self._inputs)
        return [inputs[node.name] for inputs in self._inputs]


def _prepared(node: fx.Node, rewrite: Rewrite | None) -> tuple[Any, Any, Any]:
    """What a node calls, with the constants of a pruned network."""
    if rewrite is None:
        return node.target, node.args, node.kwargs
    new = {name: value for name, (_, value) in rewrite.changes.items()}
    if rewrite.target is not None:
        return rewrite.target, node.args[:1], new
    return node.target, (), {**arguments_of(node), **new}


def _filled(argument: Any, value: Mapping[str, Any]) -> Any:
    """An argument with values for nodes, in plain lists (some ops refuse fx's immutable ones)."""
    if isinstance(argument, fx.Node):
        return value[argument.name]
    if isinstance(argument, Scaled):
        return value[argument.node.name] * argument.numerator // argument.denominator
    if isinstance(argument, list):
        return [_filled(entry, value) for entry in argument]
    if isinstance(argument, tuple):
        return tuple(_filled(entry, value) for entry in argument)
    if isinstance(argument, dict):
        return {key: _filled(entry, value) for key, entry in argument.items()}
    return argument


def ancestors(targets: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes and everything they are computed from."""
    found: set[fx.Node] = set()
    stack = list(targets)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found
