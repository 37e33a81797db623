"""Searchers: ask and tell, knowing nothing of models or devices."""

from autoprune.searchers.base import SearchContext, Searcher
from autoprune.searchers.registry import make_searcher, names

__all__ = ["SearchContext", "Searcher", "make_searcher", "names"]
