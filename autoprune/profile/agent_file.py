"""The agent as one file of Python, made of the modules that a runtime needs.

It is a program: it holds their sources, imports them by their own names (`agent_import`), and
serves. The same modules always give the same bytes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib import resources

from autoprune.profile.agent_runtimes import RUNTIMES

#: What becomes the agent, and what stands before all of it.
AGENT, IMPORT = "autoprune.profile.agent", "autoprune.profile.agent_import"

_PACKAGE = "autoprune"


def build(runtime: str) -> bytes:
    """The file.

    Args:
        runtime: a key of `agent_runtimes.RUNTIMES`; the others are not in it.
    """
    sources = "".join(
        f"    {name!r}: {source(name).decode()!r},\n" for name in sorted(modules(runtime))
    )
    return b"".join(
        (
            source(IMPORT),
            f"\n\ninstall({{\n{sources}}})\n\nfrom {AGENT} import serve\n\nserve()\n".encode(),
        )
    )


@cache
def source(module: str) -> bytes:
    """The file of a module."""
    package, _, name = module.rpartition(".")
    return resources.files(package).joinpath(f"{name}.py").read_bytes()


@cache
def modules(runtime: str) -> frozenset[str]:
    """Names of the modules that the agent needs for a runtime: what it imports, and what these do.

    Args:
        runtime: as of `build`.
    """
    found: set[str] = set()
    wanted = [AGENT, RUNTIMES[runtime].partition(":")[0]]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += _ours(ast.parse(source(name)))
    return frozenset(found)


def _ours(tree: ast.AST) -> list[str]:
    """Modules of autoprune that one imports, anywhere in it."""
    return [
        name
        for name in imported(tree)
        if name.startswith(f"{_PACKAGE}.")
        and resources.files(_PACKAGE).joinpath(*name.split(".")[1:-1], _file(name)).is_file()
    ]


def _file(module: str) -> str:
    return f"{module.rpartition('.')[2]}.py"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names that are imported, of modules and of what is in them; not those for type checkers."""
    if isinstance(tree, ast.If) and getattr(tree.test, "id", "") == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom) and tree.module:
        yield tree.module
        yield from (f"{tree.module}.{alias.name}" for alias in tree.names)
    for child in ast.iter_child_nodes(tree):
        yield from imported(child)
