"""Every architecture, pruned, exports to ONNX and onnxruntime gives the same output."""

import numpy as np
import pytest
import zoo
from traced import random_selection, traced
from zoo_onnx import assert_same_in_onnxruntime

from autoprune.pruning import apply


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_onnxruntime_gives_the_same_output(name):
    network = traced(name)
    pruned = apply(network, random_selection(network, np.random.default_rng(6)))
    assert_same_in_onnxruntime(pruned, network.example_inputs)
