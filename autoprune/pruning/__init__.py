"""Importance, surgery, masking, and what is done to a pruned network afterwards."""

from autoprune.pruning.graph_module import GraphNetwork
from autoprune.pruning.importance import BatchNormScale, Importance, Norm, Taylor, scores
from autoprune.pruning.mask import mask
from autoprune.pruning.plan import load, save
from autoprune.pruning.record import PruneRecord
from autoprune.pruning.selection import select
from autoprune.pruning.surgery import apply, prune, verify

__all__ = [
    "BatchNormScale",
    "GraphNetwork",
    "Importance",
    "Norm",
    "PruneRecord",
    "Taylor",
    "apply",
    "load",
    "mask",
    "prune",
    "save",
    "scores",
    "select",
    "verify",
]
