"""Coupling rules: how each ATen op maps the labels of its inputs to those of its output."""

from autoprune.graph.rules import (  # noqa: F401
    attention,
    conv,
    create,
    elementwise,
    index,
    matmul,
    norm,
    pool,
    recurrent,
    reduce,
    shape,
)
from autoprune.graph.rules.registry import Op, find

__all__ = ["Op", "find"]
