"""Which layers of a traced graph can be refitted, and to what.

A layer's output often passes through operations that act on each channel alone (BatchNorm in
evaluation, a scale, dropout) into a residual add. Then its target is what the dense network has
behind the add, minus the pruned network's other operand: an error made by earlier layers is
corrected on the way (He et al. 2017, section 3.3, "multi-branch enhancement").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.network import Network
from autoprune.pruning._rows import Window
from autoprune.pruning._sites import arguments_of, op_name
from autoprune.pruning._tensors import named_tensors
from autoprune.pruning._walk import Lookup, Walk, ancestors, tensor_names

_TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}
_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3, **_TRANSPOSED}
#: Layer → its arguments for input, weight and bias. addmm's weight is (in, out).
_ARGUMENTS = {
    **dict.fromkeys(("linear", *_CONVOLUTIONS), ("input", "weight", "bias")),
    "addmm": ("mat1", "mat2", "self"),
}
#: Op → its argument for a bias of each channel.
BIASES = {op: names[2] for op, names in _ARGUMENTS.items()} | dict.fromkeys(
    ("layer_norm", "group_norm"), "bias"
)
_AFFINE = {"add", "mul", "add_", "mul_"}
_IDENTITY = {"dropout", "dropout_", "feature_dropout", "alias", "contiguous", "clone", "detach"}


@dataclass(frozen=True, eq=False)
class Consumer:
    """A convolution or linear layer that can be refitted.

    Attributes:
        node: the op.
        weight: dotted name of its weight, which nothing else uses.
        bias: dotted name of its bias, or None.
        input: what it reads.
        transposed: whether the weight is (in, out / groups, ...), not (out, in / groups, ...).
        fan_in: inputs of one output channel.
        window: what it reads.
        channel: dimension of the output's channels.
        chain: operations on each channel alone that its output passes through.
        end: the last of them, or the op itself.
        other: the other operand of the residual add behind, where its error is compensated.
        target: the node whose dense values are aimed at: the add, or `end`.
        shift: (node of the chain, its bias's name) that can take an intercept, or None.
    """

    node: fx.Node
    weight: str
    bias: str | None
    input: fx.Node
    transposed: bool
    fan_in: int
    window: Window
    channel: int
    chain: tuple[fx.Node, ...]
    end: fx.Node
    other: fx.Node | None
    target: fx.Node
    shift: tuple[fx.Node, str] | None

    @property
    def reads(self) -> int:
        """The weight's dimension of input channels."""
        return 0 if self.transposed else 1

    @property
    def separable(self) -> bool:
        """Whether the weight's dimension of input channels counts those of one group alone."""
        return not self.transposed or arguments_of(self.node).get("groups", 1) == 1

    def read(self, tensors: Lookup, walk: Walk) -> tuple[Tensor, int]:
        """The weight as (out, in / groups, ...), and the number of groups."""
        weight = tensors(self.weight)
        groups = int(walk.argument(self.node, "groups", 1))
        if not self.transposed:
            return weight, groups
        split = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2)
        return split.flatten(0, 1), groups

    def write(self, tensors: Lookup, weight: Tensor, groups: int) -> None:
        """Put a weight (out, in / groups, ...) in its place."""
        if self.transposed:
            split = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
            weight = split.flatten(0, 1)
        tensors(self.weight).copy_(weight)


class Names:
    """Parameters of a graph that only one op uses."""

    def __init__(self, network: Network) -> None:
        self.names = tensor_names(network.program)
        where: dict[Any, set[str]] = {}
        for name, tensor in named_tensors(network.model):
            where.setdefault(tensor.untyped_storage().data_ptr(), set()).add(name)
        self.tied = {name for names in where.values() if len(names) > 1 for name in names}

    def alone(self, node: Any) -> str | None:
        """A parameter's name if this one op is all that uses it, else None."""
        if not isinstance(node, fx.Node) or node.name not in self.names or len(node.users) != 1:
            return None
        name = self.names[node.name]
        return None if name in self.tied else name


def consumers(network: Network) -> tuple[Consumer, ...]:
    """Every layer that can be refitted, in graph order.

    Of several that end in one add, only the one with the most inputs compensates its sum.
    """
    names = Names(network)
    found = [c for node in network.program.graph.nodes if (c := _consumer(node, names)) is not None]
    if overwritten(network):
        return tuple(_alone(c) for c in found)
    chosen: dict[str, Consumer] = {}
    for consumer in found:
        if consumer.other is not None:
            best = chosen.get(consumer.target.name)
            if best is None or consumer.fan_in > best.fan_in:
                chosen[consumer.target.name] = consumer
    return tuple(c if c.other is None or chosen[c.target.name] is c else _alone(c) for c in found)


def _alone(consumer: Consumer) -> Consumer:
    return replace(consumer, other=None, target=consumer.end)


def _consumer(node: fx.Node, names: Names) -> Consumer | None:
    op = op_name(node) if node.op == "call_function" else ""
    if op not in _ARGUMENTS:
        return None
    arguments = arguments_of(node)
    source, matrix, offset = (arguments[name] for name in _ARGUMENTS[op])
    weight, bias = names.alone(matrix), names.alone(offset)
    rank, dims = node.meta["val"].ndim, _CONVOLUTIONS.get(op, 0)
    if weight is None or (offset is not None and bias is None):
        return None
    if (dims and rank != dims + 2) or {arguments.get("alpha", 1), arguments.get("beta", 1)} != {1}:
        return None
    transposed = op == "addmm" or op in _TRANSPOSED
    channel = channel_of(op) % rank
    chain = tuple(_chain(node, channel, names))
    end = chain[-1] if chain else node
    add, other = _residual(end)
    shift = None
    for step in chain:
        name = names.alone(_bias_of(step, names))
        if name is not None:
            shift = (step, name)
    shape = matrix.meta["val"].shape
    return Consumer(
        node=node,
        weight=weight,
        bias=bias,
        input=source,
        transposed=transposed,
        fan_in=int(shape.numel() // shape[1] if transposed else shape[1:].numel()),
        window=_window(arguments, dims, op in _TRANSPOSED) if dims else Window(),
        channel=channel,
        chain=chain,
        end=end,
        other=other,
        target=add if add else end,
        shift=shift,
    )


def channel_of(op: str) -> int:
    """The dimension of an op's output that holds its channels: 1, or the last, -1."""
    return 1 if op in _CONVOLUTIONS or op == "group_norm" else -1


def _window(arguments: Mapping[str, Any], dims: int, transposed: bool) -> Window:
    kernel = tuple(int(n) for n in arguments["weight"].meta["val"].shape[2:])

    def each(value: Any) -> tuple[int, ...]:
        values = list(value) if isinstance(value, list | tuple) else [value]
        return tuple(int(v) for v in (values * dims if len(values) == 1 else values))

    dilation, padding = each(arguments["dilation"]), arguments["padding"]
    if padding == "valid":
        before = after = (0,) * dims
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = tuple(n // 2 for n in total)
        after = tuple(n - n // 2 for n in total)
    else:
        before = after = each(padding)
    return Window(kernel, each(arguments["stride"]), before, after, dilation, transposed)


def _chain(node: fx.Node, channel: int, names: Names) -> Iterator[fx.Node]:
    """Operations on each channel alone, as long as nothing else reads what is in between."""
    while len(node.users) == 1:
        step = next(iter(node.users))
        if step.op != "call_function" or not _per_channel(step, node, channel, names):
            return
        yield step
        node = step


def _per_channel(step: fx.Node, node: fx.Node, channel: int, names: Names) -> bool:
    op = op_name(step)
    if op in _IDENTITY:
        return step.args[0] is node and not (op.endswith("dropout") and step.args[2:] == (True,))
    if op == "batch_norm":
        arguments = arguments_of(step)
        return (
            channel == 1
            and arguments["input"] is node
            and not arguments["training"]
            and arguments["running_var"] is not None
        )
    if op in _AFFINE:
        operand = _operand(step, node)
        if not isinstance(operand, fx.Node) or operand.name not in names.names:
            return False
        shape, rank = operand.meta["val"].shape, node.meta["val"].ndim
        places = {rank - len(shape) + d for d, size in enumerate(shape) if size != 1}
        return places <= {channel}
    return False


def _operand(step: fx.Node, node: fx.Node) -> Any:
    """The other operand of a plain `a + b` or `a * b`."""
    arguments = arguments_of(step)
    if arguments.get("alpha", 1) != 1:
        return None
    pair = [arguments["self"], arguments["other"]]
    return pair[1] if pair[0] is node else pair[0]


def _bias_of(step: fx.Node, names: Names) -> Any:
    if op_name(step) == "batch_norm":
        return arguments_of(step)["bias"]
    if op_name(step) in ("add", "add_"):
        pair = [a for a in step.args[:2] if isinstance(a, fx.Node) and a.name in names.names]
        return pair[0] if pair else None
    return None


def _residual(end: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The add behind a layer and its other operand."""
    if len(end.users) != 1:
        return None, None
    add = next(iter(end.users))
    if add.op != "call_function" or op_name(add) not in ("add", "add_"):
        return None, None
    other = _operand(add, end)
    if not isinstance(other, fx.Node) or other is end or other.op == "placeholder":
        return None, None
    value, sum_ = other.meta.get("val"), add.meta.get("val")
    if not isinstance(value, torch.Tensor) or not isinstance(sum_, torch.Tensor):
        return None, None
    if value.ndim != end.meta["val"].ndim or sum_.shape != end.meta["val"].shape:
        return None, None
    if sum_.shape != value.shape or end in ancestors([other]):
        return None, None
    return add, other


def overwritten(network: Network) -> bool:
    """Whether some op works in place on a value that another one reads too.

    The order of the ops then matters, and none may be moved.
    """
    return any(
        op_name(node).endswith("_") and node.args and len(node.args[0].users) > 1
        for node in network.program.graph.nodes
        if node.op == "call_function" and op_name(node)
    )


def order(network: Network, found: Sequence[Consumer], more: Sequence[fx.Node]) -> list[fx.Node]:
    """What is run to refit layers, the other operand of a residual add before the layer.

    Args:
        network: the traced network.
        found: the layers.
        more: other nodes whose inputs are looked at.

    Returns:
        Nodes with inputs first; those that nothing needs (the network's end, say) are left out.
    """
    others = {c.node: c.other for c in found if c.other is not None}
    wanted = ancestors([*(c.node for c in found), *others.values(), *more])
    result: list[fx.Node] = []
    done: set[fx.Node] = set()
    for root in network.program.graph.nodes:
        stack = [root] if root in wanted else []
        while stack:
            node = stack[-1]
            other = others.get(node)
            needs = [*node.all_input_nodes, *([other] if other is not None else [])]
            missing = [n for n in needs if n not in done]
            if node in done or not missing:
                stack.pop()
                if node not in done:
                    done.add(node)
                    result.append(node)
            else:
                stack.extend(missing)
    return result


def downstream(network: Network, tensors: set[str]) -> set[fx.Node]:
    """Every op whose value depends on one of these parameters or buffers."""
    names = tensor_names(network.program)
    found: set[fx.Node] = set()
    for node in network.program.graph.nodes:
        changed = names.get(node.name) in tensors
        if changed or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found
