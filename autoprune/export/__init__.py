"""Networks in the formats that devices run."""

from autoprune.export.artifacts import artifacts
from autoprune.export.onnx import export_onnx, input_arrays
from autoprune.export.precision import convert_onnx
from autoprune.export.sliced import OnnxSlicer

__all__ = ["OnnxSlicer", "artifacts", "convert_onnx", "export_onnx", "input_arrays"]
