"""ResNet-56 on CIFAR-10: what reconstruction must reach, on 1,000 images."""

import os
from pathlib import Path

import pytest
import torch

from autoprune.core.candidate import Candidate
from autoprune.graph import trace
from autoprune.pruning.reconstruct import Reconstructor
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply

WEIGHTS = (
    Path(os.environ.get("AUTOPRUNE_SHARED_DATA", ""))
    / "weights"
    / "resnet56_cifar10_akamaster.safetensors"
)
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not WEIGHTS.is_file(), reason="AUTOPRUNE_SHARED_DATA names no folder with the weights"
    ),
]


def test_half_of_the_macs_cost_few_points() -> None:
    from examples import cifar10
    from examples.resnet_cifar import example_inputs, resnet56

    model = resnet56().to(memory_format=torch.channels_last)
    network = trace(model, example_inputs())
    kept = {
        g.name: (6, 14, 42)[int(g.name[5]) - 1]
        if g.name.startswith("layer") and g.name.endswith("conv1")
        else g.units
        for g in network.groups
    }
    selection = select(network, Candidate.of(kept))
    pruned = apply(network, selection)
    cut = cifar10.evaluate(pruned, subset=1000)["accuracy"]
    Reconstructor(network, cifar10.calibration(200), positions=20).apply(pruned, selection)
    dense = cifar10.evaluate(model, subset=1000)["accuracy"]
    fitted = cifar10.evaluate(pruned, subset=1000)["accuracy"]
    assert dense > 0.92
    assert cut < 0.6
    assert fitted > dense - 0.045
