"""A session whose network and device are formulas."""

from dataclasses import dataclass

import numpy as np

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Costs
from autoprune.core.device import DeviceSpec, Measurement
from autoprune.core.workload import KernelGraph
from autoprune.cost.base import Combined, CostModel
from autoprune.evaluate import Outcome
from autoprune.space.space import SearchSpace
from autoprune.study.config import validate
from autoprune.study.evaluation import Phases
from autoprune.study.progress import Progress
from autoprune.study.session import Session
from autoprune.study.store import Store
from autoprune.study.task import Task
from autoprune.testing.problems import ShapeCost, SyntheticProblem

PROBLEM = SyntheticProblem.resnet(blocks=1)
UNITS = dict(zip(PROBLEM.kernels.groups, PROBLEM.kernels.units.tolist(), strict=True))


class Optimist(CostModel):
    """Predicts `bias` times the true latency; a correction moves it to what was measured."""

    def __init__(self, bias=1.0, learns=True):
        self.bias, self.learns, self.corrections = bias, learns, 0
        self.reference_ms = 10.0

    @property
    def metrics(self):
        return ("latency_ms",)

    def predict(self, workloads):
        mean = self.bias * true_ms(workloads.kept)
        return Costs(
            {"latency_ms": mean},
            {"latency_ms": 0.001 * mean},
            {"latency_ms": np.full(len(mean), "table")},
        )

    def update(self, workloads, measurements):
        self.corrections += 1
        if self.learns:
            ratio = np.array([m.ratio for m in measurements])
            self.bias = float(np.mean(ratio * 10.0 / true_ms(workloads.kept)))


def true_ms(kept):
    share = (np.asarray(kept) / PROBLEM.kernels.units).mean(axis=-1)
    return 10.0 * share


@dataclass
class FormulaNetwork:
    """What a session asks of a traced network."""

    kernels: KernelGraph
    model: object = None

    @property
    def dense(self):
        return self.kernels.dense

    def workload(self, candidate):
        return self.kernels.workloads([candidate])

    def workloads(self, candidates):
        return self.kernels.workloads(candidates)


class FormulaDevice:
    spec = DeviceSpec("formula", "none", "1")

    def __init__(self, fails=False):
        self.calls = []
        self.fails = fails

    def candidates(self, candidates, effort):
        self.calls.append(len(candidates))
        if self.fails:
            return [Measurement(c.key, error="out of order") for c in candidates]
        ratios = true_ms(PROBLEM.kernels.kept(candidates)) / 10.0
        return [
            Measurement(
                c.key,
                latency_ms=9.0 * r,
                latency_interval_ms=(9.0 * r * 0.999, 9.0 * r * 1.001),
                ratio=r,
                ratio_interval=(r * 0.999, r * 1.001),
                samples_ms=(9.0 * r,),
                reference_ms=(9.0,),
                stopped="interval",
            )
            for c, r in zip(candidates, ratios.tolist(), strict=True)
        ]


def session(model=None, *, budget=None, device=None, store=None, progress=None, **settings):
    config = validate(
        {"budget": budget or {"latency": "0.6x"}, "trials": 24, "searcher": "random", **settings},
        "test",
    )
    task = Task(config, None, (None,), lambda model: {"accuracy": 0.9})
    model = model or Optimist()
    return Session(
        task,
        FormulaNetwork(PROBLEM.kernels),
        store or Store(None, "run", UNITS),
        cost_model=Combined(ShapeCost(), model),
        space=SearchSpace.from_network(PROBLEM),
        device=device or FormulaDevice(),
        reference_ms=model.reference_ms,
        progress=progress or Progress(),
        phases=Phases(),
    )


def evaluate(candidate: Candidate) -> Outcome:
    return Outcome(PROBLEM.evaluate(candidate))
