"""The search space, its definitions in YAML, and the projection of points onto a budget."""

from autoprune.space.projection import check_feasible, least_possible, project
from autoprune.space.rules import GroupRule
from autoprune.space.schema import SpaceDefinition, available, load_space
from autoprune.space.space import Decision, SearchSpace

__all__ = [
    "Decision",
    "GroupRule",
    "SearchSpace",
    "SpaceDefinition",
    "available",
    "check_feasible",
    "least_possible",
    "load_space",
    "project",
]
