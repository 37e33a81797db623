"""A pretrained CIFAR-10 ResNet at a budget of MACs, as a search sees it."""

from __future__ import annotations

import torch

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost
from autoprune.cost.analytic import AnalyticCost
from autoprune.evaluate.base import Evaluator
from autoprune.graph import trace
from autoprune.pruning.obs import ReconstructionImportance
from autoprune.searchers.base import SearchContext
from autoprune.space.schema import load_space
from autoprune.study.evaluation import CandidateEvaluator
from examples import cifar10, resnet_cifar


class Setting:
    """The network, its residual streams kept, and what its candidates are built and counted with.

    Args:
        name: of `examples/resnet_cifar.py`, with "imagenet" normalisation.
        macs: the budget, such as "0.5x".
    """

    def __init__(self, name: str, macs: str) -> None:
        model = getattr(resnet_cifar, name)().to(memory_format=torch.channels_last)
        self.network = trace(model, resnet_cifar.example_inputs())
        self.calibration = cifar10.calibration(400)
        self._cost_model = AnalyticCost()
        self._space = load_space("resnet-inner").build(self.network, None)
        dense = self.cost(self.network.dense)
        self._budget = Budget.parse({"macs": macs}).absolute(dense)

    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate costs."""
        cost: Cost = self._cost_model.predict(self.network.workload(candidate))[0]
        return cost

    def context(self, trials: int | None, seed: int) -> SearchContext:
        """What a searcher is given."""
        return SearchContext(self._space, self._budget, self._cost_model, trials=trials, seed=seed)

    def evaluator(self, evaluate: Evaluator) -> CandidateEvaluator:
        """Of candidates, as in a search."""
        return CandidateEvaluator(
            self.network,
            evaluate,
            importance=ReconstructionImportance(self.calibration),
            calibration=self.calibration,
        )
