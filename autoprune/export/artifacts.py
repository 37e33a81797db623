"""Candidates of a network as what a profiler measures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.device import Artifact, ModuleCall
from autoprune.export.onnx import input_arrays
from autoprune.export.sliced import OnnxSlicer
from autoprune.graph.network import Selection


def artifacts(
    slicer: OnnxSlicer, selections: Sequence[Selection], keys: Sequence[str] | None = None
) -> list[Artifact]:
    """What to give to `Profiler.measure`: the dense network first, as the reference.

    Args:
        slicer: of the network.
        selections: what each candidate keeps.
        keys: their names; by default `Candidate.key` of how many units they keep, with "#2",
            "#3", ... where several keep as many.

    Returns:
        One artifact more than there are selections; the first is called "dense". Their inputs are
        the example inputs that the network was traced with.

    Raises:
        ValueError: another number of keys than of selections, or one that stands twice.
        CandidateError: a selection does not fit the network.
        ExportError: a network can't be exported.
    """
    names = list(keys) if keys is not None else _names(slicer, selections)
    if len(names) != len(selections) or len({"dense", *names}) != len(names) + 1:
        raise ValueError(
            f"keys must be {len(selections)} different names, none of them 'dense'; got {names}"
        )
    network = slicer.network
    inputs = input_arrays(slicer.dense, network.example_inputs, network.example_kwargs)
    dense = {group.name: np.ones(group.units, dtype=np.bool_) for group in network.groups}
    models = [slicer.dense, *(slicer.slice(selection) for selection in selections)]
    calls = [partial(_call, slicer, selection) for selection in (dense, *selections)]
    return [
        Artifact(key, model, inputs, call=call)
        for key, model, call in zip(["dense", *names], models, calls, strict=True)
    ]


def _call(slicer: OnnxSlicer, selection: Selection) -> ModuleCall:
    network = slicer.network
    return ModuleCall(
        slicer.module(selection), network.example_inputs, dict(network.example_kwargs)
    )


def _names(slicer: OnnxSlicer, selections: Sequence[Selection]) -> list[str]:
    names: list[str] = []
    counts: dict[str, int] = {}
    for selection in selections:
        kept = {group.name: int(np.sum(selection[group.name])) for group in slicer.network.groups}
        key = Candidate.of(kept).key
        counts[key] = counts.get(key, 0) + 1
        names.append(key if counts[key] == 1 else f"{key}#{counts[key]}")
    return names
