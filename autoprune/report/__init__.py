"""What a person sees of a result: closing tables and pictures of the search."""

from autoprune.report.draw import draw, run_folder
from autoprune.report.explain import explain_picture, explain_table
from autoprune.report.family import family_picture, family_table
from autoprune.report.pareto import front_picture, front_table
from autoprune.report.scatter import scatter
from autoprune.report.summary import plain, summary

__all__ = [
    "draw",
    "explain_picture",
    "explain_table",
    "family_picture",
    "family_table",
    "front_picture",
    "front_table",
    "plain",
    "run_folder",
    "scatter",
    "summary",
]
