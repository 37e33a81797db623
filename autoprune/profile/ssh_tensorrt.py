"""TensorRT on a remote device, by its Python bindings there; networks are converted here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from autoprune.core.device import Artifact, KernelTime
from autoprune.core.errors import ProfilerError
from autoprune.profile.calibration import load_batches
from autoprune.profile.onnx_quantize import LARGEST
from autoprune.profile.replies import Told
from autoprune.profile.ssh_runtime import FOLDER, RemoteRuntime, Sent
from autoprune.profile.tensorrt import network_converter
from autoprune.profile.tensorrt_build import BuildSettings
from autoprune.profile.tensorrt_engines import TYPED
from autoprune.profile.tensorrt_layers import LayerInfo
from autoprune.profile.tensorrt_nodes import OnnxNodes
from autoprune.profile.tensorrt_sparse import sparse

#: Seconds that loading a network may take, in which its engine is built; as of `TrtexecProfiler`.
BUILD_S = 600.0


class TensorRTThere(RemoteRuntime):
    """TensorRT there; arguments as of `TensorRTProfiler`.

    Which precision a network is converted to depends on the version of TensorRT there, so it must
    have been told (`started`) before networks are made ready.
    """

    library = "tensorrt"
    beside = True
    load_s = BUILD_S

    def __init__(
        self,
        precision: str = "fp32",
        sparse_weights: bool = False,
        optimization_level: int = 3,
        gpu: int = 0,
        calibration: object = None,
    ) -> None:
        self._build = BuildSettings(precision, sparse_weights, optimization_level)
        calibrated = precision in LARGEST and calibration is not None
        self._batches = load_batches(calibration) if calibrated else None
        self._typed: bool | None = None
        super().__init__(
            "tensorrt",
            precision,
            {
                "library": self.library,
                "precision": precision,
                "sparse_weights": sparse_weights,
                "optimization_level": optimization_level,
                "gpu": gpu,
                "cache": f"{FOLDER}/tensorrt",
            },
            settings=self._build.told(),
        )

    def started(self, details: Mapping[str, str]) -> None:
        """As of `RemoteRuntime`: whether networks are strongly typed there."""
        typed = details.get("networks") == TYPED
        if typed != self._typed:
            self._converter = network_converter(self.precision, typed, self._batches)
            self._typed = typed

    def ready(self, artifacts: Sequence[Artifact]) -> tuple[list[Sent], dict[int, str]]:
        """As of `RemoteRuntime`: each with what the agent is told of it."""
        found, errors = super().ready(artifacts)
        return [self._told(s) if i not in errors else s for i, s in enumerate(found)], errors

    def kernels(self, told: Sequence[Told], sent: Sent) -> tuple[KernelTime, ...]:
        """As of `RemoteRuntime`: told in layers of the network."""
        nodes = OnnxNodes(sent.onnx)
        return tuple(nodes.kernel(layer_info(t), t.kernel.name, t.kernel.latency_ms) for t in told)

    def _told(self, sent: Sent) -> Sent:
        line = json.dumps({"sparse": sparse(self._build, sent.onnx)}).encode() + b"\n"
        return Sent(line + sent.onnx, sent.inputs, sent.onnx)


class TensorRTRtxThere(TensorRTThere):
    """TensorRT for RTX there; arguments as of `TensorRTProfiler`."""

    library = "tensorrt_rtx"


def layer_info(told: Told) -> LayerInfo:
    """What the agent told of a layer of the engine.

    Raises:
        ProfilerError: its name and metadata are not among it.
    """
    try:
        name, metadata = json.loads(told.about)
    except (ValueError, TypeError) as error:
        raise ProfilerError(
            f"about of the kernel {told.kernel.name!r} of the device must be its layer's name and "
            f"metadata, got {told.about[:200]!r}"
        ) from error
    kernel = told.kernel
    return LayerInfo(str(name), kernel.op, str(metadata), kernel.input_shapes, kernel.output_shapes)
