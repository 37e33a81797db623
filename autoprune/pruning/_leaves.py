"""Modules of torch.nn that a graph calls as modules, so that their hooks and modes work."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autoprune.pruning.empty import plain

#: Class → (op, the position of its input, its argument).
_LEAVES: Mapping[type[nn.Module], tuple[str, int]] = {
    nn.Linear: ("linear", 0),
    nn.Conv1d: ("conv1d", 0),
    nn.Conv2d: ("conv2d", 0),
    nn.Conv3d: ("conv3d", 0),
    nn.BatchNorm1d: ("batch_norm", 0),
    nn.BatchNorm2d: ("batch_norm", 0),
    nn.BatchNorm3d: ("batch_norm", 0),
    nn.LayerNorm: ("layer_norm", 0),
    nn.RMSNorm: ("rms_norm", 0),
    nn.GroupNorm: ("group_norm", 0),
    nn.Embedding: ("embedding", 1),
    nn.Dropout: ("dropout", 0),
}


def leaf_of(module: nn.Module) -> tuple[str, int]:
    """The op that a module is all of, and the position of its input; ("", 0) for any other."""
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return "", 0
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        return "", 0
    return _LEAVES.get(plain(type(module)), ("", 0))


def own_tensors(module: nn.Module | None) -> set[int]:
    """Identities of a module's own parameters and buffers."""
    if module is None:
        return set()
    tables = (module._parameters, module._buffers)
    return {id(t) for table in tables for t in table.values() if t is not None}
