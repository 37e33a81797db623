"""A network's parameters and buffers, sliced or zeroed by a selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from autoprune.core.errors import SurgeryError
from autoprune.core.workload import Ints

#: Tensor name → dimension → the indices that stay.
Kept = Mapping[str, Mapping[int, Ints]]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under every name that it has."""
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    yield prefix + name, tensor


def _like(tensor: Tensor, data: Tensor) -> Tensor:
    """`data` as what `tensor` is: a parameter or a plain tensor."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def sliced(tensor: Tensor, dims: Mapping[int, Ints]) -> Tensor:
    """A copy that keeps some indices of some dimensions; memory format kept."""
    data = tensor.detach()
    for dim, indices in dims.items():
        data = data.index_select(dim, torch.from_numpy(indices).to(data.device))
    channels_last = torch.channels_last
    if not tensor.is_contiguous() and tensor.is_contiguous(memory_format=channels_last):
        data = data.contiguous(memory_format=channels_last)
    return _like(tensor, data if dims else data.clone())


def zeroed(name: str, tensor: Tensor, dims: Mapping[int, Ints]) -> Tensor:
    """A copy of the same shape in which the entries that slicing would remove are zero.

    A running variance becomes 1 there, so that dividing by it is harmless.
    """
    data = tensor.detach().clone()
    filler = 1 if name.rpartition(".")[2] == "running_var" else 0
    for dim, indices in dims.items():
        gone = torch.ones(data.shape[dim], dtype=torch.bool, device=data.device)
        gone[torch.from_numpy(indices).to(data.device)] = False
        data[(slice(None),) * dim + (gone,)] = filler
    return _like(tensor, data)


def exchanged(
    named: Iterable[tuple[str, Tensor]],
    kept: Kept,
    change: Callable[[str, Tensor, Mapping[int, Ints]], Tensor],
) -> dict[int, Tensor]:
    """Every tensor of `named_tensors` changed: id → the new tensor, for `copy_module`.

    A tensor with several names (tied weights) is changed once; the names' indices must agree.

    Raises:
        SurgeryError: they don't.
    """
    result: dict[int, Tensor] = {}
    named = list(named)
    dims_of: dict[int, tuple[str, Mapping[int, Ints]]] = {}
    for name, tensor in named:
        if name in kept:
            earlier = dims_of.setdefault(id(tensor), (name, kept[name]))
            if earlier[0] != name and not _equal(earlier[1], kept[name]):
                raise SurgeryError(
                    f"tied tensors must lose the same indices, but {earlier[0]} and {name} are "
                    "one tensor and the selection slices them differently"
                )
    for name, tensor in named:
        if id(tensor) not in result:
            result[id(tensor)] = change(name, tensor, dims_of.get(id(tensor), ("", {}))[1])
    return result


def _equal(a: Mapping[int, Ints], b: Mapping[int, Ints]) -> bool:
    return a.keys() == b.keys() and all(
        len(a[d]) == len(b[d]) and bool((a[d] == b[d]).all()) for d in a
    )
