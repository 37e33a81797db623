"""What a candidate costs, with its uncertainty and where each figure came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: The built-in metrics, in the order they are shown, with their units.
METRICS: Mapping[str, str] = {
    "latency_ms": "ms per batch, one forward pass of the example inputs",
    "energy_mj": "mJ per batch, one forward pass of the example inputs",
    "macs": "multiply-accumulates per sample (FLOPs = 2 × MACs)",
    "params": "parameters",
    "memory_bytes": "weights and peak activations of one forward pass of the example inputs",
    "weight_bytes": "parameters and buffers",
    "activation_bytes": "peak activations of one forward pass of the example inputs",
}


@dataclass(frozen=True)
class Estimate:
    """One figure.

    Attributes:
        mean: the expected value, in the metric's unit.
        std: its standard deviation, same unit; 0 for an exact figure.
        source: "exact" (counted), "measured" (on the device), "table" (measured kernels),
            "interpolated", "extrapolated" or "modelled".
    """

    mean: float
    std: float = 0.0
    source: str = "exact"

    def upper(self, z: float = 1.645) -> float:
        """One-sided upper bound; the default z = 1.645 is 95 % for a normal error."""
        return self.mean + z * self.std


@dataclass(frozen=True)
class Cost:
    """Every known figure of one candidate, by metric (see `METRICS`; users may add their own)."""

    estimates: Mapping[str, Estimate] = field(default_factory=dict)

    def get(self, metric: str) -> float | None:
        """Mean of a metric, or None where it is not known."""
        estimate = self.estimates.get(metric)
        return None if estimate is None else estimate.mean

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds per batch."""
        return self.get("latency_ms")

    @property
    def energy_mj(self) -> float | None:
        """Millijoules per batch."""
        return self.get("energy_mj")

    @property
    def macs(self) -> float | None:
        """Multiply-accumulates per sample (FLOPs = 2 × MACs)."""
        return self.get("macs")

    @property
    def params(self) -> float | None:
        """Number of parameters."""
        return self.get("params")

    @property
    def memory_bytes(self) -> float | None:
        """Weights and peak activations in bytes."""
        return self.get("memory_bytes")

    def to_dict(self) -> dict[str, dict[str, float | str]]:
        """Plain values for JSON."""
        return {
            metric: {"mean": e.mean, "std": e.std, "source": e.source}
            for metric, e in self.estimates.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, float | str]]) -> Cost:
        """The inverse of `to_dict`."""
        return cls(
            {
                metric: Estimate(float(e["mean"]), float(e["std"]), str(e["source"]))
                for metric, e in data.items()
            }
        )


@dataclass(frozen=True)
class Costs(Sequence[Cost]):
    """Costs of N candidates, kept as arrays: what `CostModel.predict` returns.

    Attributes:
        mean: metric → (N,) float64.
        std: metric → (N,) float64.
        source: metric → (N,) array of str (see `Estimate.source`).
    """

    mean: Mapping[str, Floats]
    std: Mapping[str, Floats]
    source: Mapping[str, npt.NDArray[np.str_]]

    def __len__(self) -> int:
        return len(next(iter(self.mean.values()))) if self.mean else 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Costs(
                {m: v[index] for m, v in self.mean.items()},
                {m: v[index] for m, v in self.std.items()},
                {m: v[index] for m, v in self.source.items()},
            )
        return Cost(
            {
                m: Estimate(float(v[index]), float(self.std[m][index]), str(self.source[m][index]))
                for m, v in self.mean.items()
            }
        )

    def __iter__(self) -> Iterator[Cost]:
        return (self[i] for i in range(len(self)))

    def upper(self, metric: str, z: float = 1.645) -> Floats:
        """(N,) one-sided upper bounds of a metric."""
        return self.mean[metric] + z * self.std[metric]

    @classmethod
    def exact(cls, values: Mapping[str, npt.ArrayLike]) -> Costs:
        """Costs that were counted, not estimated: metric → (N,) values."""
        mean = {m: np.asarray(v, dtype=np.float64) for m, v in values.items()}
        return cls(
            mean,
            {m: np.zeros_like(v) for m, v in mean.items()},
            {m: np.full(v.shape, "exact") for m, v in mean.items()},
        )

    def merged(self, other: Costs) -> Costs:
        """Both sets of metrics; `other` wins where both have one."""
        return Costs(
            {**self.mean, **other.mean},
            {**self.std, **other.std},
            {**self.source, **other.source},
        )
