"""Surgery: a smaller network from a selection, of the user's own class where that can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor, nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import SurgeryError
from autoprune.graph.network import Network, Selection
from autoprune.pruning._compare import difference, outputs_of, tolerance
from autoprune.pruning._constants import rewrites
from autoprune.pruning._copy import copy_module
from autoprune.pruning._inputs import describe
from autoprune.pruning._patches import guesses, is_own, known, set_all
from autoprune.pruning._reads import reads_widths
from autoprune.pruning._sites import Rewrite, Scaled, module_stack, op_name
from autoprune.pruning._tensors import Kept, exchanged, named_tensors, sliced
from autoprune.pruning.empty import settle, silence
from autoprune.pruning.graph_module import GraphNetwork
from autoprune.pruning.importance import Importance
from autoprune.pruning.mask import mask
from autoprune.pruning.record import Patch, PruneRecord, attach
from autoprune.pruning.selection import as_selection

#: With more names of attributes that may hold a changed width, not every subset is tried.
_MOST_NAMES = 4


def prune(
    network: Network,
    candidate: Candidate | Selection,
    importance: str | Importance = "l1",
    *,
    check: bool = True,
) -> nn.Module:
    """Make the smaller network of a candidate.

    The result is a module of the model's own class, in its mode, on its device, with its hooks
    and tied parameters; its layers are sliced. Where the model's forward hard-codes a width that
    the candidate changes, it is a `GraphNetwork` instead, and its `autoprune_note` says which
    ("" otherwise). `result.autoprune_record` tells what was done. The model is not changed.

    Args:
        network: the traced network.
        candidate: how many units of each group are kept, or which (a selection).
        importance: which units go first: "l1", "l2", "bn_scale" or an `Importance`.
        check: compare the result with the zero-masked dense network on the example inputs.

    Raises:
        CandidateError: the candidate does not fit the network.
        SurgeryError: the result can't be built or, with `check`, differs from the masked network
            by more than 1e-4 of the output's scale (1e-9 in float64, 0.02 in half precision).
    """
    return apply(network, as_selection(network, candidate, importance), check=check)


def apply(network: Network, selection: Selection, *, check: bool = False) -> nn.Module:
    """Make the smaller network of a selection; the fast inner part of `prune`.

    Raises:
        CandidateError: the selection does not fit the network.
        SurgeryError: as in `prune`.
    """
    result = _made(network, selection, as_graph=False)
    if not check:
        return result
    try:
        verify(network, selection, result)
    except Exception:  # the user's forward may raise anything, if it hard-codes a width in hiding
        if isinstance(result, GraphNetwork):
            raise
        result = _made(network, selection, as_graph=True)
        verify(network, selection, result)
    return result


def _made(network: Network, selection: Selection, *, as_graph: bool) -> nn.Module:
    """The pruned network with its record, unchecked."""
    keep = network.keep(selection)
    kept = network.kept_indices(selection)
    named = list(named_tensors(network.model))
    new = copy_module(network.model, dict(exchanged(named, kept, _slice)))
    changes = rewrites(network, keep)
    patches, uncertain = _known_patches(new, kept, changes, _widths(network, keep))
    set_all(new, patches)
    settle(new)
    silence(new, network.silenced(selection))
    guessed: list[Patch] = []
    if as_graph:
        result: nn.Module = _graph(network, new, changes, uncertain)
    elif uncertain or (kept and reads_widths(network)):
        result, guessed = _tried(network, new, changes, uncertain)
    else:
        result = new
    note = result.autoprune_note if isinstance(result, GraphNetwork) else ""
    attach(
        result,
        PruneRecord(
            model=type(network.model).__qualname__,
            form="graph" if note else "module",
            note=note,
            units={group.name: group.units for group in network.groups},
            kept={n: tuple(selection[n].nonzero()[0].tolist()) for n in selection},
            shapes={name: tuple(t.shape) for name, t in named},
            indices={
                name: {dim: tuple(i.tolist()) for dim, i in dims.items()}
                for name, dims in kept.items()
            },
            patches=(*patches, *guessed),
            inputs=describe(network.example_inputs, network.example_kwargs),
        ),
    )
    return result


def from_plan(
    model: nn.Module, record: PruneRecord, network: Network | None, selection: Selection
) -> nn.Module:
    """The module that a record describes, its weights sliced from a dense model's.

    Args:
        model: the dense model, for a record of form "module".
        record: what was done.
        network: the traced dense model, for a record of form "graph".
        selection: the record's selection.

    Raises:
        CandidateError: the selection does not fit the network.
        SurgeryError: the indices don't fit the model, or there is no network for a graph.
    """
    source = model if network is None or record.form == "module" else network.model
    kept = {
        name: {dim: np.asarray(i, dtype=np.int64) for dim, i in dims.items()}
        for name, dims in record.indices.items()
    }
    try:
        new = copy_module(source, dict(exchanged(named_tensors(source), kept, _slice)))
        set_all(new, record.patches)
        settle(new)
    except (AttributeError, IndexError) as error:
        raise SurgeryError(f"a tensor or attribute is not as recorded: {error}") from error
    if record.form == "module":
        return new
    if network is None:
        raise SurgeryError("a graph module needs the traced network")
    changes = rewrites(network, network.keep(selection))
    return GraphNetwork(network, new, {c.node: c for c in changes}, note=record.note)


def _slice(name: str, tensor: Any, dims: Any) -> Any:
    del name
    return sliced(tensor, dims)


def verify(network: Network, selection: Selection, pruned: nn.Module) -> float:
    """Compare a pruned network with the masked dense one on the example inputs.

    Returns:
        The largest difference, relative to the output's scale.

    Raises:
        SurgeryError: it is above 1e-4 (float32; 1e-9 in float64; 0.02 where a part of the network
            computes in half precision), or the outputs' shapes differ.
    """
    wanted = outputs_of(mask(network, selection), network)
    got = outputs_of(pruned, network)
    found = difference(wanted, got)
    if not found <= tolerance(network):
        raise SurgeryError(
            "the pruned network must give the output of the zero-masked dense one, but differs by "
            f"{found:.3g} of its scale (at most {tolerance(network):g}). This is a mistake in a "
            f"coupling rule; groups kept in part: {_in_part(network, selection)}"
        )
    return found


def _in_part(network: Network, selection: Selection) -> str:
    names = [g.name for g in network.groups if not selection[g.name].all()]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _widths(network: Network, keep: Any) -> dict[str, int]:
    """Module path → new channels, for the norms without parameters."""
    found = {}
    for node in network.program.graph.nodes:
        if op_name(node) in ("batch_norm", "instance_norm", "group_norm") and node.args:
            labels = network.labels.get(node.args[0].name)
            stack = module_stack(node)
            if labels and stack and len(labels) > 1 and labels[1] is not None:
                found[stack[-1][0]] = int(keep[labels[1]].sum())
    return found


def _known_patches(
    new: nn.Module, kept: Kept, changes: list[Rewrite], widths: Mapping[str, int]
) -> tuple[list[Patch], list[Rewrite]]:
    """Attributes of known modules to set, and the changes that these don't account for."""
    modules = dict(new.named_modules(remove_duplicate=False))
    own: dict[str, dict[str, Any]] = {}
    for path, width in widths.items():
        own[path] = {"num_features": width, "num_channels": width}
    rest = []
    for change in changes:
        path = change.stack[-1][0] if change.stack else ""
        if path in modules and is_own(modules[path], change):
            own.setdefault(path, {}).update({k: v for k, (_, v) in change.changes.items()})
        else:
            rest.append(change)
    paths = dict.fromkeys([*(name.rpartition(".")[0] for name in kept), *own])
    patches = [
        patch
        for path in paths
        if path in modules
        for patch in known(modules[path], path, own.get(path, {}))
    ]
    return patches, rest


def _graph(
    network: Network, new: nn.Module, changes: list[Rewrite], uncertain: list[Rewrite]
) -> GraphNetwork:
    return GraphNetwork(network, new, {c.node: c for c in changes}, note=_note(uncertain))


def _tried(
    network: Network, new: nn.Module, changes: list[Rewrite], uncertain: list[Rewrite]
) -> tuple[nn.Module, list[Patch]]:
    """The module where its own forward gives what the graph gives, else the graph; patches."""
    graph = _graph(network, new, changes, uncertain)
    wanted: list[Tensor] | None = None
    for attempt in _attempts(*guesses(new, uncertain)):
        before = [Patch(p.module, p.attribute, _value(new, p)) for p in attempt]
        try:
            set_all(new, attempt)
            got = outputs_of(new, network)
        except Exception:  # the user's module, with widths it may not be made for: any error
            got = None
        if got is not None:
            wanted = outputs_of(graph, network) if wanted is None else wanted
            if difference(wanted, got) <= tolerance(network):
                return new, attempt
        set_all(new, before)
    return graph, []


def _attempts(patches: list[Patch], doubtful: set[str]) -> Iterator[list[Patch]]:
    """No patches, the sure ones, all, then those of some attributes only, by their names."""
    yield []
    sure = [patch for patch in patches if patch.attribute not in doubtful]
    if 0 < len(sure) < len(patches):
        yield sure
    names = list(dict.fromkeys(patch.attribute for patch in patches))
    sizes = range(len(names), 0, -1) if len(names) <= _MOST_NAMES else [len(names)]
    for size in sizes:
        for chosen in combinations(names, size):
            yield [patch for patch in patches if patch.attribute in chosen]


def _value(model: nn.Module, patch: Patch) -> Any:
    value = getattr(model.get_submodule(patch.module), patch.attribute)
    return tuple(value) if isinstance(value, list) else value


def _note(uncertain: list[Rewrite]) -> str:
    """Which constants are hard-coded, in words."""
    if not uncertain:
        return "a graph module, because the forward works other widths out of those of its tensors"
    texts = []
    for change in uncertain:
        path, kind = change.stack[-1] if change.stack else ("", "")
        where = f"{path or 'the network'} ({kind.rpartition('.')[2]})"
        for old, value in change.changes.values():
            if _text(value) == "·":
                continue
            texts.append(f"{change.op} {_text(old)}, now {_text(value)}, in {where}")
    shown = "; ".join(dict.fromkeys(texts[:4]))
    more = f"; and {len(texts) - 4} more" if len(texts) > 4 else ""
    return f"a graph module, because the forward hard-codes widths: {shown}{more}"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(v) for v in value) + "]"
    if isinstance(value, Scaled):
        return f"·×{value.numerator}/{value.denominator}"
    return str(value) if isinstance(value, int) else "·"
