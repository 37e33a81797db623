"""TensorRT on one GPU: what it is, and engines of ONNX networks that run there.

It is sent to remote devices as it is, as part of the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.errors import ProfilerError
from autoprune.profile.tensorrt_build import (
    LIBRARIES,
    BuildSettings,
    build,
    combined,
    has_timing_cache,
    load_library,
    strongly_typed,
)
from autoprune.profile.tensorrt_cache import TimingCache
from autoprune.profile.tensorrt_cuda import open_cuda
from autoprune.profile.tensorrt_run import EngineRun

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

#: What details tell of a library that takes precision from networks' types, as `networks`.
TYPED = "strongly typed"


class Engines:
    """Builds engines and loads them on a GPU.

    What the builder finds out is kept in a timing cache for each GPU and version.

    Args:
        library: a name in `LIBRARIES`.
        settings: of the builder.
        gpu: number of the GPU.
        cache: the folder of timing caches.

    Attributes:
        about: name, runtime, its version and provider, as of `DeviceSpec`.
        details: as of `DeviceSpec`.
        typed: whether precision comes from the network's types.

    Raises:
        MissingDependencyError: TensorRT, or CUDA for Python, is not installed.
        ProfilerError: there is no such library or GPU, or TensorRT is too old.
    """

    def __init__(self, library: str, settings: BuildSettings, gpu: int, cache: Path) -> None:
        if library not in LIBRARIES:
            raise ProfilerError(f"library must be one of {', '.join(LIBRARIES)}; got {library!r}")
        self._settings = settings
        self._library = load_library(library)
        self._cuda = open_cuda(gpu)
        name, capability, driver = self._cuda.about()
        version = str(self._library.__version__)
        self.typed = strongly_typed(self._library)
        self.about = {
            "name": name,
            "runtime": library,
            "runtime_version": version,
            "provider": "cuda",
        }
        self.details = {
            "gpu": str(gpu),
            "compute_capability": capability,
            "cuda": driver,
            "networks": TYPED if self.typed else "precision by the builder's flags",
            "clock": "CUDA events around a CUDA graph",
        }
        self._cache = TimingCache(f"{name}-sm{capability}", version, cache)

    def make(
        self, onnx: bytes, inputs: Mapping[str, npt.NDArray[np.generic]], *, sparse: bool
    ) -> EngineRun:
        """Build a network's engine and load it.

        Args:
            onnx: the serialised model, converted to its precision where networks are typed.
            inputs: name → array to feed.
            sparse: whether it has 2:4 sparse weights.

        Raises:
            ProfilerError: it can't be parsed, built, loaded or run; says what TensorRT says.
        """
        kept = self._cache.load() if has_timing_cache(self._library) else b""
        plan = build(self._library, onnx, inputs, self._settings, sparse=sparse, cache=kept)
        self._cache.store(plan.cache, lambda old, new: combined(self._library, old, new))
        return EngineRun(self._library, self._cuda, plan.data, inputs)
