"""Groups that can be removed whole: the branch adds nothing then, and the network lives without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from autoprune.graph.network import ChannelGroup, Labels

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
#: Element-wise ops of one tensor, which take an empty one.
_UNARY = frozenset(
    name + suffix
    for name in (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
        "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "clamp", "dropout",
        "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach", "alias",
    )
    for suffix in ("", "_")
)  # fmt: skip
#: Modules whose op autoprune can run without channels; subclasses may do anything.
_MODULES: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip


def removable(
    program: ExportedProgram,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    labels: Mapping[str, Labels | tuple[Labels, ...]],
) -> dict[str, tuple[str, ...]]:
    """The groups that may keep no unit at all, and what must be zero without them.

    Those are the inner channels of a branch: convolutions and linear layers make them, only
    BatchNorm, depthwise convolutions and element-wise functions lie between, and every layer that
    reads them reads nothing else and goes into a sum, BatchNorm or dropout between. And the
    network must still lead from its inputs to its outputs past those layers: the inner width of a
    residual block, the hidden width of a transformer's perceptron. (Veit et al. 2016, "Residual
    networks behave like ensembles of relatively shallow networks", show that a block can be taken
    out with little loss.)

    Without channels such a layer gives its bias, and BatchNorm makes a constant of its own of it.
    Set to zero, they leave the sum's other operand as it is, and a runtime has nothing to do.

    Args:
        program: the exported graph.
        model: the traced model, which tells what each layer is.
        groups: of the network.
        labels: graph node → labels of its output.

    Returns:
        Group → dotted names of the biases and running means behind it.
    """
    found: dict[str, tuple[str, ...]] = {}
    start = 0
    for group in groups:
        branch = _Branch(program, model, labels, start, start + group.units)
        if branch.is_plain() and branch.is_beside():
            found[group.name] = branch.shifts()
        start += group.units
    return found


class _Branch:
    """The nodes that hold the units `low` to `high` (global numbers), and those that read them."""

    def __init__(
        self,
        program: ExportedProgram,
        model: nn.Module,
        labels: Mapping[str, Any],
        low: int,
        high: int,
    ) -> None:
        self._graph = program.graph
        self._model = model
        self._labels = labels
        self._low, self._high = low, high
        self._inputs = {
            spec.arg.name
            for spec in program.graph_signature.input_specs
            if spec.kind == InputKind.USER_INPUT
        }
        signature = program.graph_signature
        self._tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._inside = {n for n in self._ops() if self._holds(n)}
        self._readers = {
            reader for node in self._inside for reader in node.users if reader not in self._inside
        }

    def is_plain(self) -> bool:
        """Whether it consists of layers that can be left without channels."""
        return (
            bool(self._readers)
            and all(self._is_layer(node, out=True) for node in self._inside)
            and all(self._is_layer(node, out=False) for node in self._readers)
            and all(self._goes_into_sum(node) for node in self._readers)
        )

    def is_beside(self) -> bool:
        """Whether the outputs are still reached from the inputs without it."""
        seen = {n for n in self._graph.nodes if n.name in self._inputs}
        for node in self._graph.nodes:
            if node.op == "call_function" and node not in self._inside | self._readers:
                tensor = isinstance(node.meta.get("val"), (Tensor, list, tuple))
                if tensor and any(source in seen for source in node.all_input_nodes):
                    seen.add(node)
        output = next(n for n in self._graph.nodes if n.op == "output")
        return all(n in seen for n in output.all_input_nodes)

    def shifts(self) -> tuple[str, ...]:
        """Names of the tensors that shift what the reading layers give, up to the sum."""
        found = []
        for reader in self._readers:
            nodes = self._behind(reader) or ()
            given = [n for step in nodes for n in (_argument(step, "bias"), _mean(step))]
            found += [self._tensors[n.name] for n in given if n is not None]
        return tuple(sorted(found))

    def _goes_into_sum(self, node: fx.Node) -> bool:
        """Whether what a layer gives is added to something, and all that shifts it is known."""
        nodes = self._behind(node)
        if nodes is None:
            return False
        given = [n for step in nodes for n in (_argument(step, "bias"), _mean(step))]
        return all(n is None or n.name in self._tensors for n in given)

    def _behind(self, node: fx.Node) -> list[fx.Node] | None:
        """A layer and the BatchNorm behind it, up to a sum; None where it goes elsewhere."""
        found = [node]
        while len(node.users) == 1:
            node = next(iter(node.users))
            if _op(node) in ("add", "add_"):
                return found if len(node.all_input_nodes) == 2 else None
            if _op(node) not in ("batch_norm", "dropout", "dropout_"):
                return None
            found.append(node)
        return None

    def _ops(self) -> Iterable[fx.Node]:
        return (n for n in self._graph.nodes if n.op == "call_function")

    def _own(self, label: Any) -> Any:
        return (label >= self._low) & (label < self._high)

    def _holds(self, node: fx.Node) -> bool:
        """Whether any dimension of what a node gives has units of the group."""
        return any(self._own(label).any() for label in _flat(self._labels.get(node.name, ())))

    def _all(self, node: Any, dim: int) -> bool:
        """Whether one dimension of a tensor is the group's units, and no other has any."""
        labels: Any = self._labels.get(node.name, ()) if isinstance(node, fx.Node) else ()
        if not labels or any(isinstance(label, tuple) for label in labels):
            return False
        rest = [label for d, label in enumerate(labels) if d != dim % len(labels)]
        mine = labels[dim]
        return (
            mine is not None
            and bool(self._own(mine).all())
            and not any(label is not None and self._own(label).any() for label in rest)
        )

    def _is_layer(self, node: fx.Node, *, out: bool) -> bool:
        """Whether a node makes or passes on the units (`out`), or reads nothing but them."""
        op = _op(node)
        if op == "linear":
            return self._all(node if out else node.args[0], -1)
        if op in _CONVOLUTIONS:
            if not self._is_known(node):
                return False
            whole = self._all(node if out else node.args[0], 1)
            groups: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
            return whole and bool(groups == 1 or (out and self._is_depthwise(node, groups)))
        if not out:
            return False
        if op == "batch_norm":
            return self._is_known(node) and self._all(node, 1)
        tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
        return op in _UNARY and len(tensors) == 1 and node.all_input_nodes == tensors

    def _is_depthwise(self, node: fx.Node, groups: object) -> bool:
        """Whether each channel of the input, all of them the group's, makes those of its unit."""
        value = node.args[0].meta["val"]  # type: ignore[union-attr]
        same = bool(groups == value.shape[1])
        return same and self._all(node.args[0], 1)

    def _is_known(self, node: fx.Node) -> bool:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if not stack:
            return False
        try:
            module = self._model.get_submodule(stack[-1][0].split("@")[0])
        except AttributeError:
            return False
        zeros = getattr(module, "padding_mode", "zeros") == "zeros"
        return type(module) in _MODULES and zeros


def _argument(node: fx.Node, name: str) -> fx.Node | None:
    """A tensor that an op is given by this name."""
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            value = node.args[position] if position < len(node.args) else node.kwargs.get(name)
            return value if isinstance(value, fx.Node) else None
    return None


def _mean(node: fx.Node) -> fx.Node | None:
    return _argument(node, "running_mean")


def _op(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).removeprefix("aten::")


def _flat(labels: Any) -> Iterable[np.ndarray[Any, Any]]:
    for label in labels:
        if isinstance(label, tuple):
            yield from _flat(label)
        elif label is not None:
            yield label
