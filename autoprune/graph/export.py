"""torch.export, with the user's model left as it was."""

from __future__ import annotations

import builtins
import contextlib
import copy
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from autoprune.core.errors import TraceError
from autoprune.graph.inline import inline_regions

_SYMBOLIC: tuple[Any, ...] = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True, eq=False)
class Export:
    """An exported model.

    Attributes:
        program: the graph, with regions under `no_grad` inlined.
        model: the copy in evaluation mode that was exported.
        batch: samples in the user's inputs; 1 where dimension 0 of the inputs is no batch.
        size: gives a size of the graph, symbolic or not, as a number for the user's batch.
        fixed: whether the graph takes that many samples only, as forward makes a number of it
            (`int(x.shape[0])`).
    """

    program: ExportedProgram
    model: nn.Module
    batch: int
    size: Callable[[Any], Any]
    fixed: bool = False


def export(
    model: nn.Module, example_inputs: tuple[Any, ...], example_kwargs: Mapping[str, Any]
) -> Export:
    """Export a copy of a model in evaluation mode, its batch dimension symbolic if possible.

    Raises:
        TraceError: torch.export refuses the model, or it can't be copied.
    """
    try:
        copied = copy.deepcopy(model).eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TraceError(
            f"the model must be an nn.Module that copy.deepcopy can copy; got {_line(error)}"
        ) from error
    inputs, kwargs = example_inputs, dict(example_kwargs)
    batch = _batch(inputs, kwargs)
    attempts: list[tuple[Any, Any, int | None]] = [(inputs, kwargs, None)]
    if batch == 1:  # export takes a size of 1 for a constant
        attempts.insert(0, (*_doubled((inputs, kwargs)), 2))
    elif batch is not None:
        attempts.insert(0, (inputs, kwargs, batch))
    refusal: Exception | None = None
    for args, keywords, dynamic in attempts:
        try:
            program = _export(copied, args, keywords, dynamic)
        except Exception as raised:  # the user's forward runs here: it may raise anything
            refusal = raised
            continue
        symbolic = _symbolic(program)
        if args is not inputs and not symbolic:
            continue
        inline_regions(program)
        program.graph_module.graph.eliminate_dead_code()
        if batch is None or not symbolic:
            if batch is not None and _scales(copied, inputs, kwargs, batch):
                return Export(program, copied, batch, _fixed, fixed=True)
            return Export(program, copied, 1, _fixed)
        return Export(program, copied, batch, _substitute(symbolic, batch))
    raise TraceError(
        f"torch.export must be able to export the model, but said: {_line(refusal)}. See whether "
        "model(*example_inputs) runs; take data-dependent Python control flow out of forward, or "
        "prune the part of the model without it"
    ) from refusal


def _scales(model: nn.Module, inputs: Any, kwargs: Any, batch: int) -> bool:
    """Whether twice the samples give twice the outputs: dimension 0 is the batch."""

    def twice(leaf: Any) -> Any:
        batched = _has_batch(leaf) and len(leaf) == batch
        return torch.cat([leaf, leaf]) if batched else leaf

    def sizes(output: Any) -> list[int]:
        return [len(leaf) for leaf in pytree.tree_leaves(output) if _has_batch(leaf)]

    try:
        with torch.no_grad(), torch.random.fork_rng():
            given, named = copy.deepcopy((inputs, kwargs))
            once = sizes(model(*given, **named))
            given, named = pytree.tree_map(twice, (inputs, kwargs))
            more = sizes(model(*given, **named))
    except Exception:  # the user's forward: it takes no other number of samples
        return False
    return bool(once) and once[0] == batch and more[:1] == [2 * batch]


def _line(error: Exception | None) -> str:
    """What an exception says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) or "nothing"
    if "register a pytree" in text:  # a class of outputs, such as transformers' cache
        text = text.split(" If this type")[0] + (
            " Give back tensors, lists, tuples and dicts only (networks of the transformers "
            "package: set model.config.use_cache = False)"
        )
    return f"{type(error).__name__}: {text[:300].rstrip('. ')}"


def _export(model: nn.Module, args: Any, kwargs: Any, dynamic: int | None) -> ExportedProgram:
    """Export with dimension 0 symbolic in every input where it is of size `dynamic`."""
    shapes: Any = None
    if dynamic is not None:
        shapes = pytree.tree_map(
            lambda leaf: {0: Dim.AUTO} if _has_batch(leaf) and len(leaf) == dynamic else None,
            (args, kwargs),
        )
        positional, keywords = shapes
        shapes = _by_name(model, positional, keywords)
    with torch.no_grad(), warnings.catch_warnings(), _without_dumps(), _symbolic_len():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _symbolic_len() -> Iterator[None]:
    """Let `len(x)` of a tensor be its symbolic size, as `x.shape[0]` is.

    Python makes a number of what `Tensor.__len__` gives, which would fix the batch in the graph.
    """
    from torch._dynamo import trace_rules

    plain = builtins.len
    # `torch.compile` notes the builtins there are when the first network is traced: without this
    # it would note ours, and not know `len` from then on.
    trace_rules.is_builtin_callable(plain)

    def length(value: Any, /) -> Any:
        return value.shape[0] if _has_batch(value) else plain(value)

    vars(builtins)["len"] = length
    try:
        yield
    finally:
        vars(builtins)["len"] = plain


class _WithoutGraphs:
    """A stream that leaves out the graph which torch prints of a network that it refuses."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Pass on what is no graph."""
        if "torch.ops.aten" in text and "def forward(self" in text:
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _without_dumps() -> Iterator[None]:
    """Keep what torch logs and prints of a refused network away: the error tells it in a line."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(_WithoutGraphs(sys.stderr)):
            yield
    finally:
        logger.setLevel(level)


def _by_name(model: nn.Module, positional: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """dynamic_shapes as torch.export takes them, by the names that forward gives its inputs."""
    bound = inspect.signature(model.forward).bind(*positional, **keywords)
    return dict(bound.arguments)


def _has_batch(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0


def _batch(inputs: Any, kwargs: Any) -> int | None:
    """Size of dimension 0 of the first tensor input."""
    for leaf in pytree.tree_leaves((inputs, kwargs)):
        if _has_batch(leaf):
            return int(leaf.shape[0])
    return None


def _doubled(tree: Any) -> Any:
    """Inputs with every batch of 1 repeated."""
    return pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if _has_batch(leaf) and len(leaf) == 1 else leaf,
        tree,
    )


def _symbolic(program: ExportedProgram) -> set[Any]:
    """The free symbols of the inputs' sizes."""
    symbols: set[Any] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            for size in value.shape:
                if isinstance(size, _SYMBOLIC):
                    symbols |= size.node.expr.free_symbols
    return symbols


def _fixed(size: Any) -> Any:
    return size.node.hint if isinstance(size, _SYMBOLIC) else size


def _substitute(symbols: set[Any], batch: int) -> Callable[[Any], Any]:
    known: dict[Any, Any] = {}

    def size(value: Any) -> Any:
        if not isinstance(value, _SYMBOLIC):
            return value
        expression = value.node.expr
        if expression not in known:
            filled = expression.subs(dict.fromkeys(symbols, batch))
            if not filled.is_number:
                known[expression] = value.node.hint
            elif isinstance(value, torch.SymInt):
                known[expression] = int(filled)
            else:
                known[expression] = float(filled)
        return known[expression]

    return size
