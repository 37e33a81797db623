import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from autoprune.core.errors import ExportError
from autoprune.export import convert_onnx, export_onnx


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Flatten(),
        nn.Linear(16 * 36, 10),
    ).eval()  # fmt: skip
    x = torch.randn(4, 16, 8, 8)
    data = export_onnx(model, (x,))
    name = onnx.load_from_string(data).graph.input[0].name
    with torch.no_grad():
        return data, {name: x.numpy()}, model(x).numpy()


@pytest.mark.parametrize(
    ("runtime", "precision", "tolerance"),
    [
        ("onnxruntime", "fp16", 0.005),
        ("onnxruntime", "int8", 0.05),
        ("tensorrt", "int8", 0.05),
        ("tensorrt", "fp8", 0.15),
    ],
)
def test_a_converted_network_gives_nearly_the_same(exported, runtime, precision, tolerance):
    data, inputs, wanted = exported
    converted = convert_onnx(data, inputs, precision, runtime, calibration=[*inputs.values()])
    options = onnxruntime.SessionOptions()  # its optimiser is not made for TensorRT's FP8
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(converted, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, inputs)
    assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()
    assert len(converted) != len(data)


def test_what_a_runtime_has_not_is_refused(exported):
    data, inputs, _ = exported
    with pytest.raises(ExportError, match=r"onnxruntime \(fp16 int8\).* and 'fp8'"):
        convert_onnx(data, inputs, "fp8", "onnxruntime")
    with pytest.raises(ExportError, match="can't be turned into fp16: it must be an ONNX model"):
        convert_onnx(b"no ONNX", inputs, "fp16", "tensorrt")
    with pytest.raises(ExportError, match="shape"):
        convert_onnx(data, inputs, "int8", "tensorrt", calibration=[np.zeros((1, 2))])
