"""Products: linear layers, matrix products, einsum."""

from __future__ import annotations

from autoprune.core.workload import Ints
from autoprune.graph.network import Labels
from autoprune.graph.rules.elementwise import broadcast
from autoprune.graph.rules.registry import Op, rule
from autoprune.graph.values import Value

HEAD = "its size enters the arithmetic: head width in attention, or another sum over activations"


def contract(op: Op, operands: list[Value], letters: list[str], output: str) -> Labels:
    """Einstein summation: tie what shares a letter; a sum needs a weight to be prunable.

    A pruned channel's value is not zero in general, so a sum over it is the same without it only
    where a weight, whose entries go with it, is a factor.
    """
    labels: dict[str, Ints | None] = {}
    sizes: dict[str, int] = {}
    weighed: dict[str, bool] = {}
    made: dict[str, bool] = {}
    for value, names in zip(operands, letters, strict=True):
        for letter, label, size in zip(names, value.labels, value.shape, strict=True):
            weighed[letter] = weighed.get(letter, False) or value.weight
            made[letter] = made.get(letter, True) and value.weight
            if size == 1:
                labels.setdefault(letter, None)
            elif sizes.get(letter, 1) == 1:
                labels[letter] = label
            elif label is not None or labels[letter] is not None:
                labels[letter] = op.unify(labels[letter], label)
            sizes[letter] = max(size, sizes.get(letter, 1))
    for value, names in zip(operands, letters, strict=True):
        for letter, label in zip(names, value.labels, strict=True):
            if letter in output or label is None:
                continue
            if weighed[letter] and not made[letter]:
                if value.weight:
                    op.atoms.consume(label)
            else:
                op.freeze(label, f"{HEAD} ({op.where()})")
    if any(not value.weight for value in operands):
        for letter in output:
            if made.get(letter):
                op.produce(labels[letter])
    return tuple(labels[letter] for letter in output)


@rule("linear")
def linear(op: Op) -> Labels:
    """Weight (out, in): dim 0 makes channels, dim 1 consumes them."""
    x, weight, bias = op["input"], op["weight"], op.tensor("bias")
    batch = "abcdefgh"[: x.ndim - 1]
    if not weight.weight:
        op.freeze_all(weight, f"the weight of {op.where()} is computed, not a parameter")
    x = Value(x.shape, x.labels)  # a parameter may be an input: learned queries, a class token
    labels = contract(op, [x, weight], [batch + "k", "nk"[2 - weight.ndim :]], batch + "n")
    return labels if bias is None else broadcast(op, [_as(op, labels), bias], op.shape)


@rule("matmul", "mm", "bmm")
def matmul(op: Op) -> Labels:
    """Batch dimensions broadcast; the inner one is summed over."""
    a, b = (value for value in op.tensors())
    return _matmul(op, a, b)


@rule("addmm", "baddbmm", "addbmm")
def addmm(op: Op) -> Labels:
    """A bias and a matrix product."""
    bias, a, b = op.tensors()
    if op.name == "addbmm":
        op.freeze_all(a, f"a sum over a batch of matrices ({op.where()})")
    return broadcast(op, [_as(op, _matmul(op, a, b)), bias], op.shape)


def _matmul(op: Op, a: Value, b: Value) -> Labels:
    batch_a = "abcdefgh"[8 - max(a.ndim - 2, 0) :]
    batch_b = "abcdefgh"[8 - max(b.ndim - 2, 0) :]
    batch = max(batch_a, batch_b, key=len)
    left = batch_a + "mk"[2 - min(a.ndim, 2) :]
    right = batch_b + ("kn" if b.ndim > 1 else "k")
    output = batch + ("m" if a.ndim > 1 else "") + ("n" if b.ndim > 1 else "")
    return contract(op, [a, b], [left, right], output)


@rule("einsum")
def einsum(op: Op) -> Labels:
    """Any equation without an ellipsis or a repeated letter in one operand; others freeze."""
    operands = list(op["tensors"])
    left, _, output = op["equation"].replace(" ", "").partition("->")
    letters = left.split(",")
    plain = all(len(set(names)) == len(names) and names.isalpha() for names in letters)
    if not plain or "->" not in op["equation"]:
        for value in operands:
            op.freeze_all(value, f"an einsum of a form that has no rule ({op.where()})")
        return op.inert()  # type: ignore[return-value]
    return contract(op, operands, letters, output)


def _as(op: Op, labels: Labels) -> Value:
    return Value(op.shape, labels)
