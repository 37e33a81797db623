"""Coupling rules: how each ATen op maps the labels of its inputs to those of its output."""

from importlib import import_module

from autoprune.graph.rules.registry import Op, find

for _family in (
    "attention",
    "conv",
    "create",
    "elementwise",
    "index",
    "matmul",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "shape",
):
    import_module(f"autoprune.graph.rules.{_family}")

__all__ = ["Op", "find"]
