import pytest
import torch

from autoprune.core.errors import ConfigError
from autoprune.study.config import validate
from autoprune.study.task import as_batches, as_inputs, example_inputs, task_from_config

GOOD = {
    "model": "tiny_task:build",
    "inputs": "2x3x8x8",
    "evaluate": "tiny_task:evaluate",
    "calibration": "tiny_task:calibration",
    "train": {"name": "tiny_task:train", "options": {"batch": 128}},
    "budget": "macs=0.5x",
}


def test_a_config_becomes_objects(tmp_path):
    task = task_from_config(validate(GOOD, "test"), tmp_path)
    assert isinstance(task.model, torch.nn.Module)
    assert task.example_inputs[0].shape == (2, 3, 8, 8)
    assert task.evaluate(task.model)["accuracy"] == 1.0
    assert len(task.calibration) == 1
    assert len(list(task.train)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "tiny_task:inputs"}, "must return a torch.nn.Module, it returned Tensor"),
        ({"model": None}, "model must be given"),
        ({"evaluate": None}, "evaluate must be given"),
        ({"inputs": None}, "inputs must be given"),
        ({"calibration": "tiny_task:build"}, "must return batches"),
        ({"calibration": "tiny_task:inputs"}, "must return batches"),
        ({"inputs": "tiny_task:build"}, "must be a tensor, a tuple"),
        ({"loss": "tiny_task:nothing"}, "has no 'nothing'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        task_from_config(validate({**GOOD, **change}, "test"), tmp_path)


def test_shapes():
    first, second = example_inputs("2x3, 1x7:int64", None)
    assert (first.shape, first.dtype) == ((2, 3), torch.float32)
    assert (second.shape, second.dtype) == ((1, 7), torch.int64)
    assert float(first.std()) > 0
    assert torch.equal(first, example_inputs("2x3", None)[0])


@pytest.mark.parametrize("text", ["2x0", "2x", "3x8:complex", "1.5x2"])
def test_what_is_no_shape(text):
    with pytest.raises(ConfigError, match="shapes such as"):
        example_inputs(text, None)


def test_inputs_are_a_tuple_or_named():
    x = torch.ones(1)
    assert as_inputs(x) == (x,)
    assert as_inputs([x, x]) == (x, x)
    assert as_inputs({"x": x}) == {"x": x}
    for given, kind in ((set(), "set"), ({}, "dict"), ((), "tuple")):
        with pytest.raises(ConfigError, match=f"got {kind}"):
            as_inputs(given)


def _failing():
    yield torch.ones(1)
    raise OSError("no such image")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(4, 3), r"several batches .* single Tensor; give \[batch\]"),
        ({"x": torch.ones(4, 3)}, "single dict"),
        (_failing, "got function; give what it returns"),
        ("runs/data", "got str"),
        (3, "got int"),
        (_failing(), r"OSError: no such image \(_failing, test_task.py"),
    ],
)
def test_what_is_no_batches(given, message):
    with pytest.raises(ConfigError, match=message):
        as_batches(given)


def test_batches_are_a_list():
    x = torch.ones(1)
    assert as_batches(iter([x, x])) == [x, x]
