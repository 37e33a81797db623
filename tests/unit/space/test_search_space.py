import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError, ConfigError
from autoprune.space.space import Decision, SearchSpace
from autoprune.testing.problems import SyntheticProblem, residual_graph

PROBLEM = SyntheticProblem.resnet(blocks=2, trunk=True)
SPACES = [
    SearchSpace.from_network(PROBLEM),
    SearchSpace.from_network(PROBLEM, multiple_of=8, min_keep=0.25),
    SearchSpace.from_network(PROBLEM, tie="shape"),
    SearchSpace.from_network(
        PROBLEM, overrides={"layer1.*": "freeze", "layer2.*": {"max_keep": 0.5}}
    ),
]


def choices(space, group):
    return next(d.choices for d in space.decisions if group in (d.group, *d.tied))


def test_defaults_are_every_unit_or_even_steps():
    space = SearchSpace.from_network(PROBLEM)
    assert choices(space, "layer1.0.conv1") == tuple(range(1, 17))
    assert choices(space, "layer2.0.conv1") == tuple(range(2, 33, 2))
    assert choices(space, "layer3.trunk") == tuple(range(4, 65, 4))
    assert len(space) == len(PROBLEM.kernels.groups) == 9
    assert space.size == 16**9
    assert space.largest == space.dense
    assert dict(space.smallest)["layer3.trunk"] == 4


@pytest.mark.parametrize("units", [2, 16, 17, 24, 100, 512, 1000])
def test_any_width_has_few_choices_and_ends_dense(units):
    space = SearchSpace.from_network(SyntheticProblem(residual_graph((units,), 1)))
    offered = space.decisions[0].choices
    assert offered[-1] == units
    assert 2 <= len(offered) <= 17


def test_settings_for_all_groups():
    eight = SearchSpace.from_network(PROBLEM, multiple_of=8)
    assert choices(eight, "layer1.0.conv1") == (8, 16)
    assert choices(eight, "layer3.0.conv1") == tuple(range(8, 65, 8))
    half = SearchSpace.from_network(PROBLEM, min_keep=0.5)
    assert choices(half, "layer1.0.conv1") == tuple(range(8, 17))
    ratios = SearchSpace.from_network(PROBLEM, choices=(0.25, 0.5, 1.0))
    assert choices(ratios, "layer3.0.conv1") == (16, 32, 64)
    few = SearchSpace.from_network(PROBLEM, levels=4)
    assert choices(few, "layer1.0.conv1") == (4, 8, 12, 16)


def test_edges_of_a_table_take_the_place_of_even_steps():
    edges = {"layer1.0.conv1": (4, 12), "layer3.0.conv1": (16, 48, 64)}
    space = SearchSpace.from_network(
        PROBLEM,
        edges=lambda group: edges.get(group, ()),
        overrides={"layer3.0.conv1": {"min_keep": 0.5}},
    )
    assert choices(space, "layer1.0.conv1") == (4, 12, 16)
    assert choices(space, "layer3.0.conv1") == (48, 64)
    assert choices(space, "layer2.0.conv1") == tuple(range(2, 33, 2))


def test_overrides_later_patterns_win():
    space = SearchSpace.from_network(
        PROBLEM,
        overrides={
            "layer1.*": {"min_keep": 0.5, "multiple_of": 4},
            "layer1.1.*": "freeze",
            "layer2.0.conv1": {"choices": [32, 8]},
            "layer3.*": {"max_keep": 0.5},
        },
    )
    assert choices(space, "layer1.0.conv1") == (8, 12, 16)
    assert choices(space, "layer1.1.conv1") == (16,)
    assert choices(space, "layer2.0.conv1") == (8, 32)
    assert choices(space, "layer3.trunk")[-1] == 32
    assert space.largest != space.dense


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layer9.*": "freeze"}, "matches none; the groups are: layer1.trunk"),
        ({"layer1.*": {"min_kep": 0.5}}, "unknown key 'min_kep' .known: freeze, min_keep"),
        ({"layer1.*": {"min_keep": 1.5}}, "min_keep: .* got 1.5"),
        ({"layer1.*": {"min_keep": 0.9, "max_keep": 0.5}}, "must not exceed max_keep"),
        ({"layer1.*": {"choices": [99]}}, "at most its 16 units, got 99"),
        ({"layer1.*": {"max_keep": 0.3, "multiple_of": 8}}, "no choice left"),
        ({"layer1.*": "frozen"}, "must be 'freeze' or a mapping"),
    ],
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace.from_network(PROBLEM, overrides=overrides)


def test_ties_join_the_blocks_of_a_stage():
    space = SearchSpace.from_network(PROBLEM, tie="shape")
    assert len(space) == 6
    blocks = next(d for d in space.decisions if d.group == "layer2.0.conv1")
    assert blocks.tied == ("layer2.1.conv1",)
    candidate = space.sample(np.random.default_rng(0))
    assert candidate["layer2.0.conv1"] == candidate["layer2.1.conv1"]
    with pytest.raises(ConfigError, match="tie must be"):
        SearchSpace.from_network(PROBLEM, tie="stage")


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ([Decision("nowhere", (1, 2))], "must name a group of the network"),
        ([Decision("layer1.trunk", (1, 2)), Decision("layer1.trunk", (1,))], "has two"),
        ([Decision("layer1.trunk", (1, 99))], "at most its 16 units, got 99"),
    ],
)
def test_wrong_decisions(decisions, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(PROBLEM.kernels, decisions)
    for wrong in ((), (2, 1), (1, 1), (-1, 1)):
        with pytest.raises(ConfigError, match="choices of group 'g' must be"):
            Decision("g", wrong)


def test_groups_without_a_decision_stay_dense():
    space = SearchSpace(PROBLEM.kernels, [Decision("layer1.trunk", (4, 8))])
    assert dict(space.smallest) == {**dict(space.dense), "layer1.trunk": 4}
    assert dict(space.decode([1.0]))["layer1.trunk"] == 8


@pytest.mark.parametrize("space", SPACES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_decode_and_encode(space, data):
    x = np.array(
        data.draw(st.lists(st.floats(-0.5, 1.5), min_size=len(space), max_size=len(space)))
    )
    candidate = space.decode(x)
    point = space.encode(candidate)
    assert point.shape == (len(space),)
    assert point.min() >= 0
    assert point.max() <= 1
    assert space.decode(point) == candidate
    np.testing.assert_array_equal(space.encode(space.decode(point)), point)
    # No choice of any decision is nearer than the one that was taken.
    wanted = space.units_at(x)
    kept = space.choice(space.levels(candidate))
    for decision, want, got in zip(space.decisions, wanted, kept, strict=True):
        assert abs(got - want) <= min(abs(c - want) for c in decision.choices) + 1e-9


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_samples_are_candidates_of_the_space(seed):
    for space in SPACES:
        candidate = space.sample(np.random.default_rng(seed))
        assert space.candidate(space.levels(candidate)) == candidate
        assert space.sample(np.random.default_rng(seed)) == candidate


def test_ends_of_the_cube():
    for space in SPACES:
        assert space.decode(np.zeros(len(space))) == space.smallest
        assert space.decode(np.ones(len(space))) == space.largest


def test_points_and_candidates_that_do_not_fit():
    space = SPACES[0]
    for wrong in (np.zeros(3), np.full(len(space), np.nan)):
        with pytest.raises(CandidateError, match=r"must be .9,. finite numbers"):
            space.decode(wrong)
    odd = Candidate.of({**dict(space.dense), "layer3.trunk": 7})
    with pytest.raises(CandidateError, match=r"'layer3.trunk' must keep one of .4, 8.* keeps 7"):
        space.encode(odd)
    with pytest.raises(CandidateError, match="must name every group"):
        space.encode(Candidate.of({"layer3.trunk": 8}))
