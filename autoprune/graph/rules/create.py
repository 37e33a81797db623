"""Tensors made from nothing."""

from __future__ import annotations

from autoprune.graph.network import Labels
from autoprune.graph.rules.registry import Op, Result, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def constant(op: Op) -> Labels:
    """The same everywhere, so any part of it will do: tied to whatever it meets."""
    return tuple(op.atoms.fresh(size) for size in op.shape)


@rule("arange")
def arange(op: Op) -> Labels:
    """A table of numbers, which are kept or not as the entries of a buffer are (ALiBi's slopes)."""
    return (op.atoms.fresh(op.shape[0]),)


@rule("scalar_tensor", "linspace", "eye", "tril_indices", "triu_indices", "tensor")
def fixed(op: Op) -> Result:
    """Its values depend on the position."""
    return op.inert()


@rule("rand", "randn", "rand_like", "randn_like", "bernoulli", "randint")
def random(op: Op) -> Result:
    """What is drawn depends on the shape: nothing that meets it may change."""
    return op.inert()
