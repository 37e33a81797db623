"""The device of a search: measures candidates and finished networks against the dense one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from autoprune.core.candidate import Candidate
from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol, Profiler
from autoprune.core.errors import ProfilerError
from autoprune.study.config import VerifySettings

if TYPE_CHECKING:
    from autoprune.export.sliced import OnnxSlicer
    from autoprune.graph.network import Network, Selection


class DeviceMeasure:
    """Measures end to end.

    Args:
        network: traced.
        profiler: of the device.
        select: candidate → which units it keeps.
        settings: how narrow, how long.
        seed: of the shuffled rounds.
    """

    def __init__(
        self,
        network: Network,
        profiler: Profiler,
        select: Callable[[Candidate], Selection],
        settings: VerifySettings,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.profiler = profiler
        self._select = select
        self._settings = settings
        self._seed = seed

    @property
    def spec(self) -> DeviceSpec:
        """What it measures on."""
        return self.profiler.device

    @cached_property
    def slicer(self) -> OnnxSlicer:
        """The dense network's one ONNX export, of which candidates are slices."""
        from autoprune.export.sliced import OnnxSlicer

        return OnnxSlicer(self.network)

    def candidates(self, candidates: Sequence[Candidate], effort: float) -> list[Measurement]:
        """Measure candidates; their weights don't matter to the device, so they are only sliced.

        Args:
            candidates: distinct.
            effort: the time limit and the narrowness aimed at are scaled by it.

        Raises:
            ProfilerError: the profiler gave another number of measurements.
        """
        models = [self.slicer.slice(self._select(c)) for c in (self.network.dense, *candidates)]
        keys = ["dense", *(candidate.key for candidate in candidates)]
        return self._measure(keys, models, effort)[1:]

    def model(self, onnx: bytes, dense: bytes, effort: float = 1.0) -> list[Measurement]:
        """Measure an exported network beside the dense one; the dense one's comes first.

        Raises:
            ProfilerError: the profiler gave another number of measurements.
        """
        return self._measure(["dense", "pruned"], [dense, onnx], effort)

    def _measure(
        self, keys: Sequence[str], models: Sequence[bytes], effort: float
    ) -> list[Measurement]:
        settings = self._settings
        default = MeasuringProtocol()
        protocol = replace(
            default,
            width=settings.width / effort**0.5,
            timeout_s=settings.timeout_s * effort * (len(models) - 1),
            max_rounds=round(default.max_rounds * effort),
            confidence=settings.confidence,
            seed=self._seed,
        )
        artifacts = [
            Artifact(key, model, feeds(model, self.network.example_inputs))
            for key, model in zip(keys, models, strict=True)
        ]
        found = self.profiler.measure(artifacts, protocol)
        if len(found) != len(artifacts):
            raise ProfilerError(
                f"the profiler {type(self.profiler).__name__} must give one measurement for each "
                f"artifact, got {len(found)} for {len(artifacts)}"
            )
        return found


def feeds(model: bytes, inputs: tuple[Any, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """The example inputs under the names that an ONNX model gives them.

    Raises:
        ProfilerError: the model takes another number of inputs.
    """
    import onnx

    graph = onnx.load_from_string(model).graph
    weights = {weight.name for weight in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    leaves = torch.utils._pytree.tree_leaves(inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(names) != len(tensors):
        raise ProfilerError(
            f"the exported network takes {len(names)} inputs ({', '.join(names)}), the example "
            f"inputs hold {len(tensors)} tensors; give every input as a tensor"
        )
    return {n: t.detach().cpu().numpy() for n, t in zip(names, tensors, strict=True)}
