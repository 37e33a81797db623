"""A few pruned architectures in onnxruntime; all of them in tests/integration/test_zoo_onnx.py."""

import numpy as np
import pytest
from traced import random_selection, traced
from zoo_onnx import assert_same_in_onnxruntime

from autoprune.pruning import GraphNetwork, apply


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "graph"), [("mobilenet_v1", False), ("hard_coded", True), ("mlp_layer_norm", False)]
)
def test_onnxruntime_gives_the_same_output(name, graph):
    network = traced(name)
    pruned = apply(network, random_selection(network, np.random.default_rng(6)))
    assert isinstance(pruned, GraphNetwork) == graph
    assert_same_in_onnxruntime(pruned, network.example_inputs)
