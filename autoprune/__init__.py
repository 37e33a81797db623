"""Hardware-aware AutoML search for pruning: name a budget, get a smaller network that holds it.

Everything here is loaded when it is first used, so `import autoprune` is cheap and a bare device
that only measures needs neither torch nor a searcher.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.core.budget import Budget
    from autoprune.core.candidate import Candidate
    from autoprune.core.cost import Cost, Costs, Estimate
    from autoprune.core.device import Artifact, DeviceSpec, Measurement, MeasuringProtocol, Profiler
    from autoprune.core.errors import AutopruneError
    from autoprune.core.trial import Trial
    from autoprune.cost.analytic import AnalyticCost
    from autoprune.cost.base import CostModel
    from autoprune.cost.table import LatencyTable
    from autoprune.graph import ChannelGroup, Network, trace
    from autoprune.pruning import load, mask, prune, save
    from autoprune.report.draw import draw
    from autoprune.searchers.base import SearchContext, Searcher
    from autoprune.space.space import SearchSpace
    from autoprune.study import Result, pick, resume, search

__version__ = version("autoprune")

_WHERE = {
    "AnalyticCost": "cost.analytic",
    "Artifact": "core.device",
    "AutopruneError": "core.errors",
    "Budget": "core.budget",
    "Candidate": "core.candidate",
    "ChannelGroup": "graph",
    "Cost": "core.cost",
    "CostModel": "cost.base",
    "Costs": "core.cost",
    "DeviceSpec": "core.device",
    "Estimate": "core.cost",
    "LatencyTable": "cost.table",
    "Measurement": "core.device",
    "MeasuringProtocol": "core.device",
    "Network": "graph",
    "Profiler": "core.device",
    "Result": "study",
    "SearchContext": "searchers.base",
    "SearchSpace": "space.space",
    "Searcher": "searchers.base",
    "Trial": "core.trial",
    "draw": "report.draw",
    "load": "pruning",
    "mask": "pruning",
    "pick": "study",
    "prune": "pruning",
    "resume": "study",
    "save": "pruning",
    "search": "study",
    "trace": "graph",
}

__all__ = [
    "AnalyticCost",
    "Artifact",
    "AutopruneError",
    "Budget",
    "Candidate",
    "ChannelGroup",
    "Cost",
    "CostModel",
    "Costs",
    "DeviceSpec",
    "Estimate",
    "LatencyTable",
    "Measurement",
    "MeasuringProtocol",
    "Network",
    "Profiler",
    "Result",
    "SearchContext",
    "SearchSpace",
    "Searcher",
    "Trial",
    "draw",
    "load",
    "mask",
    "pick",
    "prune",
    "resume",
    "save",
    "search",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(import_module(f"autoprune.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
