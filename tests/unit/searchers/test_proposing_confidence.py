"""How careful a searcher is with an uncertain cost model is told by its context."""

import dataclasses

import numpy as np
import pytest

from autoprune.core.cost import Costs
from autoprune.cost.base import CostModel
from autoprune.searchers import make_searcher
from autoprune.testing.problems import SyntheticProblem
from autoprune.testing.searchers import make_context


class Unsure(CostModel):
    """MACs that may be off by a tenth."""

    def __init__(self, exact):
        self.exact = exact

    @property
    def metrics(self):
        return ("macs",)

    def predict(self, workloads):
        costs = self.exact.predict(workloads)
        mean = costs.mean["macs"]
        return Costs({"macs": mean}, {"macs": 0.1 * mean}, {"macs": np.full(len(mean), "table")})


@pytest.mark.parametrize("name", ["uniform", "random", "tpe", "evolve", "amc"])
def test_less_confidence_uses_more_of_the_budget(name):
    problem = SyntheticProblem.resnet(blocks=2)
    context = make_context(problem)
    context = dataclasses.replace(context, cost_model=Unsure(context.cost_model), trials=4)
    limit = context.budget.limits["macs"].value
    used = {}
    for z in (0.0, 1.645):
        searcher = make_searcher(name, dataclasses.replace(context, z=z))
        found = searcher.suggest(3)
        macs = context.cost_model.predict(context.space.kernels.workloads(found)).mean["macs"]
        assert (macs * (1 + z * 0.1) <= limit * (1 + 1e-6)).all()
        used[z] = macs.max()
    assert used[0.0] > 1.05 * used[1.645]
