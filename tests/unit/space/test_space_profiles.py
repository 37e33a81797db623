import numpy as np

from autoprune.space.profiles import exponents, kernels_touched, profile_levels, widely_shared
from autoprune.space.projection import Oracle
from autoprune.space.space import SearchSpace
from autoprune.testing.problems import ShapeCost, SyntheticProblem


def make(trunk, budget=0.5):
    problem = SyntheticProblem.resnet(blocks=3, trunk=trunk)
    space = SearchSpace.from_network(problem)
    return space, Oracle(space, problem.budget(budget), ShapeCost())


def test_trunks_are_widely_shared_and_inner_groups_are_not():
    space, _ = make(trunk=True)
    names = [decision.group for decision in space.decisions]
    touched = dict(zip(names, kernels_touched(space).tolist(), strict=True))
    assert touched["layer2.1.conv1"] == 2  # its own convolution and the next
    assert touched["layer1.trunk"] == 1 + 2 * 3 + 1  # stem, three blocks, the next stage's first
    assert [n for n, wide in zip(names, widely_shared(space), strict=True) if wide] == [
        "layer1.trunk",
        "layer2.trunk",
        "layer3.trunk",
    ]


def test_sparing_profiles_keep_trunks_whole_and_hold():
    space, oracle = make(trunk=True)
    wide = widely_shared(space)
    profiles = dict(exponents(space))
    levels = profile_levels(oracle, profiles["spare"], fill=False)
    assert oracle.holds(levels[None])[0]
    assert (space.choice(levels)[wide] == space.units[wide]).all()
    ratio = space.choice(levels)[~wide] / space.units[~wide]
    assert np.ptp(ratio) < 0.1
    late = profile_levels(oracle, profiles["spare, later"])
    inner = (space.choice(late) / space.units)[~wide]
    assert inner[:3].mean() < inner[-3:].mean()
    assert oracle.holds(late[None])[0]


def test_profiles_that_cannot_hold_or_say_nothing_new_are_left_out():
    space, oracle = make(trunk=True, budget=0.03)
    assert profile_levels(oracle, dict(exponents(space))["spare"]) is None
    plain, _ = make(trunk=False)
    names = [name for name, _ in exponents(plain)]
    assert "spare" not in names
    assert names[0] == "uniform"
