"""Comparing a network with its ONNX export in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.export.onnx import export_onnx


def assert_same_in_onnxruntime(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Export, run, and compare every output: within 1e-4 of its scale."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with torch.no_grad():
        expected = pytree.tree_leaves(model(*inputs))
    session = onnxruntime.InferenceSession(
        export_onnx(model, inputs), providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    got = session.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))
    assert len(got) == len(expected)
    for a, b in zip(expected, got, strict=True):
        assert np.abs(a.numpy() - b).max() <= 1e-4 * float(a.abs().max())
