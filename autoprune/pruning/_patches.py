"""Attributes of modules that state a width: set anew after their tensors are sliced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from autoprune.pruning._sites import Rewrite, Scaled
from autoprune.pruning.record import Patch


def known(module: nn.Module, path: str, changes: Mapping[str, Any]) -> list[Patch]:
    """New values of a known module's own attributes, from its tensors, which are sliced already.

    Args:
        module: a submodule of the copy.
        path: its dotted path.
        changes: what `Rewrite.changes` says of the module's own op: argument → new value.
    """
    values = dict(_values(module, changes))
    return [
        Patch(path, name, value) for name, value in values.items() if getattr(module, name) != value
    ]


def _values(module: nn.Module, changes: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    weight = getattr(module, "weight", None)
    if isinstance(module, _ConvNd):
        groups = changes.get("groups", module.groups)
        first, second = weight.shape[0], weight.shape[1] * groups  # type: ignore[union-attr]
        yield "groups", groups
        yield "out_channels", second if module.transposed else first
        yield "in_channels", first if module.transposed else second
    elif isinstance(module, nn.Bilinear):
        out, one, two = module.weight.shape
        yield from (("out_features", out), ("in1_features", one), ("in2_features", two))
    elif isinstance(module, nn.Linear):
        yield "out_features", module.weight.shape[0]
        yield "in_features", module.weight.shape[1]
    elif isinstance(module, _NormBase):
        tensor = weight if weight is not None else module.running_mean
        width = changes.get("num_features", module.num_features)
        yield "num_features", width if tensor is None else len(tensor)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        shape = tuple(changes.get("normalized_shape", module.normalized_shape))
        yield "normalized_shape", shape if weight is None else tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        width = changes.get("num_channels", module.num_channels)
        yield "num_groups", changes.get("num_groups", module.num_groups)
        yield "num_channels", width if weight is None else len(weight)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        yield "num_embeddings", module.weight.shape[0]
        yield "embedding_dim", module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        yield "num_parameters", len(module.weight)
    elif is_transposed_linear(module):
        yield "nx", module.weight.shape[0]  # type: ignore[index]
        yield "nf", module.weight.shape[1]  # type: ignore[index]


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D: a linear layer with its weight transposed."""
    return (
        type(module).__name__ == "Conv1D"
        and type(module).__module__.startswith("transformers.")
        and hasattr(module, "nf")
    )


_OWN_OPS: tuple[tuple[tuple[type[nn.Module], ...], frozenset[str]], ...] = (
    ((_ConvNd,), frozenset({"groups"})),
    ((_NormBase,), frozenset({"num_features"})),
    ((nn.GroupNorm,), frozenset({"num_groups", "num_channels"})),
    ((nn.LayerNorm, nn.RMSNorm), frozenset({"normalized_shape"})),
)


def is_own(module: nn.Module, rewrite: Rewrite) -> bool:
    """Whether a module of a known class takes the changed constants from its own attributes."""
    if is_transposed_linear(module):
        return rewrite.op in ("view", "reshape")
    names = rewrite.changes.keys()
    return any(isinstance(module, kinds) and names <= own for kinds, own in _OWN_OPS)


def guesses(model: nn.Module, rewrites: Iterable[Rewrite]) -> tuple[list[Patch], set[str]]:
    """Attributes of the user's modules that seem to hold constants that changed.

    For each changed constant, the innermost module that the op ran in and that has attributes
    equal to the old value (`self.num_heads`, `self.split_sizes`) gets the new one. Where one
    attribute would get two values it is left alone. These are guesses: the result must be run.

    Returns:
        What to set, and the names of attributes that are doubtful: the same op has a constant of
        that value that stays (a number of queries to a key among numbers of heads).
    """
    found: dict[tuple[str, str], list[Any]] = {}
    doubtful = set()
    for rewrite in rewrites:
        for old, new in rewrite.changes.values():
            for a, b in _pairs(old, new):
                for path, name in _holders(model, rewrite.stack, a):
                    if a == b:
                        doubtful.add(name)
                    else:
                        found.setdefault((path, name), []).append(b)
    result = []
    for (path, name), values in found.items():
        if all(value == values[0] for value in values):
            value = tuple(values[0]) if isinstance(values[0], list) else values[0]
            result.append(Patch(path, name, value))
    return result, doubtful


def _pairs(old: Any, new: Any) -> Iterable[tuple[Any, Any]]:
    """(dense, pruned) constants; those that stay stand in a list with one that changes."""
    if isinstance(new, Scaled):
        yield from new.constants()
    elif isinstance(old, int) and isinstance(new, int):
        yield old, new
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        if all(isinstance(v, int) for v in (*old, *new)):
            yield list(old), list(new)
        if len(old) == len(new):
            for a, b in zip(old, new, strict=True):
                yield from _pairs(a, b)


def _holders(
    model: nn.Module, stack: tuple[tuple[str, str], ...], value: Any
) -> list[tuple[str, str]]:
    """(module path, attribute) in the innermost module of a stack that has such attributes."""
    for path, _ in reversed(stack):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        names = [
            name
            for name, held in vars(module).items()
            if not name.startswith("_")
            and not isinstance(held, bool)
            and ((isinstance(held, int) and held == value) or _is_list(held, value))
        ]
        if names:
            return [(path, name) for name in names]
    return []


def _is_list(held: Any, value: Any) -> bool:
    return isinstance(held, (list, tuple)) and isinstance(value, list) and list(held) == value


def set_all(model: nn.Module, patches: Iterable[Patch]) -> None:
    """Set attributes of submodules; a list stays a list.

    Raises:
        AttributeError: a submodule or an attribute is not there.
    """
    for patch in patches:
        module = model.get_submodule(patch.module)
        is_list = isinstance(getattr(module, patch.attribute), list)
        value = list(patch.value) if is_list else patch.value  # type: ignore[arg-type]
        setattr(module, patch.attribute, value)
