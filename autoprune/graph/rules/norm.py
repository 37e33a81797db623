"""Normalisations."""

from __future__ import annotations

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value


def _tie(op: Op, x: Value, dim: int, *names: str) -> list[Ints | None]:
    labels = list(x.labels)
    if x.shape[dim] == 1:
        return labels
    for name in names:
        parameter = op.tensor(name)
        if parameter is not None:
            labels[dim] = op.unify(labels[dim], parameter.labels[0])
    return labels


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(op: Op) -> Labels:
    """Per channel, dimension 1."""
    x = op["input"]
    return tuple(_tie(op, x, 1, "weight", "bias", "running_mean", "running_var"))


@rule("group_norm", "native_group_norm")
def group_norm(op: Op) -> Labels:
    """Per channel, or the same position in every group: the number of groups stays."""
    x = op["input"]
    labels = _tie(op, x, 1, "weight", "bias")
    groups = op.args.get("num_groups", op.args.get("group"))
    label = labels[1]
    if label is not None and 1 < groups < x.shape[1]:
        grouped = label.reshape(groups, -1)
        op.atoms.unify(grouped[:1], grouped)
    return tuple(labels)


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(op: Op) -> Labels:
    """Over the last dimensions; statistics are taken over what is kept."""
    x = op["input"]
    labels = list(x.labels)
    count = len(op["normalized_shape"])
    for name in ("weight", "bias"):
        parameter = op.tensor(name)
        for offset in range(1, count + 1) if parameter is not None else []:
            if x.shape[-offset] > 1:
                label = parameter.labels[-offset]  # type: ignore[union-attr]
                labels[-offset] = op.unify(labels[-offset], label)
    return tuple(labels)


@rule("embedding")
def embedding(op: Op) -> Labels:
    """Weight (vocabulary, channels): the channels may be pruned, the vocabulary not."""
    weight, indices = op["weight"], op["indices"]
    op.freeze(weight.labels[0], "a vocabulary (rows of an embedding) is fixed")
    op.produce(weight.labels[1])
    return (*indices.labels, weight.labels[1])
