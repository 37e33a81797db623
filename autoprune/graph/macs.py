"""Multiply-accumulates of an op, from the shapes of its operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.workload import Shape, Term


@dataclass(frozen=True)
class Operand:
    """A tensor argument of an op: its rows in the table of sizes and its dense shape."""

    rows: Shape
    shape: tuple[int, ...]


_MATRIX = {"matmul", "mm", "bmm"}


def macs(name: str, args: Mapping[str, Any], output: Operand) -> tuple[Term, ...]:
    """The terms of one forward pass of an op.

    Convolutions, linear layers, matrix products, einsum and attention (query-key and
    attention-value products) are counted; a bias, an activation and a normalisation are not.

    Args:
        name: ATen name.
        args: by schema name, tensors as `Operand`.
        output: of the op.
    """
    if name in ("conv1d", "conv2d", "conv3d", "convolution"):
        if args.get("transposed"):
            return _conv_transpose(args)
        weight: Operand = args["weight"]
        return (Term(1.0, (*output.rows, *weight.rows[1:])),)
    if name.startswith("conv_transpose"):
        return _conv_transpose(args)
    if name == "linear":
        return (Term(1.0, (*output.rows, args["weight"].rows[-1])),)
    if name in _MATRIX:
        first = next(arg for arg in args.values() if isinstance(arg, Operand))
        return (Term(1.0, (*output.rows, first.rows[-1])),)
    if name in ("addmm", "baddbmm"):
        left = args["mat1"] if name == "addmm" else args["batch1"]
        return (Term(1.0, (*output.rows, left.rows[-1])),)
    if name == "addbmm":
        return (Term(1.0, (*output.rows, args["batch1"].rows[0], args["batch1"].rows[-1])),)
    if name == "einsum":
        return _einsum(args)
    if name == "scaled_dot_product_attention":
        query, key, value = args["query"], args["key"], args["value"]
        scores = (*query.rows[:-1], key.rows[-2])
        return (Term(1.0, (*scores, query.rows[-1])), Term(1.0, (*scores, value.rows[-1])))
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return _recurrent(args)
    return ()


def _recurrent(args: Mapping[str, Any]) -> tuple[Term, ...]:
    """Every matrix of weights at every step of a (T, B, width) or (B, T, width) input."""
    if "params" not in args or "input" not in args or len(args["input"].rows) != 3:
        return ()
    steps = args["input"].rows[:2]
    matrices = [p for p in args["params"] if isinstance(p, Operand) and len(p.rows) == 2]
    return tuple(Term(1.0, (*steps, *matrix.rows)) for matrix in matrices)


def _conv_transpose(args: Mapping[str, Any]) -> tuple[Term, ...]:
    """Every input element meets (out / groups) kernels."""
    return (Term(1.0, (*args["input"].rows, *args["weight"].rows[1:])),)


def _einsum(args: Mapping[str, Any]) -> tuple[Term, ...]:
    """The product of all letters, where two operands meet."""
    operands = args["tensors"]
    if len(operands) != 2:
        return ()
    letters: dict[str, int] = {}
    left = args["equation"].replace(" ", "").partition("->")[0].split(",")
    if any(not names.isalpha() for names in left):
        return ()
    for operand, names in zip(operands, left, strict=True):
        for letter, row, size in zip(names, operand.rows, operand.shape, strict=True):
            if size > 1 or letter not in letters:
                letters[letter] = row
    return (Term(1.0, tuple(letters.values())),)
