"""The network as a device measured it, in that device's precision, to be shipped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from autoprune.core.device import Artifact
from autoprune.core.errors import ExportError, ProfilerError
from autoprune.profile.onnx_precision import Converter

#: Runtime → precisions that networks are converted to for it.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp16", "int8"),
    "tensorrt": ("fp16", "bf16", "int8", "fp8"),
}


def convert_onnx(
    onnx: bytes,
    inputs: Mapping[str, npt.NDArray[np.generic]],
    precision: str,
    runtime: str,
    calibration: object = None,
    *,
    reduce_range: bool = True,
) -> bytes:
    """Turn an exported network into another precision, as the runtime's profiler does.

    Args:
        onnx: the serialised model in 32 bits.
        inputs: example inputs by name.
        precision: "fp16", or "int8"; for TensorRT "bf16" and "fp8" too.
        runtime: "onnxruntime", or "tensorrt" (types for its strongly typed networks).
        calibration: for int8 and fp8: batches of inputs, or an .npz file with an array for each
            input. Without it scales come from the example inputs, which costs accuracy.
        reduce_range: for onnxruntime and int8: weights in 7 of the 8 bits, so that no CPU gets
            wrong sums (those without VNNI do with 8); False where all that it runs on have VNNI,
            or are no x86.

    Returns:
        The serialised model; its inputs and outputs stay in 32 bits.

    Raises:
        ExportError: the runtime has no such precision, or the network can't be converted.
    """
    if precision not in TARGETS.get(runtime, ()):
        raise ExportError(
            "a network must be converted for one of "
            + ", ".join(f"{name} ({' '.join(has)})" for name, has in TARGETS.items())
            + f"; got {runtime!r} and {precision!r}"
        )
    own = runtime == "tensorrt"
    try:
        converter = Converter(
            precision,
            rest="fp16" if own else "fp32",
            calibration=calibration,
            quantizer="own" if own else "onnxruntime",
            reduce_range=reduce_range,
        )
        return converter.convert(Artifact("network", onnx, inputs)).onnx
    except ProfilerError as error:
        raise ExportError(f"the network can't be turned into {precision}: {error}") from error
