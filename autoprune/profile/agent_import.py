"""Imports the agent's modules out of the one file that they are sent in.

It is the beginning of that file: Python 3.9 and its standard library, and nothing else of
autoprune.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class Modules(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds and loads modules by their sources, before any that are installed.

    They are compiled under the names of their files, so that a traceback tells where it was.

    Args:
        sources: of each module, by its full name.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._packages = {name[:at] for name in sources for at, c in enumerate(name) if c == "."}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """A module of ours, or a package of them."""
        if fullname in self._sources or fullname in self._packages:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def is_package(self, fullname: str) -> bool:
        """Whether it is a package, which holds nothing but its modules."""
        return fullname in self._packages

    def get_source(self, fullname: str) -> str:
        """The source of a module."""
        return self._sources.get(fullname, "")

    def get_filename(self, fullname: str) -> str:
        """What the file of a module is called."""
        end = "/__init__.py" if self.is_package(fullname) else ".py"
        return fullname.replace(".", "/") + end


def install(sources: Mapping[str, str]) -> None:
    """From now on, import these modules by their names."""
    sys.meta_path.insert(0, Modules(sources))
