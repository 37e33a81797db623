"""Comparing a network with its ONNX export in onnxruntime."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree


def assert_same_in_onnxruntime(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Export, run, and compare every output: within 1e-4 of its scale."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with torch.no_grad():
        expected = pytree.tree_leaves(model(*inputs))
        program = torch.onnx.export(model, inputs, dynamo=True, optimize=True, verbose=False)
    stream = io.BytesIO()
    program.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    got = session.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))
    assert len(got) == len(expected)
    for a, b in zip(expected, got, strict=True):
        assert np.abs(a.numpy() - b).max() <= 1e-4 * float(a.abs().max())
