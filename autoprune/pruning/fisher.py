"""How much the loss feels an error at a layer's output: the Fisher information's diagonal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils import _pytree

from autoprune.core.errors import ConfigError, EvaluationError
from autoprune.core.failures import describe
from autoprune.graph.network import Network
from autoprune.pruning._batches import Call, as_call, as_pair, recut
from autoprune.pruning._consumers import order
from autoprune.pruning._walk import Walk, lookup

#: Samples whose graph is kept for one backward pass, at most.
_AT_ONCE = 50
#: Softens the network's own predictions: on data that it was trained on, they are all but
#: certain, and the few samples that are not would decide alone.
TEMPERATURE = 20.0


def output_power(
    network: Network,
    batches: Iterable[Any],
    nodes: Sequence[fx.Node],
    *,
    channels: Sequence[int],
    loss: Callable[[Any, Any], Tensor] | None = None,
    seed: int = 0,
) -> dict[fx.Node, Tensor]:
    """Second moment of the loss's gradient at each node's channels, summed over positions.

    Half of it times the mean squared error of each channel is the second-order loss change that
    the error makes, where errors are independent over channels and positions: the diagonal of
    the Fisher information, which stands for the Hessian (Theis et al. 2018, "Faster gaze
    prediction with dense networks and Fisher pruning"; Martens 2020, "New insights and
    perspectives on the natural gradient method").

    Args:
        network: the traced network.
        batches: inputs; with `loss`, pairs of inputs and targets.
        nodes: of the graph.
        channels: each node's dimension of channels.
        loss: of the network's output and the targets. None draws each sample's label from what
            the network itself predicts, softened: the true Fisher information, which needs no
            labels, of a classifier.
        seed: of the labels drawn.

    Returns:
        (channels,) of each node, the mean over samples.

    Raises:
        ConfigError: without `loss`, the network's output is no logits.
        EvaluationError: the loss raises.
        SurgeryError: the network can't be run on the batches.
    """
    (output,) = (n for n in network.program.graph.nodes if n.op == "output")
    results = [n for n in _pytree.tree_leaves(output.args) if isinstance(n, fx.Node)]
    spec = network.program.call_spec.out_spec
    todo = order(network, (), results)
    dims = dict(zip(nodes, channels, strict=True))
    total: dict[fx.Node, Tensor] = {}
    samples = 0
    generator = torch.Generator().manual_seed(seed)

    def note(node: fx.Node, gradient: Tensor) -> None:
        power = gradient.square().movedim(dims[node], -1).flatten(0, -2).sum(0).double()
        total[node] = total[node] + power if node in total else power

    def run(call: Call, targets: Any) -> None:
        values: dict[fx.Node, Any] = {}
        walk = _walk(network, todo, call)

        def after(node: fx.Node) -> None:
            (value,) = walk.values(node)
            if node in dims and value.requires_grad:
                value.register_hook(lambda gradient: note(node, gradient))
            if node in results:
                values[node] = value

        walk.run(after=after)
        found = _pytree.tree_unflatten([values[n] for n in results], spec)
        _loss(found, targets, loss, generator).backward()  # type: ignore[no-untyped-call]

    with torch.enable_grad():
        for call, targets, count in _parts(batches, loss is not None, network.fixed_batch):
            run(call, targets)
            samples += count
    return {node: value / max(samples, 1) for node, value in total.items()}


def _walk(network: Network, nodes: Sequence[fx.Node], call: Call) -> Walk:
    """Runs the graph so that every value behind a floating-point input has a gradient.

    The network's own tensors get none; where all inputs are integers (tokens), stand-ins of its
    parameters do.
    """
    args, kwargs = _pytree.tree_map(_leaf, call)
    given = any(
        isinstance(x, Tensor) and x.requires_grad for x in _pytree.tree_leaves((args, kwargs))
    )
    find = lookup(network.model)

    def tensors(name: str) -> Tensor:
        tensor = find(name).detach()
        return tensor if given or not tensor.is_floating_point() else tensor.requires_grad_()

    return Walk(network.program, nodes, tensors, [(args, kwargs)], limit=None)


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


def _parts(
    batches: Iterable[Any], labelled: bool, fixed: int | None
) -> Iterator[tuple[Call, Any, int]]:
    """Small batches: arguments, targets (or None), how many samples."""
    for batch in batches:
        inputs, targets = as_pair(batch) if labelled else (batch, None)
        call = as_call(inputs)
        whole = (call, targets)
        if fixed is not None:
            for part in recut([whole], fixed):
                yield *part, fixed
            continue
        sizes = {len(x) for x in _pytree.tree_leaves(whole) if isinstance(x, Tensor) and x.ndim}
        if len(sizes) != 1:
            yield *whole, max(sizes, default=1)
            continue
        (size,) = sizes
        for start in range(0, size, _AT_ONCE):

            def cut(x: Any, start: int = start) -> Any:
                return x[start : start + _AT_ONCE] if isinstance(x, Tensor) and x.ndim else x

            yield *_pytree.tree_map(cut, whole), min(_AT_ONCE, size - start)


def _loss(
    output: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor] | None,
    generator: torch.Generator,
) -> Tensor:
    """The sum over samples of the loss."""
    from autoprune.pruning._teaching import logits_of

    if loss is None:
        logits = logits_of(output)
        if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[-1] < 2:
            raise ConfigError(
                "the Fisher sensitivity needs a network that gives logits (..., classes), got an "
                f"output of shape {tuple(logits.shape)}; give a `loss` and `train` batches"
            )
        soft = logits.flatten(0, -2) / TEMPERATURE
        labels = torch.multinomial(soft.detach().softmax(-1), 1, generator=generator)
        return F.cross_entropy(soft, labels.flatten(), reduction="sum")
    try:
        value = loss(output, targets)
        return value * _count(targets)  # a mean, as a rule
    except Exception as error:  # the user's loss
        raise EvaluationError(
            f"the loss of a training batch must be computed, but got {describe(error)}"
        ) from error


def _count(targets: Any) -> int:
    sizes = [len(x) for x in _pytree.tree_leaves(targets) if isinstance(x, Tensor) and x.ndim]
    return max(sizes, default=1)
