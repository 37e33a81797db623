"""`save` and `load`: readable files, and clear errors for every file that is not right."""

import json

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from traced import random_selection, traced

from autoprune.core.candidate import Candidate
from autoprune.core.errors import ConfigError
from autoprune.pruning import GraphNetwork, load, prune, save


@pytest.fixture
def folder(tmp_path):
    network = traced("resnet")
    save(prune(network, random_selection(network, np.random.default_rng(0))), tmp_path / "run")
    return tmp_path / "run"


def test_files_and_schema(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["plan.json", "pruned.safetensors"]
    plan = json.loads((folder / "plan.json").read_text())
    assert list(plan) == [
        "schema",
        "autoprune",
        "model",
        "form",
        "note",
        "groups",
        "tensors",
        "patches",
        "tied",
        "fixed",
        "inputs",
    ]
    assert plan["schema"] == 1
    assert plan["model"] == "ResNet"
    weights = load_file(folder / "pruned.safetensors")
    for name, entry in plan["tensors"].items():
        shape = [len(entry["kept"].get(str(d), range(n))) for d, n in enumerate(entry["shape"])]
        assert list(weights[name].shape) == shape
    assert plan["inputs"]["args"] == [{"tensor": [2, 3, 16, 16], "dtype": "float32"}]


def test_stored_indices_are_those_of_the_dense_weights(folder):
    plan = json.loads((folder / "plan.json").read_text())
    dense = traced("resnet").model.state_dict()
    for name, tensor in load_file(folder / "pruned.safetensors").items():
        expected = dense[name]
        for dim, kept in plan["tensors"][name]["kept"].items():
            expected = expected.index_select(int(dim), torch.tensor(kept))
        assert torch.equal(tensor, expected)


def test_keeps_what_takes_no_gradient_and_the_dtype(tmp_path):
    network = traced("vgg")
    pruned = prune(network, network.dense).to(torch.bfloat16)
    pruned[0].weight.requires_grad_(False)
    save(pruned, tmp_path)
    loaded = load(tmp_path, zoo.build("vgg")[0].train())
    assert not loaded[0].weight.requires_grad
    assert loaded[1].weight.requires_grad
    assert loaded[0].weight.dtype == torch.bfloat16
    assert loaded.training


def test_graph_with_a_network_that_is_traced_already(tmp_path):
    network = traced("hard_coded")
    pruned = prune(network, Candidate.of({g.name: g.units // 2 for g in network.groups}))
    save(pruned, tmp_path)
    loaded = load(tmp_path, zoo.build("hard_coded")[0], network=network)
    assert isinstance(loaded, GraphNetwork)
    assert loaded.autoprune_note == pruned.autoprune_note
    x = network.example_inputs
    assert torch.equal(loaded(*x), pruned(*x))
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again/plan.json").read_text() == (tmp_path / "plan.json").read_text()


def test_dense_model_is_not_changed(folder):
    model, _ = zoo.build("resnet")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load(folder, model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def edit(folder, **changes):
    path = folder / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refuse(folder, match, name="resnet"):
    with pytest.raises(ConfigError, match=match):
        load(folder, zoo.build(name)[0])


def test_missing(folder, tmp_path):
    refuse(tmp_path / "nothing", r"plan\.json must be a plan")
    (folder / "pruned.safetensors").unlink()
    refuse(folder, "must hold the pruned weights")


def test_truncated(folder):
    data = (folder / "pruned.safetensors").read_bytes()
    for length in (0, 4, 100, len(data) - 1):
        (folder / "pruned.safetensors").write_bytes(data[:length])
        refuse(folder, "truncated or damaged")
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text[: len(text) // 2])
    refuse(folder, "truncated or was edited")


def test_newer_schema(folder):
    edit(folder, schema=2, autoprune="9.0")
    refuse(folder, r"schema 2, written by autoprune 9\.0.*Install the newer")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": "1"}, "integer 'schema'"),
        ({"surprise": 1}, "surprise"),
        ({"form": "other"}, "form"),
        ({"groups": {"conv1": {"units": 8, "kept": [-1]}}}, "groups.conv1.kept.0"),
        ({"groups": {"conv1": {"units": 2, "kept": [5]}}}, "a unit that it does not have"),
        ({"patches": [{"module": "no", "attribute": "x", "value": 1}]}, "does not fit the model"),
    ],
)
def test_edited(folder, changes, match):
    edit(folder, **changes)
    refuse(folder, match)


def test_another_architecture(folder):
    refuse(folder, r"tensor 'conv1\.weight'.*got none", "vgg")
    refuse(folder, r"tensor 'layers.2.downsample.0.weight'.*\[16, 8, 1, 1\].*none", "resnet_padded")


def test_weights_of_another_network(folder):
    weights = load_file(folder / "pruned.safetensors")
    save_file({**weights, "extra": torch.ones(1)}, folder / "pruned.safetensors")
    refuse(folder, "'extra'")
    weights["linear.bias"] = torch.ones(3)
    save_file(weights, folder / "pruned.safetensors")
    refuse(folder, r"'linear\.bias' of shape \[5\], got \[3\]")


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    network = traced("vgg")
    with pytest.raises(ConfigError, match="written: Not a directory"):
        save(prune(network, network.dense), tmp_path / "file" / "run")
