"""Every architecture, pruned, exports to ONNX and onnxruntime gives the same output."""

import io

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import zoo
from autoprune.pruning import apply
from traced import random_selection, traced

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_onnxruntime_gives_the_same_output(name):
    network = traced(name)
    pruned = apply(network, random_selection(network, np.random.default_rng(6))).eval()
    inputs = network.example_inputs
    with torch.no_grad():
        expected = pytree.tree_leaves(pruned(*inputs))
        program = torch.onnx.export(pruned, inputs, dynamo=True, optimize=True, verbose=False)
    stream = io.BytesIO()
    program.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    feeds = dict(zip(names, [x.numpy() for x in inputs], strict=True))
    got = session.run(None, feeds)
    assert len(got) == len(expected)
    for a, b in zip(expected, got, strict=True):
        assert np.abs(a.numpy() - b).max() <= 1e-4 * float(a.abs().max())
