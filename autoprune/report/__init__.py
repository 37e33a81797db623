"""What a person sees of a result: the closing table and a picture of the search."""

from autoprune.report.scatter import scatter
from autoprune.report.summary import plain, summary

__all__ = ["plain", "scatter", "summary"]
