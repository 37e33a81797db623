import numpy as np
import pytest
import torch

from autoprune.core.errors import ProfilerError
from autoprune.profile.calibration import MOST_FEEDS, feeds, load_batches

INPUTS = {"x": np.zeros((2, 3), np.float32)}


def test_batches_are_cut_to_the_networks_shape():
    batch = torch.arange(15.0).reshape(5, 3)
    found = feeds([batch], INPUTS)
    assert [f["x"].tolist() for f in found] == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7, 8], [9, 10, 11]],
    ]
    assert found[0]["x"].dtype == np.float32


def test_a_batch_that_is_too_small_is_repeated():
    (found,) = feeds([np.ones((1, 3))], INPUTS)
    assert found["x"].shape == (2, 3)


def test_batches_may_be_tuples_or_named_and_are_at_most_so_many():
    inputs = {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1,), np.int64)}
    rows = np.random.default_rng(0).random((100, 2))
    ids = np.arange(100)
    by_order = feeds([(rows, ids)], inputs)
    assert len(by_order) == MOST_FEEDS
    for batch in ({"b": ids, "a": rows}, {"first": rows, "second": ids}):
        assert [f["b"].tolist() for f in feeds([batch], inputs)] == [
            f["b"].tolist() for f in by_order
        ]
    assert by_order[3]["b"].dtype == np.int64


def test_a_file_is_read(tmp_path):
    path = tmp_path / "batches.npz"
    np.savez(path, x=np.ones((4, 3), np.float32))
    assert len(feeds(load_batches(str(path)), INPUTS)) == 2


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([np.zeros((2, 4))], r"shape \(3,\) in calibration batches too, got \(4,\)"),
        ([(np.zeros((2, 3)), np.zeros(2))], r"must hold the network's inputs \['x'\]"),
        ([{"y": 1, "z": 2}], r"got \['y', 'z'\]"),
        ([np.zeros((0, 3))], "a sample at least"),
        (3, "must be batches of inputs or an .npz file; got int"),
    ],
)
def test_wrong_batches_are_refused(batches, said):
    with pytest.raises(ProfilerError, match=said):
        feeds(load_batches(batches), INPUTS)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "batches.npz"
    with pytest.raises(ProfilerError, match="can't be read"):
        load_batches(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ProfilerError, match="can't be read"):
        load_batches(path)
