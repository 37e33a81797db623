"""Which groups may be removed whole."""

from __future__ import annotations

import branches
import pytest
from torch import nn

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError
from autoprune.graph import trace


@pytest.mark.parametrize(
    ("name", "removable"),
    [
        ("residual", {"1.conv1", "2.conv1"}),
        ("inverted", {"1.layers.0", "2.layers.0"}),
        ("perceptrons", {"1.up", "2.up"}),
        ("plain", set()),
        ("concatenated", set()),
    ],
)
def test_inner_widths_beside_a_shortcut_are_removable(name, removable):
    model, inputs = getattr(branches, name)()
    assert trace(model, inputs).kernels.removable == removable


class Own(nn.Conv2d):
    """A convolution of the user's own, which may do anything."""


def test_a_layer_of_the_users_own_is_not_taken_apart():
    model, inputs = branches.residual()
    model[1].conv2.__class__ = Own
    assert trace(model, inputs).kernels.removable == {"2.conv1"}


def test_a_branch_that_two_layers_read_goes_only_where_both_are_added():
    class Twice(branches.Perceptron):
        def forward(self, x):
            hidden = nn.functional.gelu(self.up(self.norm(x)))
            return (x + self.down(hidden)) * hidden.mean()

    model, inputs = branches.perceptrons()
    model[1].__class__ = Twice
    assert trace(model, inputs).kernels.removable == {"2.up"}


def test_what_can_not_be_removed_keeps_at_least_one_unit():
    model, inputs = branches.residual()
    network = trace(model, inputs)
    network.kernels.kept([Candidate.of({**network.dense, "1.conv1": 0})])
    with pytest.raises(CandidateError, match="'0' must keep at least one unit"):
        network.kernels.kept([Candidate.of({**network.dense, "0": 0})])
    with pytest.raises(CandidateError, match="from 0 up, got -1"):
        Candidate.of({**network.dense, "1.conv1": -1})
