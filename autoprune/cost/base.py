"""The contract of a cost model: predicted, vectorised, no device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from autoprune.core.cost import Costs
from autoprune.core.device import Measurement
from autoprune.core.workload import Workloads


class CostModel(ABC):
    """Predicts what candidates cost."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics it predicts."""

    @abstractmethod
    def predict(self, workloads: Workloads) -> Costs:
        """Costs of N candidates, each figure with its standard deviation and source."""

    def update(self, workloads: Workloads, measurements: Sequence[Measurement]) -> None:
        """Learn from end-to-end measurements of N candidates; nothing to learn by default."""
        del workloads, measurements

    def narrowed(self, metrics: Collection[str]) -> CostModel:
        """A model that predicts at least these metrics, as this one does, and may be quicker."""
        del metrics
        return self


class Combined(CostModel):
    """Several cost models as one; where two predict a metric, the later one's figure counts."""

    def __init__(self, *models: CostModel) -> None:
        self.models = models

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that any of them predicts."""
        return tuple(dict.fromkeys(m for model in self.models for m in model.metrics))

    def predict(self, workloads: Workloads) -> Costs:
        """Predict with each model and merge."""
        costs = self.models[0].predict(workloads)
        for model in self.models[1:]:
            costs = costs.merged(model.predict(workloads))
        return costs

    def narrowed(self, metrics: Collection[str]) -> CostModel:
        """The models that predict any of these metrics, narrowed themselves."""
        wanted = [m.narrowed(metrics) for m in self.models if set(metrics) & set(m.metrics)]
        return Combined(*wanted) if wanted else self

    def update(self, workloads: Workloads, measurements: Sequence[Measurement]) -> None:
        """Let each model learn."""
        for model in self.models:
            model.update(workloads, measurements)
