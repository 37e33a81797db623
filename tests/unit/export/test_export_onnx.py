import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from autoprune.core.errors import ExportError
from autoprune.export import onnx as module
from autoprune.export.onnx import compare, export_onnx, input_arrays


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, image, scale=None):
        x = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        x = self.head(self.drop(x))
        return x if scale is None else x * scale


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model


def test_gives_torch_s_output_with_the_batch_norm_folded(model, tmp_path):
    path = tmp_path / "new" / "model.onnx"
    inputs = (torch.randn(2, 3, 8, 8),)
    model.train()
    model.drop.eval()
    data = export_onnx(model, inputs, path=path, check=True)
    # The user's model is as it was, module by module.
    assert model.training
    assert model.norm.training
    assert not model.drop.training
    assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load_from_string(data).graph
    assert [i.name for i in graph.input] == ["image"]
    assert "BatchNormalization" not in {n.op_type for n in graph.node}
    assert "conv.weight" in {i.name for i in graph.initializer}
    assert compare(model.eval(), data, inputs) < 1e-5


def test_keyword_inputs_and_dynamic_batch(model):
    inputs, kwargs = (torch.randn(2, 3, 8, 8),), {"scale": torch.randn(2, 2)}
    data = export_onnx(model, inputs, kwargs, dynamic_batch=True, check=True)
    arrays = input_arrays(data, inputs, kwargs)
    assert {n: a.shape for n, a in arrays.items()} == {"image": (2, 3, 8, 8), "scale": (2, 2)}
    more, scale = torch.randn(5, 3, 8, 8), torch.randn(5, 2)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": more.numpy(), "scale": scale.numpy()})
    with torch.no_grad():
        want = model.eval()(more, scale).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_says_nothing_on_the_screen(model, capsys, caplog):
    with caplog.at_level(logging.DEBUG, logger="autoprune"):
        export_onnx(model, (torch.randn(1, 3, 8, 8),))
    assert capsys.readouterr() == ("", "")


def test_a_network_that_torch_refuses():
    class Refused(nn.Module):
        def forward(self, x):
            return x * float(x.sum().item() > 0) if x.sum() > 0 else x.nonzero().tolist()

    with pytest.raises(ExportError, match="it refused Refused"):
        export_onnx(Refused(), (torch.randn(2, 3),))


def test_a_wrong_export_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "compare", lambda *_: 0.5)
    with pytest.raises(ExportError, match=r"differs by 0\.5"):
        export_onnx(model, (torch.randn(1, 3, 8, 8),), path=tmp_path / "m.onnx", check=True)
    assert list(tmp_path.iterdir()) == []


def test_compare_finds_another_network(model):
    inputs = (torch.randn(2, 3, 8, 8),)
    data = export_onnx(model, inputs)
    with torch.no_grad():
        model.head.bias += 1.0
    assert compare(model.eval(), data, inputs) > 0.1
    model.head = nn.Linear(4, 3)
    assert compare(model, data, inputs) == float("inf")
    with pytest.raises(ExportError, match="an input for each of the 2 tensors"):
        input_arrays(data, (*inputs, torch.ones(1)))
    with pytest.raises(ExportError, match="can't run"):
        module.run_onnx(b"?", {})


def test_an_unwritable_folder_is_a_clear_error(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="can't be written"):
        export_onnx(model, (torch.randn(1, 3, 8, 8),), path=tmp_path / "file" / "m.onnx")


def test_inputs_in_bfloat16():
    x = torch.randn(2, 4).bfloat16()
    data = export_onnx(nn.Linear(4, 4).bfloat16(), (x,))
    (array,) = input_arrays(data, (x,)).values()
    assert str(array.dtype) == "bfloat16"
    assert torch.equal(torch.from_numpy(array.astype("float32")), x.float())
