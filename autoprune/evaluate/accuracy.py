"""Top-1 accuracy on samples that are held in memory: an evaluator that can be raced."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.errors import ConfigError


class Accuracy:
    """Share of the samples whose greatest logit is their label's.

    Args:
        inputs: (samples, ...), what the network takes, on any device.
        labels: (samples,) integers.
        batch: samples in a forward pass.

    Raises:
        ConfigError: inputs and labels don't match, or there are none.
    """

    def __init__(self, inputs: Tensor, labels: Tensor, batch: int = 50) -> None:
        if not len(inputs) or labels.shape != (len(inputs),):
            raise ConfigError(
                "inputs and labels must be as many, and at least one; got inputs of shape "
                f"{tuple(inputs.shape)} and labels of shape {tuple(labels.shape)}"
            )
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, got {batch}")
        self.inputs, self.labels, self.batch = inputs, labels, batch
        self.samples = len(inputs)

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]], batch: int = 50) -> Accuracy:
        """From batches of (inputs, labels), all of which are kept in memory.

        Raises:
            ConfigError: there are none.
        """
        pairs = list(batches)
        if not pairs:
            raise ConfigError("accuracy needs at least one batch of (inputs, labels), got none")
        return cls(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]), batch)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """{"accuracy": share}, on all samples."""
        starts = range(0, self.samples, self.batch)
        parts = [slice(start, start + self.batch) for start in starts]
        found = [self._right(model, self.inputs[part], self.labels[part]) for part in parts]
        return {"accuracy": sum(int(part.sum()) for part in found) / self.samples}

    def hits(self, model: nn.Module, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(len(indices),) whether the network is right on these samples."""
        chosen = torch.from_numpy(indices)
        parts = [chosen[i : i + self.batch] for i in range(0, len(chosen), self.batch)]
        found = [self._right(model, self.inputs[part], self.labels[part]) for part in parts]
        result: npt.NDArray[np.bool_] = torch.cat(found).cpu().numpy()
        return result

    def _right(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        device = next((p.device for p in model.parameters()), inputs.device)
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                found: Tensor = model(inputs.to(device)).argmax(-1) == labels.to(device)
        finally:
            model.train(training)
        return found
