"""Recurrent layers: their state feeds back into itself, so they are left whole."""

from __future__ import annotations

from autoprune.graph.rules.registry import Op, Result, rule


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell")
def recurrent(op: Op) -> Result:
    """Freeze all that reaches it, its own weights too."""
    for value in op.tensors():
        op.freeze_all(value, f"recurrent layers are not pruned ({op.where()})")
    return op.inert()
