"""Selections: the most important units, stable."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traced import traced

from autoprune.core.candidate import Candidate
from autoprune.core.errors import CandidateError
from autoprune.pruning import select
from autoprune.pruning.importance import Norm
from autoprune.pruning.selection import selector


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_keeps_the_highest_scores_lower_index_first(data):
    network = traced("resnet")
    kept = {g.name: data.draw(st.integers(1, g.units)) for g in network.groups}
    scores = {
        g.name: np.array(data.draw(st.lists(st.integers(0, 3), min_size=g.units, max_size=g.units)))
        for g in network.groups
    }
    selection = select(network, Candidate.of(kept), scores=scores)
    for group in network.groups:
        ranked = sorted(range(group.units), key=lambda i: (-scores[group.name][i], i))
        expected = sorted(ranked[: kept[group.name]])
        assert np.flatnonzero(selection[group.name]).tolist() == expected


def test_smaller_candidates_are_nested():
    network = traced("vgg")
    larger = select(network, Candidate.of({g.name: g.units - 1 for g in network.groups}))
    smaller = select(network, Candidate.of({g.name: g.units // 2 for g in network.groups}))
    assert all((larger[n] | ~smaller[n]).all() for n in larger)


def test_a_selector_scores_once_and_selects_the_same():
    network = traced("vgg")
    asked = []

    class Counted(Norm):
        def scores(self, network):
            asked.append(network)
            return super().scores(network)

    half = [Candidate.of({g.name: g.units // n for g in network.groups}) for n in (1, 2, 3)]
    chosen = selector(network, Counted())
    for candidate in half:
        expected = select(network, candidate)
        found = chosen(candidate)
        assert all((found[name] == expected[name]).all() for name in expected)
    assert asked == [network]


def test_refuses():
    network = traced("vgg")
    good = dict(network.dense.kept)
    scores = {g.name: np.ones(g.units) for g in network.groups}
    with pytest.raises(CandidateError, match="missing"):
        select(network, Candidate.of({"0": 1}))
    with pytest.raises(CandidateError, match="has 8 units"):
        select(network, Candidate.of({**good, "0": 9}))
    with pytest.raises(CandidateError, match="8 numbers"):
        select(network, network.dense, scores={**scores, "0": np.ones(7)})
    with pytest.raises(CandidateError, match="8 numbers"):
        select(network, network.dense, scores={**scores, "0": np.full(8, np.nan)})
    with pytest.raises(CandidateError, match="'0' must be 8 numbers, got none"):
        select(network, network.dense, scores={k: v for k, v in scores.items() if k != "0"})
