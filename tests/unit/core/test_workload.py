import copy
import pickle

import numpy as np
import pytest

from autoprune.core import Candidate, KernelGraph
from autoprune.core.errors import CandidateError


@pytest.fixture
def graph() -> KernelGraph:
    # sizes: a constant 3, group a, group b, and a concatenation of a and b's four copies
    return KernelGraph(
        groups=("a", "b"),
        units=np.array([8, 4]),
        base=np.array([3, 0, 0, 0]),
        weight=np.array([[0, 0], [1, 0], [0, 1], [1, 4]]),
        kernels=(),
    )


def test_sizes_are_affine_in_the_kept_units(graph: KernelGraph) -> None:
    workloads = graph.workloads([graph.dense, Candidate.of({"b": 1, "a": 5})])
    assert workloads.sizes.tolist() == [[3, 8, 4, 24], [3, 5, 1, 9]]
    assert workloads.shape((0, 3)).tolist() == [[3, 24], [3, 9]]
    assert len(workloads[1]) == 1
    assert workloads[-1].kept.tolist() == [[5, 1]]
    assert workloads.candidates()[1] == Candidate.of({"a": 5, "b": 1})


@pytest.mark.parametrize("kept", [{"a": 8}, {"a": 8, "b": 4, "c": 1}, {"a": 9, "b": 1}])
def test_candidates_of_other_networks_are_refused(graph: KernelGraph, kept: dict[str, int]) -> None:
    with pytest.raises(CandidateError):
        graph.workloads([Candidate.of(kept)])


@pytest.mark.parametrize("count", [-1, 1.5, True, "2"])
def test_kept_units_are_integers_from_0_up(count: object) -> None:
    with pytest.raises(CandidateError, match="from 0 up"):
        Candidate((("a", count),))  # type: ignore[arg-type]


def test_a_group_is_named_once() -> None:
    with pytest.raises(CandidateError, match="twice: a"):
        Candidate((("a", 1), ("a", 2)))


def test_candidates_hash_and_take_numpy_integers() -> None:
    one, other = Candidate.of({"a": np.int64(3)}), Candidate.of({"a": 3})
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key != Candidate.of({"a": 4}).key


def test_a_candidate_hashes_alike_however_it_came_and_is_sent_without_its_hash():
    candidate = Candidate((("a", 3), ("b", 1)))
    assert hash(candidate) == hash(Candidate.of({"a": 3, "b": 1}))
    for again in (pickle.loads(pickle.dumps(candidate)), copy.deepcopy(candidate)):
        assert vars(again) == {"kept": candidate.kept}  # another process hashes names otherwise
        assert again == candidate
