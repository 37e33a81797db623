"""TensorRT at the agent on a remote device, by its Python bindings.

It is sent there as it is, as part of the agent. What a network's layers are called on the other
side is found out there: it needs the package onnx.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.errors import MissingDependencyError, ProfilerError
from autoprune.profile.agent_running import Running, Runtime
from autoprune.profile.tensorrt_build import BuildSettings
from autoprune.profile.tensorrt_engines import Engines
from autoprune.profile.tensorrt_run import EngineRun, profile_beside


class TensorRT(Runtime):
    """TensorRT, or TensorRT for RTX, on one GPU.

    A network's file is a line of JSON, `{"sparse": true}` where it has 2:4 sparse weights, and
    after it the network as ONNX.

    Args:
        library: "tensorrt" or "tensorrt_rtx".
        precision: as of `BuildSettings`.
        sparse_weights: likewise.
        optimization_level: likewise.
        gpu: number of the GPU.
        cache: the folder of timing caches.

    Raises:
        ProfilerError: the library, CUDA for Python or the GPU is not there.
    """

    def __init__(
        self,
        library: str,
        precision: str,
        sparse_weights: bool,
        optimization_level: int,
        gpu: int,
        cache: str,
    ) -> None:
        settings = BuildSettings(precision, sparse_weights, optimization_level)
        try:
            self._engines = Engines(library, settings, gpu, Path(cache).expanduser())
        except MissingDependencyError as error:
            raise ProfilerError(
                f"{error}. It must be there for {sys.executable}; the option python names another "
                "interpreter"
            ) from error
        self.about = {**self._engines.about, "threads": 0}
        self.details = self._engines.details
        self.gpu = str(gpu)

    def load(self, model: str, inputs: Mapping[str, Any]) -> Running:
        """As of `Runtime`: builds its engine."""
        with open(model, "rb") as file:
            about = json.loads(file.readline())
            onnx = file.read()
        return self._engines.make(onnx, inputs, sparse=about["sparse"])

    def kernels(self, reference: EngineRun, own: EngineRun) -> tuple[list[dict[str, Any]], float]:
        """As of `Runtime`; `about` is the layer's own name and its metadata, as JSON."""
        times, reference_ms = profile_beside(reference, own)
        return [
            {
                "name": each.name,
                "op": each.info.type,
                "ms": each.ms,
                "input_shapes": each.info.input_shapes,
                "output_shapes": each.info.output_shapes,
                "about": json.dumps([each.info.name, each.info.metadata]),
            }
            for each in times
        ], reference_ms
